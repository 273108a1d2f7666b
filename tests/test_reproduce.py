"""The commands that `pneumoseg reproduce` runs: those that make stale files again, and no others."""

import itertools
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pneumoseg.cli import app, reproduce

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PREPARED = ["index", "train", "train", "assemble", "cache-predictions", "tune"]
WHOLE = [*PREPARED, "submit", "validate-submission"]


class House:
    """A data set of empty files, two experiments, and a stand-in for the commands, which makes empty files."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.data, self.ran = folder, folder / "data", []
        for name in ("dicom-images-train/a/b/1.dcm", "dicom-images-train/a/c/2.dcm", "stage_2_images/t.dcm"):
            self.write(f"data/{name}")
        self.write("data/train-rle.csv")
        self.write("data/sample_submission.csv")
        self.experiments = [
            self.write(f"{kind[0]}.yaml", (EXPERIMENTS / f"{name}.yaml").read_text())
            for kind, name in (("classifier", "demo_classifier"), ("segmenter", "demo_segmenter"))
        ]
        self.fails = None
        monkeypatch.setattr(reproduce, "_run", self._command)

    def _command(self, command):
        self.ran.append(list(command))
        if command[0] == self.fails:
            raise typer.Exit(3)
        options = dict(itertools.pairwise(command))
        out, name = options.get("--out"), {
            "train": "metrics.json", "assemble": "pipeline.json", "cache-predictions": "predictions.csv",
        }.get(command[0])  # fmt: skip
        if command[0] == "tune":
            out, name = options["--pipeline"], "tuning.json"
        if command[0] == "export":
            export = f"{options['--engine']}-{options['--precision']}"
            out, name = Path(options["--pipeline"], "engines", export), "export.json"
        if out and command[0] not in ("evaluate", "validate-submission"):
            path = Path(out, name) if name else Path(out)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path)

    def write(self, name, text="", age=0):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if age:
            os.utime(path, (time.time() - age,) * 2)
        return path

    def run(self, *words, data=None, experiments=None):
        """Invoke the command; give its outcome."""
        self.ran.clear()
        chosen = self.experiments if experiments is None else experiments
        named = [word for path in chosen for word in ("--experiment", str(path))]
        arguments = ["reproduce", str(data or self.data), *words, "--runs", str(self.folder / "runs"), *named]
        return CliRunner().invoke(app, arguments)

    def lines(self, *words, **options):
        """Invoke the command; give the commands that it ran, as text."""
        outcome = self.run(*words, **options)
        assert outcome.exit_code == 0, outcome.output + repr(outcome.exception)
        return [" ".join(command) for command in self.ran]

    def commands(self, *words, **options):
        return [line.split()[0] for line in self.lines(*words, **options)]


@pytest.fixture
def house(tmp_path, monkeypatch):
    return House(tmp_path, monkeypatch)


def test_nothing_is_made_twice(house):
    assert house.commands("submit") == WHOLE
    assert house.commands("submit") == ["validate-submission"]
    assert house.commands("evaluate", "submit", "evaluate") == ["evaluate", "validate-submission"]


def test_all_results_are_made_by_default(house):
    assert house.commands() == [*WHOLE, "evaluate", "report"]


def test_commands_are_those_of_the_documentation(house):
    runs, data = house.folder / "runs", house.data
    index, classifier, segmenter, assemble, cache, tune, submit, check = house.lines("submit")
    assert index == f"index {data}/dicom-images-train {data}/train-rle.csv --out {runs}/manifest.csv"
    assert classifier == f"train {house.folder}/c.yaml --manifest {runs}/manifest.csv --out {runs}/c --resume"
    assert segmenter == f"train {house.folder}/s.yaml --manifest {runs}/manifest.csv --out {runs}/s --resume"
    assert assemble == f"assemble {runs}/c {runs}/s --out {runs}/pipeline"
    kept = f"{runs}/predictions/validation"
    assert cache == f"cache-predictions --manifest {runs}/manifest.csv --pipeline {runs}/pipeline --out {kept}"
    assert tune == f"tune --predictions {kept} --pipeline {runs}/pipeline --fraction 0.5"
    written, sample = f"{runs}/submission.csv", f"{data}/sample_submission.csv"
    assert submit == f"submit {data}/stage_2_images --pipeline {runs}/pipeline --out {written} --ids {sample}"
    assert check == f"validate-submission {written} --expected {sample}"


def add(house):
    house.write("data/dicom-images-train/a/b/3.dcm")


def add_older(house):
    house.write("data/dicom-images-train/a/b/c/d/3.DCM", age=1e6)


def remove(house):
    (house.data / "dicom-images-train/a/c/2.dcm").unlink()


def replace(house):
    house.write("data/dicom-images-train/a/c/2.dcm", "other pixels", age=1e6)


def add_behind_a_link(house):
    house.write("elsewhere/study/4.dcm", age=1e6)
    (house.data / "dicom-images-train/linked").symlink_to(house.folder / "elsewhere")


def add_id_map(house):
    house.write("data/nih_id.csv", age=1e6)


def replace_annotations(house):
    house.write("data/train-rle.csv", "ImageId,EncodedPixels", age=1e6)


def remove_annotations_for_those_of_stage_2(house):
    (house.data / "train-rle.csv").rename(house.data / "stage_2_train.csv")


def copy_of_the_data(house):
    """All as old as before, under another name."""
    house.data = Path(shutil.copytree(house.data, house.folder / "copy", copy_function=shutil.copy2))


@pytest.mark.parametrize(
    "change",
    [
        add, add_older, remove, replace, add_behind_a_link, add_id_map, replace_annotations,
        remove_annotations_for_those_of_stage_2, copy_of_the_data,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_other_training_data_are_trained_on(house, change):
    house.commands("submit")
    change(house)
    assert house.commands("submit") == (WHOLE)
    assert house.commands("submit") == ["validate-submission"]


def test_other_names_are_other_data(house):
    for name in ("other", "dicom-images-test"):
        shutil.copytree(house.data / "dicom-images-train", house.data / name, copy_function=shutil.copy2)
    shutil.copy2(house.data / "train-rle.csv", house.data / "other.csv")
    house.write("data/map.csv", age=1e6)
    house.commands("submit")
    assert house.commands("submit", "--train", str(house.data / "other")) == WHOLE
    for option, name in (("--annotations", "other.csv"), ("--id-map", "map.csv")):
        assert house.commands("submit", option, str(house.data / name)) == WHOLE
        assert house.commands("submit") == WHOLE
    test = str(house.data / "dicom-images-test")
    assert house.commands("submit", "--test", test) == ["submit", "validate-submission"]


@pytest.mark.parametrize(("listed", "mapped"), [("tt", [False, True]), ("t", [True, True])])
def test_id_map_is_used_for_the_test_images_where_it_lists_them(house, listed, mapped):
    house.write("data/test-rle.csv", "ImageId,EncodedPixels\nt,-1\n")
    house.write("data/nih_id.csv", f"Kaggle_ID,NIH_ID\n1,00000007_000.png\n{listed},00000008_000.png\n")
    lines = [line for line in house.lines("evaluate") if line.startswith("index")]
    assert sorted("--id-map" in line for line in lines) == mapped


@pytest.mark.parametrize("words", [["", "submit"], ["data", "submit", "--train", ""], ["data", "--runs", ""]])
def test_an_empty_name_is_refused(house, words):
    outcome = CliRunner().invoke(app, ["reproduce", *words])
    assert outcome.exit_code == 2
    assert "is empty: name a file or a folder" in outcome.output
    assert not house.ran


def test_a_tilde_that_a_shell_left_is_home(house, monkeypatch):
    monkeypatch.setenv("HOME", str(house.folder))
    assert house.lines("index", data="~/data/")[0].startswith(f"index {house.data}/dicom-images-train ")


def test_names_with_spaces_and_signs_are_names(house):
    house.data = house.data.rename(house.folder / "it's my $data; (siim)")
    assert house.commands("submit") == WHOLE
    assert house.commands("submit") == ["validate-submission"]


def test_other_files_next_to_the_images_change_nothing(house):
    house.commands("submit")
    house.write("data/dicom-images-train/a/notes.txt")
    assert house.commands("submit", data=f"{house.data}/") == ["validate-submission"]


def test_other_test_images_are_submitted(house):
    house.commands("submit")
    house.write("data/stage_2_images/deep/u.dcm", age=1e6)
    assert house.commands("submit") == ["submit", "validate-submission"]


def test_other_ids_are_submitted(house):
    house.commands("submit")
    house.write("data/sample_submission.csv", "ImageId,EncodedPixels\nt,-1\n", age=1e6)
    assert house.commands("submit") == ["submit", "validate-submission"]
    other = house.write("data/other.csv", age=1e6)
    assert house.commands("submit", "--sample", str(other)) == ["submit", "validate-submission"]
    assert house.commands("submit", "--sample", str(other)) == ["validate-submission"]


def test_other_test_images_are_scored(house):
    house.write("data/test-rle.csv")
    assert house.commands("evaluate").count("index") == 2
    assert house.commands("evaluate") == ["evaluate"]
    house.write("data/stage_2_images/deep/u.dcm", age=1e6)
    assert house.commands("evaluate") == ["index", "cache-predictions", "evaluate"]
    house.write("data/test-rle.csv", "other masks", age=1e6)
    assert house.commands("evaluate") == ["index", "cache-predictions", "evaluate"]


def test_rule_is_chosen_on_half_where_the_masks_of_the_test_images_are_not_known(house):
    """Chosen on all of them before, no image would be left to score."""
    truth = house.write("data/test-rle.csv")
    lines = house.lines("report")
    assert next(line for line in lines if line.startswith("tune")).endswith("--fraction 1")
    assert f"--predictions {house.folder}/runs/predictions/test" in lines[-1]
    truth.unlink()
    lines = house.lines("report")
    assert [line.split()[0] for line in lines] == ["tune", "report"]
    assert lines[0].endswith("--fraction 0.5")
    assert f"--predictions {house.folder}/runs/predictions/validation" in lines[1]
    flipped = house.lines("report", "--flip")
    assert [line.split()[0] for line in flipped] == ["cache-predictions", "report"]
    assert flipped[0].endswith("--flip")
    assert flipped[1].endswith(f"--compare {house.folder}/runs/predictions/flip")
    assert house.commands("report") == ["report"]


def test_files_that_an_experiment_is_based_on_are_part_of_it(house):
    base = house.write("deep/base.yaml", house.experiments[0].read_text(), age=100)
    house.write("deep/middle.yaml", f"based_on: {base}\nseed: 3\n", age=100)
    house.write("c.yaml", "based_on: deep/middle.yaml\nseed: 4\n", age=100)
    house.commands("submit")
    base.write_text(base.read_text() + "\n")
    assert house.commands("train-segmenter") == []
    assert house.commands("train-classifier") == ["train"]


def test_another_experiment_of_the_same_name_is_another(house):
    other = house.write("more/c.yaml", house.experiments[0].read_text(), age=100)
    house.commands("train-classifier", experiments=house.experiments[:1])
    assert house.commands("train-classifier", experiments=[other]) == ["train"]


def test_papers_experiments_are_the_default(house, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    lines = [line for line in house.lines("submit", experiments=[]) if line.startswith("train")]
    assert [line.split()[1] for line in lines] == [
        "experiments/classifier_augmentation.yaml",
        "experiments/segmenter_window_swa.yaml",
    ]
    lines = house.lines("submit", experiments=house.experiments[1:])
    assert [line.split()[1] for line in lines if line.startswith("train")] == [str(house.experiments[1])]


def test_experiments_that_do_not_matter_are_refused(house):
    outcome = house.run("train-segmenter", experiments=house.experiments[:1])
    assert "c.yaml is not an experiment of a segmenter" in str(outcome.exception)
    outcome = house.run("submit", experiments=[house.experiments[0]] * 2)
    assert "are both experiments of a classifier" in str(outcome.exception)
    assert not house.ran


def test_missing_files_are_named_before_anything_is_trained(house):
    for name, option in (("sample_submission.csv", "--sample"), ("train-rle.csv", "--annotations")):
        (house.data / name).rename(house.data / "away")
        outcome = house.run("submit")
        assert isinstance(outcome.exception, FileNotFoundError)
        assert re.search(rf"\.csv: no such file; .*{option}", str(outcome.exception))
        assert not house.ran
        (house.data / "away").rename(house.data / name)
    assert house.commands("submit") == WHOLE


def test_missing_sample_matters_only_to_a_submission(house):
    (house.data / "sample_submission.csv").unlink()
    assert house.commands("train-classifier") == ["index", "train"]


def test_other_runs_make_another_pipeline(house):
    found = []
    for name in ("one", "one", "two", "two", "one"):
        experiment = house.write(f"{name}.yaml", house.experiments[0].read_text(), age=100)
        os.utime(experiment, (1e9, 1e9))
        found += [
            line for line in house.lines("tune", experiments=[experiment, house.experiments[1]]) if "assemble" in line
        ]
    runs = house.folder / "runs"
    assert [line.split()[1] for line in found] == [f"{runs}/{name}" for name in ("one", "two", "one")]


def test_assembled_rule_is_used_where_asked(house):
    """Also after another rule was chosen."""
    made = [house.lines("submit", "show-predictions", *words) for words in ([], [], ["--no-tune"], ["--no-tune"], [])]
    commands = [[line.split()[0] for line in lines] for lines in made[1:]]
    again, nothing = ["submit", "validate-submission", "show-masks"], ["validate-submission"]
    assert commands == [nothing, again, nothing, again]
    lines = [line for lines in made for line in lines if line.startswith(("submit", "show-masks"))]
    assert ["--assembled" in line for line in lines] == [False, False, True, True, False, False]


@pytest.mark.parametrize(("engine", "images"), [("openvino-int8", "--calibrate"), ("onnx-float32", "--images")])
def test_an_export_is_made_and_used_where_an_engine_is_asked_for(house, engine, images):
    lines = house.lines("submit", "show-predictions", "--engine", engine)
    made = [line.split()[0] for line in lines]
    assert made == [*PREPARED[:4], "export", *PREPARED[4:], "submit", "validate-submission", "show-masks"]
    library, precision = engine.split("-")
    index, pipeline = house.folder / "runs/manifest.csv", house.folder / "runs/pipeline"
    assert lines[4] == f"export --pipeline {pipeline} --engine {library} --precision {precision} {images} {index}"
    using = [line.split()[0] for line in lines if line.endswith(f" --engine {engine}")]
    assert using == ["cache-predictions", "submit", "show-masks"]
    assert house.commands("submit", "--engine", engine) == ["validate-submission"]
    # Keras needs no export, and gives other predictions.
    assert house.commands("submit") == ["cache-predictions", "tune", "submit", "validate-submission"]


def test_the_backend_reaches_the_trainings_and_makes_nothing_stale(house):
    lines = house.lines("submit", "--backend", "jax")
    assert [line.endswith("--resume --backend jax") for line in lines] == [False, True, True] + 5 * [False]
    assert house.commands("submit") == ["validate-submission"]
    error = house.run("submit", "--backend", "torch").exception
    assert str(error) == "unknown backend 'torch', expected tensorflow or jax"
    assert house.ran == []


@pytest.mark.parametrize("engine", ["openvino", "torch", "onnx-bfloat16", "openvino-int8-"])
def test_an_unknown_engine_is_refused(house, engine):
    error = house.run("submit", "--engine", engine).exception
    assert isinstance(error, ValueError)
    assert f"--engine is '{engine}', expected keras, openvino-float32, " in str(error)


def test_a_failed_command_ends_everything_and_is_repeated(house):
    house.fails = "assemble"
    outcome = house.run("submit")
    assert outcome.exit_code == 3
    assert [command[0] for command in house.ran] == ["index", "train", "train", "assemble"]
    house.fails = None
    assert house.commands("submit") == WHOLE[3:]


def test_a_stale_file_of_a_failed_command_stays_stale(house):
    house.commands("index")
    add(house)
    house.fails = "index"
    house.run("index")
    house.fails = None
    remove_again = house.data / "dicom-images-train/a/b/3.dcm"
    remove_again.unlink()
    assert house.commands("index") == ["index"]


def test_removed_files_are_made_again(house):
    house.commands("submit")
    (house.folder / "runs/pipeline/tuning.json").unlink()
    assert house.commands("submit") == ["tune", "submit", "validate-submission"]


def test_replaced_files_are_made_again(house):
    house.commands("submit")
    (house.folder / "runs/pipeline/tuning.json").write_text("by hand")
    assert house.commands("submit") == ["tune", "submit", "validate-submission"]


def test_other_bundles_of_a_run_make_another_pipeline(house):
    house.commands("tune")
    house.write("runs/s/swa/spec.json", "{}")
    assert house.commands("tune") == ["assemble", "cache-predictions", "tune"]
    house.write("runs/s/swa_2-3.json", "{}")
    assert house.commands("tune") == ["assemble", "cache-predictions", "tune"]
    assert house.commands("tune") == []


def test_the_bundle_that_a_training_starts_from_is_part_of_it(house):
    start = house.write("earlier/best/spec.json", "{}")
    settings = house.experiments[1].read_text() + f"\nstart_from: {start.parent}\n"
    house.experiments[1].write_text(settings)
    house.commands("train-segmenter")
    start.write_text("{ }")
    assert house.commands("train-segmenter") == ["train"]


@pytest.mark.parametrize("name", ["pipeline", "predictions", "scores", "test", "cache", "s"])
def test_experiments_whose_runs_would_overwrite_something_are_refused(house, name):
    other = house.write(f"more/{name}.yaml", house.experiments[0].read_text())
    outcome = house.run("submit", experiments=[other, house.experiments[1]])
    assert "a run bears the name of its experiment file" in str(outcome.exception)
    assert not house.ran


def test_dry_run_prints_the_commands_and_changes_nothing(house):
    house.commands("submit")
    add(house)
    outcome = house.run("submit", "--dry-run")
    assert not house.ran
    assert [line.split()[:2] for line in outcome.output.splitlines()] == [["pneumoseg", name] for name in WHOLE]
    assert house.commands("submit") == WHOLE


def test_a_real_command_runs_in_a_process_of_its_own(tmp_path):
    outcome = CliRunner().invoke(app, ["reproduce", str(tmp_path / "absent"), "index"])
    assert isinstance(outcome.exception, FileNotFoundError)
    with pytest.raises(typer.Exit) as status:
        reproduce._run(["validate-submission", str(tmp_path / "absent.csv"), "--expected", str(tmp_path)])
    assert status.value.exit_code == 2
