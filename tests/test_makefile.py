"""What make asks for, with a command in place of ours that notes it: what changed is made again, and nothing else."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = """#!/bin/sh
echo "$@" >> {asked}
command=$1
while [ $# -gt 1 ]; do
    [ "$1" = --out ] && out=$2
    [ "$1" = --pipeline ] && pipeline=$2
    shift
done
case $command in
index | submit | report | show-*) made=$out ;;
train-*) made=$out/metrics.json ;;
assemble) made=$out/pipeline.json ;;
predict) made=$out/predictions.csv ;;
tune) made=$pipeline/tuning.json ;;
*) exit 0 ;;
esac
mkdir -p "$(dirname "$made")"
touch "$made"
"""
WHOLE = ["index", "train-classifier", "train-segmenter", "assemble", "predict", "tune", "submit", "validate-submission"]


class House:
    """A data set of empty files, two experiments, and make."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / "data"
        for name in ("dicom-images-train/a/b/1.dcm", "dicom-images-train/a/c/2.dcm", "stage_2_images/t.dcm"):
            self.write(f"data/{name}")
        self.write("data/train-rle.csv")
        self.write("data/sample_submission.csv")
        self.write("c.yaml")
        self.write("s.yaml")
        self.asked = folder / "asked"
        command = self.write("bin/pneumoseg", COMMAND.format(asked=self.asked))
        command.chmod(0o755)

    def write(self, name, text="", age=0):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if age:
            os.utime(path, (time.time() - age,) * 2)
        return path

    def run(self, *goals, options=(), **variables):
        """Let make run; gives its outcome."""
        time.sleep(0.02)
        values = {
            "BIN": self.folder / "bin",
            "INSTALLED": self.folder / "bin/pneumoseg",
            "DATA": self.data,
            "RUNS": self.folder / "runs",
            "CLASSIFIER_EXPERIMENT": self.folder / "c.yaml",
            "SEGMENTER_EXPERIMENT": self.folder / "s.yaml",
        } | variables
        command = ["make", *options, *goals, *(f"{name}={value}" for name, value in values.items())]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    def lines(self, *goals, **variables):
        """What make asked for."""
        self.asked.unlink(missing_ok=True)
        finished = self.run(*goals, **variables)
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        return self.asked.read_text().splitlines() if self.asked.exists() else []

    def commands(self, *goals, **variables):
        return [line.split()[0] for line in self.lines(*goals, **variables)]


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_what_is_there_is_not_made_again(house):
    assert house.commands("submit") == WHOLE
    assert house.commands("submit") == ["validate-submission"]
    told = house.run("submit", options=["-n"]).stdout
    assert [name for name in WHOLE if f"pneumoseg {name} " in told] == ["validate-submission"]


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


def copy_of_the_data(house):
    """All as old as before, under another name."""
    house.data = Path(shutil.copytree(house.data, house.folder / "copy", copy_function=shutil.copy2))


@pytest.mark.parametrize(
    "change",
    [add, add_older, remove, replace, add_behind_a_link, add_id_map, replace_annotations, copy_of_the_data],
    ids=lambda change: change.__name__,
)
def test_other_training_data_are_trained_on(house, change):
    house.commands("submit")
    change(house)
    assert house.commands("submit") == WHOLE
    assert house.commands("submit") == ["validate-submission"]


def test_other_names_are_other_data(house):
    for name in ("other", "dicom-images-test"):
        shutil.copytree(house.data / "dicom-images-train", house.data / name, copy_function=shutil.copy2)
    shutil.copy2(house.data / "train-rle.csv", house.data / "other.csv")
    house.write("data/map.csv", age=1e6)
    house.commands("submit")
    assert house.commands("submit", TRAIN=house.data / "other") == WHOLE
    for variables in ({"ANNOTATIONS": house.data / "other.csv"}, {"ID_MAP": house.data / "map.csv"}):
        assert "index" in house.commands("submit", **variables)
        house.commands("submit")
    assert house.commands("submit", TEST=house.data / "dicom-images-test") == ["submit", "validate-submission"]


def test_the_id_map_is_the_test_images_too_where_it_lists_them(house):
    house.write("data/test-rle.csv", "ImageId,EncodedPixels\nt,-1\n")

    def told():
        lines = house.run("evaluate", options=["-n"]).stdout.splitlines()
        return ["--id-map" in line for line in lines if "pneumoseg index" in line]

    house.write("data/nih_id.csv", "Kaggle_ID,NIH_ID\n1,00000007_000.png\ntt,00000008_000.png\n")
    assert told() == [True, False]
    house.write("data/nih_id.csv", "Kaggle_ID,NIH_ID\n1,00000007_000.png\nt,00000008_000.png\n")
    assert told() == [True, True]


@pytest.mark.parametrize("name", ["DATA", "RUNS", "TEST"])
def test_an_empty_name_is_refused(house, name):
    finished = house.run("submit", **{name: ""})
    assert finished.returncode == 2
    assert f"{name} is empty: name a file or a folder" in finished.stderr
    assert not house.asked.exists()


def test_other_files_beside_the_images_change_nothing(house):
    house.commands("submit")
    house.write("data/dicom-images-train/a/notes.txt")
    assert house.commands("submit", DATA=f"{house.data}/") == ["validate-submission"]


def test_folder_that_links_to_itself_is_listed_once(house):
    (house.data / "dicom-images-train/a/again").symlink_to(house.data / "dicom-images-train")
    assert house.commands("submit") == WHOLE
    assert house.commands("submit") == ["validate-submission"]


def test_other_test_images_are_submitted(house):
    house.commands("submit")
    house.write("data/stage_2_images/deep/u.dcm", age=1e6)
    assert house.commands("submit") == ["submit", "validate-submission"]


def test_other_test_images_are_scored(house):
    house.write("data/test-rle.csv")
    first = house.lines("evaluate")
    assert [line.split()[0] for line in first].count("index") == 2
    assert house.commands("evaluate") == ["evaluate"]
    house.write("data/stage_2_images/deep/u.dcm", age=1e6)
    assert house.commands("evaluate") == ["index", "predict", "evaluate"]
    house.write("data/test-rle.csv", "other masks", age=1e6)
    assert house.commands("evaluate") == ["index", "predict", "evaluate"]


def test_rule_is_chosen_on_half_where_the_test_images_are_not_known(house):
    """Chosen on all of them before, no image would be left to score."""
    truth = house.write("data/test-rle.csv")
    assert "--share 1" in " ".join(house.lines("report"))
    truth.unlink()
    lines = house.lines("report")
    assert [line.split()[0] for line in lines] == ["tune", "report"]
    assert lines[0].endswith("--share 0.5")
    assert f"--predictions {house.folder}/runs/predictions/validation" in lines[1]
    assert house.commands("report", FLIP="yes") == ["predict", "report"]
    assert house.commands("report", FLIP="no") == ["report"]


@pytest.mark.parametrize("base", ["base.yaml", "'base.yaml'   # the paper's", '"base.yaml"', "{folder}/deep/base.yaml"])
def test_what_an_experiment_is_based_on_is_part_of_it(house, base):
    house.write("c.yaml", "seed: 3\nbased_on: deep/middle.yaml\n", age=100)
    house.write("deep/middle.yaml", f"based_on: {base.format(folder=house.folder)}\nseed: 3\n", age=100)
    house.write("deep/base.yaml", "kind: classifier\n", age=100)
    house.write("s.yaml", "based_on: s.yaml\n", age=100)  # pneumoseg tells that it is based on itself
    house.commands("submit")
    house.write("deep/base.yaml", "kind: classifier\nseed: 4\n")
    assert house.commands("train-segmenter") == []
    assert house.commands("train-classifier") == ["train-classifier"]


def test_another_experiment_of_the_same_name_is_another(house):
    house.write("more/c.yaml", age=100)
    house.commands("train-classifier")
    assert house.commands("train-classifier", CLASSIFIER_EXPERIMENT=house.folder / "more/c.yaml") == [
        "train-classifier"
    ]


def test_missing_files_are_named_before_anything_is_trained(house):
    for name, variable in (("sample_submission.csv", "SAMPLE"), ("train-rle.csv", "ANNOTATIONS")):
        (house.data / name).rename(house.data / "away")
        finished = house.run("submit")
        assert finished.returncode == 2
        assert re.search(rf"\.csv: no such file; .*{variable}=", finished.stderr)
        assert not house.asked.exists()
        (house.data / "away").rename(house.data / name)
    assert house.commands("submit") == WHOLE


NAMES = ("DATA", "RUNS", "TRAIN", "TEST", "ANNOTATIONS", "SAMPLE", "ID_MAP", "EXPERIMENT", "CLASSIFIER_EXPERIMENT")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["my runs", "runs "])
def test_names_with_spaces_are_refused_at_the_top(house, name, value):
    finished = house.run("train-classifier", **{name: value})
    assert finished.returncode == 2
    assert f"*** {name}='{value}': make cannot handle a name with space; choose another name" in finished.stderr
    assert not house.asked.exists()


@pytest.mark.parametrize("character", "$#%:;&|<>()'\"`\\*?[]\t")
def test_names_that_make_or_the_shell_would_misread_are_refused(house, character):
    finished = house.run("train-classifier", RUNS=f"{house.folder}/a{character}b")
    assert finished.returncode == 2
    assert "make cannot handle a name with" in finished.stderr
    assert sorted(path.name for path in house.folder.iterdir()) == ["bin", "c.yaml", "data", "s.yaml"]


def test_names_of_the_environment_are_checked_as_well(house, monkeypatch):
    monkeypatch.setenv("SEGMENTER_EXPERIMENT", "my segmenter.yaml")
    finished = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "SEGMENTER_EXPERIMENT='my segmenter.yaml'" in finished.stderr


@pytest.mark.parametrize("character", "=+,@!{}^_-é~")
def test_other_characters_pass(house, character):
    runs = house.folder / f"a{character}b"
    assert house.commands("submit", RUNS=runs) == WHOLE
    assert house.commands("submit", RUNS=f"{runs}/") == ["validate-submission"]
    assert (runs / "c/metrics.json").exists()


def test_tilde_that_a_shell_left_is_home(house, monkeypatch):
    """As zsh and sh leave that of `make DATA=~/siim`."""
    monkeypatch.setenv("HOME", str(house.folder))
    lines = house.lines("submit", DATA="~/data/", RUNS="~/runs")
    assert lines[0].startswith(f"index {house.data}/dicom-images-train {house.data}/train-rle.csv")
    assert house.commands("submit") == ["validate-submission"]


def test_help_needs_nothing(tmp_path):
    finished = subprocess.run(
        ["make", "help", f"DATA={tmp_path}/absent"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "make submit" in finished.stdout
    assert finished.stderr == ""


@pytest.mark.parametrize(
    ("goal", "chosen", "trained"),
    [
        ("train-classifier", "", "train-classifier experiments/classifier_augmentation.yaml"),
        ("train-segmenter", "", "train-segmenter experiments/segmenter_window_swa.yaml"),
        ("train-classifier", "experiments/classifier_small.yaml", "train-classifier experiments/classifier_small.yaml"),
        ("train-segmenter", "experiments/segmenter_small.yaml", "train-segmenter experiments/segmenter_small.yaml"),
    ],
)
def test_papers_experiment_or_the_chosen_one_is_trained(goal, chosen, trained, tmp_path):
    (tmp_path / "train-rle.csv").touch()
    command = ["make", "-n", goal, f"DATA={tmp_path}", f"RUNS={tmp_path}", f"EXPERIMENT={chosen}"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = [line for line in finished.stdout.splitlines() if "pneumoseg train" in line]
    assert f"pneumoseg {trained} --manifest {tmp_path}/manifest.csv" in line
    assert line.endswith("--resume")
    assert "overriding" not in finished.stderr


def test_pipeline_is_assembled_again_where_other_runs_are_named(house):
    for run in ("one", "two", "s"):
        (house.folder / "runs" / run / "best").mkdir(parents=True)
        house.write(f"{run}.yaml")
    classifiers = []
    for name in ("one", "one", "two", "two", "one"):
        goal, experiment = house.folder / "runs/pipeline/pipeline.json", house.folder / f"{name}.yaml"
        lines = house.lines(goal, CLASSIFIER_EXPERIMENT=experiment)
        classifiers += [line.split("--classifier ")[1].split()[0] for line in lines if line.startswith("assemble")]
    assert classifiers == [f"{house.folder}/runs/{name}/best" for name in ("one", "two", "one")]


def test_assembled_rule_is_kept_where_asked(house):
    """Also after another rule was chosen; and folds of either network are averaged."""
    for name in ("c/fold_1/best", "c/fold_2/best", "s/fold_1/swa", "s/fold_1/best"):
        (house.folder / "runs" / name).mkdir(parents=True)
    lines = [house.lines("submit", "show-predictions", TUNE=tune) for tune in ("yes", "yes", "no", "no", "yes")]
    (assembled,) = [line for line in lines[0] if line.startswith("assemble")]
    bundles = ("classifier {}/c/fold_1/best", "classifier {}/c/fold_2/best", "segmenter {}/s/fold_1/swa")
    assert assembled.split(" --")[2:] == [bundle.format(house.folder / "runs") for bundle in bundles]
    commands = [[line.split()[0] for line in each] for each in lines[1:]]
    again, nothing = ["submit", "validate-submission", "show-masks"], ["validate-submission"]
    assert commands == [nothing, again, nothing, again]
    made = [line for each in lines for line in each if line.startswith(("submit", "show-masks"))]
    assert ["--assembled" in line for line in made] == [False, False, True, True, False, False]
