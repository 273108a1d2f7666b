"""The commands a user types, from a folder of DICOM files to scores."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml
from typer.testing import CliRunner

import pneumoseg
from pneumoseg.cli import app, main
from pneumoseg.config import load_experiment
from pneumoseg.data.index import load_manifest, save_manifest
from pneumoseg.data.loaders import classification_examples
from pneumoseg.models.bundle import load_bundle
from tests.conftest import write_dicom

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
COMMAND = Path(sys.executable).parent / "pneumoseg"


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def small_experiment(name, folder):
    settings = yaml.safe_load((EXPERIMENTS / f"demo_{name}.yaml").read_text())
    settings |= {"image_size": 32, "batch_size": 8}
    settings["split"]["validation_fraction"] = 0.5  # the few positive patients do not fill five folds
    settings["phases"] = [
        {"epochs": 1, "learning_rate": 0.01, "trainable": "head" if name == "classifier" else "second_half"},
        {"epochs": 2, "learning_rate": 0.001, "trainable": "all"},
    ]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def runs(generated, tmp_path_factory):
    """The whole way, once."""
    runs = tmp_path_factory.mktemp("runs")
    manifest = runs / "manifest.csv"
    with pytest.warns(UserWarning, match="left out"):
        out = invoke(
            "index", generated / "dicom-images-train", generated / "train-rle.csv", "--out", manifest,
            "--id-map", generated / "nih_id.csv",
        )  # fmt: skip
    assert "40 images, 9 positive" in out
    for name in ("classifier", "segmenter"):
        experiment = small_experiment(name, runs)
        invoke("train", experiment, "--manifest", manifest, "--out", runs / name)
    invoke(
        "assemble", runs / "classifier", runs / "segmenter", "--out", runs / "pipeline",
        "--classifier-threshold", 0, "--minimum-area", 0,
    )  # fmt: skip
    return runs


@pytest.mark.parametrize(("name", "monitor"), [("classifier", "mcc"), ("segmenter", "iou")])
def test_run_holds_all_that_was_done(runs, name, monitor):
    run = runs / name
    assert {path.name for path in run.iterdir()} == {
        "settings.yaml", "split.csv", "environment.json", "history.csv", "metrics.json", "curves.png", "tensorboard",
        "best", *(["validation_predictions.csv"] if name == "classifier" else []),
    }  # fmt: skip
    assert yaml.safe_load((run / "settings.yaml").read_text())["phases"][1]["epochs"] == 2
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["learning_rate"].tolist() == pytest.approx([0.01, 0.001, 0.001])
    metrics = json.loads((run / "metrics.json").read_text())
    best = history.loc[history[f"val_{monitor}"].idxmax()]
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics[f"val_{monitor}"] == pytest.approx(best[f"val_{monitor}"])
    bundle = load_bundle(run / "best")
    assert (bundle.builder, bundle.arguments["image_size"]) == (name, 32)
    assert json.loads((run / "environment.json").read_text())["tensorflow"]


def test_both_networks_share_one_split(runs):
    manifest = load_manifest(runs / "manifest.csv")
    classifier, segmenter = (pd.read_csv(runs / name / "split.csv") for name in ("classifier", "segmenter"))
    assert sorted(classifier["image_id"]) == manifest["image_id"].tolist()
    both = segmenter.merge(classifier, on="image_id")
    assert len(both) == len(segmenter)
    assert (both["split_x"] == both["split_y"]).all()
    positive = manifest.set_index("image_id")["has_pneumothorax"]
    assert segmenter["image_id"].map(positive).sum() == 9


def test_settings_of_a_run_can_be_run_again(runs):
    assert load_experiment(runs / "classifier/settings.yaml") == load_experiment(runs / "classifier.yaml")


def test_finished_run_is_not_overwritten(runs):
    with pytest.raises(FileExistsError, match="holds a finished run"):
        invoke(
            "train",
            runs / "classifier.yaml",
            "--manifest",
            runs / "manifest.csv",
            "--out",
            runs / "classifier",
        )


def test_submission_of_the_test_folder_is_valid(runs, generated, tmp_path):
    test, out = tmp_path / "test", tmp_path / "submission.csv"
    shutil.copytree(generated / "dicom-images-test", test)
    broken = sorted(test.iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:900])
    said = invoke("submit", test, "--pipeline", runs / "pipeline", "--out", out)
    assert "12 rows" in said
    assert "1 UNREADABLE FILES" in said
    assert pd.read_csv(tmp_path / "submission.errors.csv")["ImageId"].tolist() == [broken.stem]
    sample = generated / "stage_2_sample_submission.csv"
    said = invoke("validate-submission", out, "--expected", sample, "--rows", 128, "--columns", 128)
    assert "valid, 12 rows" in said
    out.write_text(out.read_text().replace(broken.stem, "ID_other"))
    result = CliRunner().invoke(app, ["validate-submission", str(out), "--expected", str(sample)])
    assert result.exit_code == 1
    assert f"{broken.stem}: missing" in result.output


@pytest.fixture(scope="module")
def cached(runs, generated):
    """Predictions of the test folder, and of the training folder's images that neither network was trained on."""
    test_manifest = runs / "test.csv"
    invoke("index", generated / "dicom-images-test", generated / "test-rle.csv", "--out", test_manifest)
    splits = pd.concat([pd.read_csv(runs / name / "split.csv") for name in ("classifier", "segmenter")])
    trained_on = set(splits.loc[splits["split"] == "train", "image_id"])
    for name, manifest in (("test", test_manifest), ("validation", runs / "manifest.csv")):
        out = runs / "predictions" / name
        said = invoke("cache-predictions", "--manifest", manifest, "--pipeline", runs / "pipeline", "--out", out)
        images = set(load_manifest(manifest)["image_id"]) - trained_on
        assert len(images) == (12 if name == "test" else 40 - len(trained_on))
        assert f"{len(images)} images, " in said
        assert set(load_manifest(out / "manifest.csv")["image_id"]) == images
    return runs / "predictions"


@pytest.fixture
def pipeline(runs, tmp_path):
    """A copy that may be tuned."""
    return Path(shutil.copytree(runs / "pipeline", tmp_path / "pipeline"))


def test_scores_come_with_the_baseline(runs, cached, tmp_path):
    said = invoke(
        "evaluate", "--predictions", cached / "test", "--pipeline", runs / "pipeline", "--out", tmp_path / "scores"
    )
    assert "12 images, 3 positive" in said
    variants = pd.read_csv(tmp_path / "scores/variants.csv", index_col=0)
    assert variants.loc["all-empty baseline", "mean_dice"] == pytest.approx(1 - 3 / 12)  # 22% of 12 are 3
    # The pipeline's classifier lets every image pass, and its minimum area is 0: all four variants are the same.
    assert variants["mean_dice"].drop("all-empty baseline").nunique() == 1
    cases = pd.read_csv(tmp_path / "scores/cases.csv")
    assert cases["dice"].mean() == pytest.approx(variants["mean_dice"].iloc[0])


def test_tuned_rule_is_used_and_its_images_are_not_scored(cached, pipeline, tmp_path, caplog):
    # The test images: in validation are too few positive patients to divide.
    options = ("--predictions", cached / "test", "--pipeline", pipeline)
    said = invoke("tune", *options, "--fraction", 0.5)
    assert "classifier_threshold" in said
    chosen = json.loads((pipeline / "tuning.json").read_text())
    assert len(chosen["image_ids"]) == 6
    with caplog.at_level("INFO", "pneumoseg"):
        result = CliRunner().invoke(app, ["evaluate", *map(str, options), "--out", str(tmp_path)])
    assert "6 images left out: the decision rule was chosen on them" in caplog.text
    scored = pd.read_csv(tmp_path / "cases.csv")["image_id"]
    assert not set(scored) & set(chosen["image_ids"])
    assert "staged + elimination (tuned)" in result.output
    invoke("tune", *options)
    with pytest.raises(ValueError, match="tune on a fraction of these"):
        invoke("evaluate", *options)


def test_predictions_of_other_networks_are_refused(runs, cached, tmp_path):
    invoke("assemble", runs / "classifier/best", runs / "segmenter/best", "--flip", "--out", tmp_path / "flipped")
    with pytest.raises(ValueError, match="or another --flip setting"):
        invoke("evaluate", "--predictions", cached / "test", "--pipeline", tmp_path / "flipped")


def test_report_of_runs_and_variants(runs, cached, tmp_path):
    invoke(
        "cache-predictions", "--manifest", runs / "test.csv", "--pipeline", runs / "pipeline", "--out",
        tmp_path / "flip", "--flip",
    )  # fmt: skip
    invoke(
        "report", "--predictions", cached / "test", "--pipeline", runs / "pipeline", "--out", tmp_path / "report.html",
        "--compare", tmp_path / "flip", "--max-images", 5,
    )  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert page.count("<li data-dice") == 5
    for text in ("Run classifier", "Run segmenter", "best epoch", '<th scope="row">flip</th>'):
        assert text in page


def test_unreadable_images_are_not_scored_in_silence(runs, tmp_path):
    manifest = load_manifest(runs / "test.csv").head(4)
    manifest.loc[1, "path"] = str(tmp_path / "moved.dcm")
    save_manifest(manifest, tmp_path / "manifest.csv")
    said = invoke(
        "cache-predictions", "--manifest", tmp_path / "manifest.csv", "--pipeline", runs / "pipeline",
        "--out", tmp_path / "p",
    )  # fmt: skip
    assert "1 UNREADABLE FILES" in said
    result = CliRunner().invoke(
        app, ["evaluate", "--predictions", str(tmp_path / "p"), "--pipeline", str(runs / "pipeline")]
    )
    assert result.exit_code == 1
    assert "1 UNREADABLE FILES" in result.output
    with pytest.raises(FileNotFoundError, match=r"1 of 4 files are missing, index .* again; the first: .*moved\.dcm"):
        classification_examples(manifest, 32, cache_dir=tmp_path)


def test_labels_alone_score_the_classifier(runs, cached, pipeline, tmp_path, caplog):
    """Five images with a label alone, one of the three positives among them, then twelve."""
    few, twelve = load_manifest(runs / "test.csv"), load_manifest(runs / "test.csv").assign(rle="")
    few.loc[[few["has_pneumothorax"].idxmax(), 6, 7, 8, 9], "rle"] = ""  # all positives are before these four
    for name, manifest in (("few", few), ("all", twelve)):
        save_manifest(manifest, tmp_path / f"{name}.csv")
        invoke(
            "cache-predictions", "--manifest", tmp_path / f"{name}.csv", "--pipeline", pipeline, "--out",
            tmp_path / name,
        )  # fmt: skip
    of_few, of_all = (("--predictions", tmp_path / name, "--pipeline", pipeline) for name in ("few", "all"))
    with caplog.at_level("INFO", "pneumoseg"):
        said = invoke("evaluate", *of_few, "--out", tmp_path / "scores_of_few")
    assert "5 of 12 images left out of the segmentation scores: they have a label and no mask" in caplog.text
    assert "7 images with masks, 2 positive; the classifier's scores are of all 12 images, 3 posi" in said
    said = invoke("evaluate", *of_all, "--out", tmp_path / "scores_of_all")
    assert "12 images, 3 positive, all with a label and without a mask, so that only the classifier can be " in said
    assert "Mean Dice" not in said
    assert [path.name for path in (tmp_path / "scores_of_all").iterdir()] == ["classifier.csv"]
    tables = [(tmp_path / f"scores_of_{name}" / "classifier.csv").read_text() for name in ("few", "all")]
    assert tables[0] == tables[1]
    with pytest.raises(ValueError, match="no masks for the segmentation scores: all 12 images have a label alone"):
        invoke("report", *of_all, "--out", tmp_path / "report.html")
    with pytest.raises(ValueError, match="no masks for the choice of the decision rule: all 12 images"):
        invoke("tune", *of_all)
    with pytest.raises(ValueError, match="no masks for show-masks: all 12 images"):
        invoke("show-masks", "--manifest", tmp_path / "all.csv", "--out", tmp_path / "masks.png")
    invoke("show-masks", "--manifest", tmp_path / "few.csv", "--out", tmp_path / "masks.png")
    assert (tmp_path / "masks.png").exists()


def test_masks_are_drawn(runs, tmp_path):
    with pytest.raises(ValueError, match="--engine is onnx, and only a pipeline runs on an engine: name one with"):
        invoke("show-masks", "--manifest", "absent.csv", "--out", tmp_path / "masks.png", "--engine", "onnx")
    invoke("show-masks", "--manifest", runs / "manifest.csv", "--out", tmp_path / "masks.png", "--count", 2)
    assert (tmp_path / "masks.png").read_bytes().startswith(b"\x89PNG")
    invoke(
        "show-masks", "--manifest", runs / "manifest.csv", "--out", tmp_path / "predicted.png", "--count", 2,
        "--pipeline", runs / "pipeline",
    )  # fmt: skip
    assert (tmp_path / "predicted.png").exists()


def test_augmentations_are_drawn(runs, tmp_path):
    invoke("show-augmentations", "--manifest", runs / "manifest.csv", "--out", tmp_path / "a.png", "--count", 1)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_compared(runs, tmp_path):
    said = invoke("compare", runs / "classifier", runs / "classifier", "--out", tmp_path / "both.png")
    assert "mcc_gain" in said
    table = pd.read_csv(tmp_path / "both.csv")
    assert table["run"].tolist() == ["classifier"] * 2
    metrics = json.loads((runs / "classifier/metrics.json").read_text())
    assert table["mcc"].tolist() == pytest.approx([metrics["val_mcc"]] * 2)
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_epochs_are_averaged_by_command(runs, tmp_path):
    settings = yaml.safe_load((runs / "segmenter.yaml").read_text()) | {"epoch_weights_gigabytes": 1.0}
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(settings))
    manifest = runs / "manifest.csv"
    invoke("train", tmp_path / "kept.yaml", "--manifest", manifest, "--out", tmp_path / "run")
    said = invoke("swa", tmp_path / "run", "--epochs", "2-3", "--manifest", manifest)
    assert "swa_2-3: validation IoU" in said
    assert load_bundle(tmp_path / "run/swa_2-3").builder == "segmenter"
    assert (tmp_path / "run/swa_2-3.png").read_bytes().startswith(b"\x89PNG")


def test_average_below_the_best_epoch_is_told_when_it_is_assembled(runs, tmp_path):
    run = Path(shutil.copytree(runs / "segmenter", tmp_path / "run"))
    shutil.copytree(run / "best", run / "swa")
    metrics = json.loads((run / "metrics.json").read_text())
    for average, told in ((0.25, True), (0.75, False)):
        (run / "metrics.json").write_text(json.dumps(metrics | {"val_iou": 0.5, "swa_val_iou": average}))
        said = invoke("assemble", runs / "classifier", run, "--out", tmp_path / "p")
        assert (
            "swa: the averaged weights have a validation IoU of 0.2500, below the best epoch's 0.5000" in said
        ) == told


def test_training_that_diverges_ends_with_one_line_and_status_two(runs, tmp_path):
    """A learning rate of 1e38 takes the weights out of float32 within an epoch."""
    settings = yaml.safe_load((runs / "segmenter.yaml").read_text())
    settings["phases"] = [{"epochs": 1, "learning_rate": 1e-3, "trainable": "all"}]
    settings["phases"] += [{"epochs": 2, "learning_rate": 1e38, "trainable": "all"}]
    (tmp_path / "wild.yaml").write_text(yaml.safe_dump(settings))
    arguments = (
        "train",
        tmp_path / "wild.yaml",
        "--manifest",
        runs / "manifest.csv",
        "--out",
        tmp_path / "run",
    )
    for options in ((), ("--resume",)):
        finished = run_command(*arguments, *options)
        assert finished.returncode == 2
        assert re.search(
            r"pneumoseg: .*run: the training diverged in epoch 2, .*kept are the epochs up to 1", finished.stderr
        )
        assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run/metrics.json").exists()
    assert all(np.isfinite(weights).all() for weights in load_bundle(tmp_path / "run/best").model.get_weights())


def test_cross_validation_by_command(runs, tmp_path):
    settings = yaml.safe_load((runs / "classifier.yaml").read_text()) | {"cross_validate": True}
    (tmp_path / "folds.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["train", tmp_path / "folds.yaml", "--manifest", runs / "manifest.csv", "--out"]
    invoke(*arguments, tmp_path / "run")
    assert len(pd.read_csv(tmp_path / "run/validation_predictions.csv")) == 40
    assert "mcc_gain" in invoke("compare", tmp_path / "run", tmp_path / "run", "--out", tmp_path / "c.png")


def test_submission_has_the_ids_that_are_asked_for(runs, generated, tmp_path):
    """As in stage 1: more files than ids, ids that repeat, and an id without a file."""
    test, out, sample = tmp_path / "test", tmp_path / "submission.csv", tmp_path / "sample.csv"
    shutil.copytree(generated / "dicom-images-test", test)
    names = [path.stem for path in sorted(test.iterdir())]
    sample.write_text(
        "\n".join(["ImageId,EncodedPixels", *(f"{name},-1" for name in ["absent", *names[2:], names[5]])])
    )
    damaged = test / f"{names[0]}.dcm"  # not asked for, and so not read
    damaged.write_bytes(b"damaged")
    said = invoke("submit", test, "--pipeline", runs / "pipeline", "--out", out, "--ids", sample)
    assert "11 rows" in said
    assert "1 without a file" in said
    assert "2 of 12 files are left out: their ids are not asked for" in said
    assert "1 IDS WITHOUT A FILE, submitted as -1" in said
    assert "UNREADABLE" not in said
    assert pd.read_csv(out)["ImageId"].tolist() == [*names[2:], "absent"]
    assert (tmp_path / "submission.errors.csv").read_text() == "ImageId,error\nabsent,no file has this name\n"
    assert "valid, 11 rows" in invoke("validate-submission", out, "--expected", sample, "--rows", 128, "--columns", 128)


def test_a_test_folder_of_doubles_links_and_junk_gives_a_valid_submission(runs, generated, tmp_path):
    test, out = tmp_path / "test", tmp_path / "submission.csv"
    shutil.copytree(generated / "dicom-images-test", test / "one")
    first, second = sorted((test / "one").iterdir())[:2]
    (test / "two").mkdir()
    shutil.copy(first, test / "two")  # the same image again
    shutil.copy(second, test / "two")
    second.write_bytes(b"damaged")  # the other file of this name is read instead
    (test / "loop").symlink_to(test)
    (test / "one" / f"._{first.name}").write_bytes(b"junk")
    (test / "__MACOSX").mkdir()
    (test / "__MACOSX/x.dcm").write_bytes(b"junk")
    Path(os.fsdecode(os.path.join(os.fsencode(test), b"caf\xe9.dcm"))).write_bytes(first.read_bytes())
    said = invoke("submit", test, "--pipeline", runs / "pipeline", "--out", out)
    assert "12 rows" in said
    assert "3 FILES LEFT OUT" in said
    assert "UNREADABLE" not in said
    sample = generated / "stage_2_sample_submission.csv"
    assert "valid, 12 rows" in invoke("validate-submission", out, "--expected", sample, "--rows", 128, "--columns", 128)
    errors = pd.read_csv(tmp_path / "submission.errors.csv").set_index("ImageId")["error"]
    assert errors[first.stem] == f"{test / 'two' / first.name}: same name as {first}"
    assert errors[second.stem] == f"{second}: same name as {test / 'two' / second.name}"
    assert errors["caf\\udce9"].endswith("its name is not UTF-8, rename it")


def test_a_file_replaced_since_indexing_is_not_scored_in_silence(runs, generated, tmp_path):
    manifest = load_manifest(runs / "test.csv").head(3)
    write_dicom(tmp_path / "other.dcm", np.zeros((100, 90), np.uint8))
    manifest.loc[1, "path"] = str(tmp_path / "other.dcm")
    save_manifest(manifest, tmp_path / "manifest.csv")
    out, table = tmp_path / "cached", tmp_path / "manifest.csv"
    said = invoke("cache-predictions", "--manifest", table, "--pipeline", runs / "pipeline", "--out", out)
    assert "1 UNREADABLE FILES" in said
    table = pd.read_csv(out / "predictions.csv")
    assert "is 100 x 90 pixels and was 128 x 128 when it was indexed" in table["error"][1]
    assert table["probability"].isna().tolist() == [False, True, False]


OUTPUTS = [
    ("synthesize", "{out}", "--train", "2", "--test", "1"),
    ("index", "absent", "absent", "--out", "{out}"),
    ("show-masks", "--manifest", "absent.csv", "--out", "{out}"),
    ("show-augmentations", "--manifest", "absent.csv", "--out", "{out}"),
    ("train", "absent", "--manifest", "absent.csv", "--out", "{out}"),
    ("sweep", "absent", "--manifest", "absent.csv", "--out", "{out}"),
    ("swa", "absent", "--epochs", "1-2", "--manifest", "absent.csv", "--out", "{out}"),
    ("compare", "absent", "--out", "{out}"),
    ("assemble", "absent", "--out", "{out}"),
    ("cache-predictions", "--manifest", "absent.csv", "--pipeline", "absent", "--out", "{out}"),
    ("predict", "absent", "--pipeline", "absent", "--out", "{out}"),
    ("listen", "--pipeline", "absent", "--spool", "{out}", "--accept", "A", "--to", "A@[::1]:104"),
    ("submit", "absent", "--pipeline", "absent", "--out", "{out}"),
    ("evaluate", "--predictions", "absent", "--pipeline", "absent", "--out", "{out}"),
    ("report", "--predictions", "absent", "--pipeline", "absent", "--out", "{out}"),
]
FOLDERS = {"synthesize", "train", "sweep", "swa", "assemble", "cache-predictions", "predict", "listen", "evaluate"}


def test_every_command_that_writes_is_among_the_outputs():
    names = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    others = {
        "validate-submission",
        "tune",
        "export",
        "reproduce",
        "queue",
        "dicom",
    }  # `dicom` names no path in its messages
    assert names - {arguments[0] for arguments in OUTPUTS} == others


@pytest.mark.parametrize("arguments", OUTPUTS, ids=lambda arguments: arguments[0])
def test_outputs_are_checked_before_anything_is_read(arguments, tmp_path):
    """Each command is told of inputs that do not exist; the output that cannot be written is what it says first."""

    def said(out):
        words = [word.format(out=out) for word in arguments]
        return CliRunner().invoke(app, words).exception

    (tmp_path / "file").touch()
    assert str(said(tmp_path / "file/below")) == (
        f"{tmp_path / 'file/below'} cannot be written (File exists: {tmp_path / 'file'}): name another place"
    )
    if arguments[0] in FOLDERS:
        assert "is a file: name a folder to write" in str(said(tmp_path / "file"))
    else:
        assert "is a folder: name a file to write" in str(said(tmp_path))
    error = said(tmp_path / "new/deep/out")
    assert arguments[0] == "synthesize" or error is not None
    assert (tmp_path / "new/deep").is_dir()


def test_an_output_on_a_disk_that_takes_no_file_is_named(monkeypatch, tmp_path):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    error = CliRunner().invoke(app, ["tune", "--predictions", "absent", "--pipeline", str(tmp_path)]).exception
    assert f"{tmp_path} cannot be written (Read-only file system: {tmp_path})" in str(error)
    error = CliRunner().invoke(app, ["index", "absent", "absent", "--out", str(tmp_path / "manifest.csv")]).exception
    assert f"{tmp_path / 'manifest.csv'} cannot be written (Read-only file system: {tmp_path})" in str(error)


@pytest.mark.parametrize(
    ("kind", "message", "said"),
    [
        (tf.errors.InvalidArgumentError, "Invalid JPEG data\n\t [[{{node DecodeJpeg}}]]", "Invalid JPEG data"),
        (
            tf.errors.ResourceExhaustedError,
            "OOM when allocating\nHint: ...",
            "OOM when allocating; take a smaller batch_size (and gradient_accumulation_steps), or precision: "
            "mixed_float16",
        ),
    ],
)
def test_an_error_of_the_graph_is_one_line(kind, message, said, monkeypatch, capsys):
    def fail():
        raise kind(None, None, message)

    monkeypatch.setattr(sys.modules["pneumoseg.cli.app"], "app", fail)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which `main` replaces
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"pneumoseg: TensorFlow stopped ({kind.__name__}): {said}\n"


@pytest.mark.usefixtures("capsys")
def test_a_stalled_download_ends(monkeypatch):
    limits = []
    monkeypatch.setattr(socket, "setdefaulttimeout", limits.append)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys.modules["pneumoseg.cli.app"], "app", lambda: None)
    main()
    assert limits == [20]


def run_command(*arguments):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_mistakes_end_with_one_line_and_status_two(tmp_path):
    for arguments, message in [
        (("index", tmp_path / "absent", tmp_path / "rle.csv"), "absent: no such folder"),
        (("train", "absent.yaml", "--manifest", "m.csv", "--out", tmp_path), "no such experiment file"),
        (("submit", tmp_path, "--pipeline", tmp_path), "no DICOM, PNG, JPEG or TIFF file"),
    ]:
        finished = run_command(*arguments)
        assert finished.returncode == 2
        assert message in finished.stderr
        assert "Traceback" not in finished.stderr


def test_help_does_not_import_what_is_slow_or_optional():
    heavy = ("tensorflow", "keras", "pandas", "pydicom", "pynetdicom", "highdicom", "requests")
    code = f"import sys, pneumoseg, pneumoseg.cli; print([name for name in {heavy} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
    assert finished.stderr == ""


def test_version():
    assert invoke("--version") == f"pneumoseg {pneumoseg.__version__}\n"


def test_help_lists_every_command():
    finished = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert finished.returncode == 0
    for command in app.registered_commands:
        assert command.callback.__name__.replace("_", "-") in finished.stdout
