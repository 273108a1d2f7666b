"""The commands a user types, from a folder of DICOM files to scores."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pneumoseg.cli import app
from pneumoseg.data.index import load_manifest, save_manifest
from pneumoseg.data.loaders import classification_examples
from pneumoseg.models.bundle import load_bundle

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
        invoke(f"train-{name}", experiment, "--manifest", manifest, "--out", runs / name)
    invoke(
        "assemble", "--classifier", runs / "classifier/best", "--segmenter", runs / "segmenter/best",
        "--out", runs / "pipeline", "--classifier-threshold", 0, "--minimum-area", 0,
    )  # fmt: skip
    return runs


@pytest.mark.parametrize(("name", "monitor"), [("classifier", "mcc"), ("segmenter", "iou")])
def test_run_holds_all_that_was_done(runs, name, monitor):
    run = runs / name
    assert {path.name for path in run.iterdir()} == {
        "settings.yaml", "split.csv", "environment.json", "history.csv", "metrics.json", "curves.png", "tensorboard",
        "best", *(["predictions.csv"] if name == "classifier" else []),
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
    assert (both["side_x"] == both["side_y"]).all()
    positive = manifest.set_index("image_id")["has_pneumothorax"]
    assert segmenter["image_id"].map(positive).sum() == 9


def test_settings_of_a_run_can_be_run_again(runs):
    from pneumoseg.config import load_classifier_settings

    assert load_classifier_settings(runs / "classifier/settings.yaml") == load_classifier_settings(
        runs / "classifier.yaml"
    )


def test_finished_run_is_not_overwritten(runs):
    with pytest.raises(FileExistsError, match="holds a finished run"):
        invoke(
            "train-classifier",
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


def test_scores_stand_beside_the_floor(runs, generated, tmp_path):
    test_manifest, scores = tmp_path / "manifest.csv", tmp_path / "scores.csv"
    invoke("index", generated / "dicom-images-test", generated / "test-rle.csv", "--out", test_manifest)
    invoke(
        "evaluate", "--manifest", test_manifest, "--pipeline", runs / "pipeline", "--out", scores,
        "--exclude-training", runs / "classifier",
    )  # fmt: skip
    table = pd.read_csv(scores, index_col="arm")
    assert table.index.tolist() == ["staged", "segmentation alone", "all empty"]
    assert table.loc["all empty", "mean_dice"] == pytest.approx(1 - 3 / 12)  # 22% of 12 are 3


def test_unreadable_images_are_not_scored_in_silence(runs, generated, tmp_path):
    manifest = load_manifest(runs / "manifest.csv").head(4)
    manifest.loc[1, "path"] = str(tmp_path / "moved.dcm")
    save_manifest(manifest, tmp_path / "manifest.csv")
    arguments = ["evaluate", "--manifest", tmp_path / "manifest.csv", "--pipeline", runs / "pipeline"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "UNREADABLE FILES" in result.output
    with pytest.raises(FileNotFoundError, match=r"1 of 4 files are gone, index anew; the first: .*moved\.dcm"):
        classification_examples(manifest, 32, cache_dir=tmp_path)


def test_masks_are_drawn(runs, tmp_path):
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
    invoke("train-segmenter", tmp_path / "kept.yaml", "--manifest", manifest, "--out", tmp_path / "run")
    said = invoke("swa", tmp_path / "run", "--epochs", "2-3", "--manifest", manifest)
    assert "swa_2-3: validation IoU" in said
    assert load_bundle(tmp_path / "run/swa_2-3").builder == "segmenter"
    assert (tmp_path / "run/swa_2-3.png").read_bytes().startswith(b"\x89PNG")


def test_cross_validation_by_command(runs, tmp_path):
    settings = yaml.safe_load((runs / "classifier.yaml").read_text()) | {"cross_validate": True}
    (tmp_path / "folds.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["train-classifier", tmp_path / "folds.yaml", "--manifest", runs / "manifest.csv", "--out"]
    invoke(*arguments, tmp_path / "run")
    assert len(pd.read_csv(tmp_path / "run/predictions.csv")) == 40
    assert "mcc_gain" in invoke("compare", tmp_path / "run", tmp_path / "run", "--out", tmp_path / "c.png")


def run_command(*arguments):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_mistakes_end_with_one_line_and_status_two(tmp_path):
    for arguments, message in [
        (("index", tmp_path / "absent", tmp_path / "rle.csv"), "absent: no such folder"),
        (("train-classifier", "absent.yaml", "--manifest", "m.csv", "--out", tmp_path), "no such experiment file"),
        (("submit", tmp_path, "--pipeline", tmp_path), "no .dcm file"),
    ]:
        finished = run_command(*arguments)
        assert finished.returncode == 2
        assert message in finished.stderr
        assert "Traceback" not in finished.stderr


def test_help_does_not_import_tensorflow():
    heavy = ("tensorflow", "keras", "pandas", "pydicom")
    code = f"import sys, pneumoseg, pneumoseg.cli; print([name for name in {heavy} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
    assert finished.stderr == ""


def test_help_lists_every_command():
    finished = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert finished.returncode == 0
    for command in app.registered_commands:
        assert command.callback.__name__.replace("_", "-") in finished.stdout
