"""Sweeps: which trials a file gives, which are trained, and what the table says."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import matthews_corrcoef
from typer.testing import CliRunner

from pneumoseg.cli import app
from pneumoseg.config import ConfigError, load_experiment
from pneumoseg.data.index import save_manifest
from pneumoseg.sweep.sweep_file import load_trials, trial_name
from pneumoseg.sweep.table import describe_table, sweep_table
from pneumoseg.sweep.trials import train_trials
from pneumoseg.training import jobs as training_jobs
from pneumoseg.training.run import Run
from tests.training.conftest import EXPERIMENTS, SHORT, SMALL

pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly. option is set"),
]


@pytest.fixture
def house(tmp_path, manifest):
    """A small classifier's experiment in a folder of its own, the manifest, and a function that writes sweep files."""
    save_manifest(manifest, tmp_path / "manifest.csv")
    (tmp_path / "base").mkdir()
    content = {"based_on": str(EXPERIMENTS / "demo_classifier.yaml"), **SMALL, **SHORT}
    (tmp_path / "base/small.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def sweep_file(folder, values, experiment="base/small.yaml"):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"experiment": experiment, "values": values}, sort_keys=False))
    return path


def in_this_process(jobs):
    """Do the work of jobs as `in_turn` does, but without processes."""
    failures = {}
    for job in jobs:
        try:
            job.work()
        except ValueError as error:
            failures[job.name] = str(error)
    return failures


def test_trials_are_all_combinations(house):
    file = sweep_file(house, {"batch_size": [8, 4], "phases.0.learning_rate": [0.001, 0.01, 0.1]})
    trials = load_trials(file)
    assert [(trial.settings.batch_size, trial.settings.phases[0].learning_rate) for trial in trials] == [
        (8, 0.001), (8, 0.01), (8, 0.1), (4, 0.001), (4, 0.01), (4, 0.1),
    ]  # fmt: skip
    assert trials[3].name == "batch_size=4,phases.0.learning_rate=0.001"
    base = load_experiment(house / "base/small.yaml").model_dump()
    changed = trials[0].settings.model_dump()
    assert {key for key in base if base[key] != changed[key]} == set()


def test_whole_settings_can_be_varied(house):
    focal = {"kind": "focal", "alpha": 0.5, "gamma": 2.0}
    plateau = {"patience": 2, "factor": 0.5}
    file = sweep_file(house, {"loss": ["binary_crossentropy", focal], "plateau": [None, plateau]})
    trials = load_trials(file)
    assert [trial.settings.plateau is None for trial in trials] == [True, False, True, False]
    assert [trial.settings.loss == "binary_crossentropy" for trial in trials] == [True, True, False, False]
    assert len({trial.name for trial in trials}) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"values": {"seed": [1]}}, r"sweep.yaml: experiment: Field required"),
        ({"values": {"seed": [1]}, "experiment": "e.yaml", "trials": 3}, "sweep.yaml: trials: Extra inputs"),
        ({"values": {}, "experiment": "base/small.yaml"}, "sweep.yaml: values: Dictionary should have at least 1 item"),
        ({"values": {"seed": []}, "experiment": "base/small.yaml"}, "values.seed: List should have at least 1 item"),
        ({"values": {"seed": 1}, "experiment": "base/small.yaml"}, "values.seed: Input should be a valid list, got 1"),
        ({"values": {"seed": [1]}, "experiment": "absent.yaml"}, r"absent.yaml: no such experiment file"),
        (
            {"values": {"speed": [1, 2]}, "experiment": "base/small.yaml"},
            "sweep.yaml: trial speed=1: speed: Extra inputs are not permitted, got 1",
        ),
        (
            {"values": {"phases.0.rate": [1.0]}, "experiment": "base/small.yaml"},
            "trial phases.0.rate=1.0: phases.0.rate: Extra inputs are not permitted",
        ),
        (
            {"values": {"phases.1.epochs": [1]}, "experiment": "base/small.yaml"},
            "sweep.yaml: values.phases.1.epochs: expected a number from 0 to 0 in place of '1'",
        ),
        (
            {"values": {"plateau.patience": [1]}, "experiment": "base/small.yaml"},
            "sweep.yaml: values.plateau.patience: the experiment has nothing that holds 'patience'",
        ),
        (
            {"values": {"seed": [1, "two"]}, "experiment": "base/small.yaml"},
            "trial seed=two: seed: Input should be a valid integer, got 'two'",
        ),
        (
            {"values": {"phases.0.learning_rate": ["3e-4"]}, "experiment": "base/small.yaml"},
            "YAML 1.1 reads 2e-2 as text",
        ),
        (
            {"values": {"seed": [1, 2, 1]}, "experiment": "base/small.yaml"},
            "two trials have the same name: {'seed': 1} and {'seed': 1}",
        ),
        (
            {"values": {"phases.0.learning_rate": [1, 1.0]}, "experiment": "base/small.yaml"},
            "two trials have the same settings",
        ),
        ({"kind": "classifier"}, "sweep.yaml: is an experiment, not a sweep file"),
        ("text", "sweep.yaml"),
    ],
)
def test_what_a_sweep_file_cannot_say(house, content, message):
    (house / "sweep.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        load_trials(house / "sweep.yaml")
    assert message in str(error.value)
    assert str(house) in str(error.value)


@pytest.mark.parametrize("value", ["../up", "a/b", "a\\b", "ä", "x" * 300, {"kind": "focal"}, [1, 2], "a b", ".", ""])
def test_names_are_names_of_folders(value, tmp_path):
    name = trial_name({"weights": value})
    assert (tmp_path / name).parent == tmp_path
    assert len(name) <= 120
    assert name == trial_name({"weights": value})
    (tmp_path / name).mkdir()


def test_values_that_look_alike_have_different_names():
    names = [trial_name({"weights": value}) for value in ("a/b", "a\\b", "a b", "x" * 200, "x" * 201)]
    assert len(set(names)) == 5


def test_published_sweep_files_load():
    for path in EXPERIMENTS.glob("sweep_*.yaml"):
        assert len(load_trials(path)) > 1


def test_missing_trials_are_trained_and_the_others_kept(house, untrained, monkeypatch, caplog):
    caplog.set_level("INFO", logger="pneumoseg")
    out, manifest = house / "runs", house / "manifest.csv"
    trained, fit = [], untrained.fit

    def note(self, epoch_batches):
        trained.append(self.run.folder.name)
        if self.run.folder.name == "seed=2" and trained.count("seed=2") == 1:
            raise ValueError("no memory")
        return fit(self, epoch_batches)

    monkeypatch.setattr(untrained, "fit", note)
    trials = load_trials(sweep_file(house, {"seed": [1, 2, 3]}))
    assert train_trials(trials, manifest, out, run_jobs=in_this_process) == {"seed=2": "no memory"}
    assert trained == ["seed=1", "seed=2", "seed=3"]
    assert train_trials(trials, manifest, out, run_jobs=in_this_process) == {}
    assert trained == ["seed=1", "seed=2", "seed=3", "seed=2"]
    assert f"{out}: 3 trials, 2 finished already" in caplog.text
    for trial in trials:
        assert Run(out / trial.name).settings() == trial.settings
        assert Run(out / trial.name).deployable() == [out / trial.name / "best"]
    # A changed file: trials that it no longer names stay, new ones are trained.
    trials = load_trials(sweep_file(house, {"seed": [4, 3]}))
    assert train_trials(trials, manifest, out, run_jobs=in_this_process) == {}
    assert trained[4:] == ["seed=4"]
    assert "2 runs of trials that the sweep does not name are left alone: seed=1, seed=2" in caplog.text


def test_a_trial_that_ends_without_its_metrics_has_failed(house):
    """As on a file system of several machines that shows the files late."""
    trials = load_trials(sweep_file(house, {"batch_size": [8]}))
    failures = train_trials(trials, house / "manifest.csv", house / "out", run_jobs=lambda jobs: {})
    assert list(failures) == ["batch_size=8"]
    assert "batch_size=8 holds no finished run" in failures["batch_size=8"]
    assert sweep_table(trials, house / "out", failures)["failure"].tolist() == list(failures.values())


def test_a_trial_with_other_settings_or_images_is_refused_before_any_training(house, untrained, manifest):
    out, file = house / "runs", house / "manifest.csv"
    train_trials(load_trials(sweep_file(house, {"seed": [2]})), file, out, run_jobs=in_this_process)
    trials = load_trials(sweep_file(house, {"seed": [1, 2]}))
    save_manifest(manifest.iloc[2:], file)
    with pytest.raises(ValueError, match=r"seed=2 cannot be resumed, its split\.csv differs"):
        train_trials(trials, file, out, run_jobs=in_this_process)
    content = yaml.safe_load((house / "base/small.yaml").read_text())
    (house / "base/small.yaml").write_text(yaml.safe_dump(content | {"batch_size": 5}))
    trials = load_trials(house / "sweep.yaml")
    with pytest.raises(ValueError, match=r"seed=2 holds a run with other settings"):
        train_trials(trials, file, out, run_jobs=in_this_process)
    trials = load_trials(sweep_file(house, {"backbone": ["compact", "xceptoin"]}))
    with pytest.raises(ValueError, match="unknown classifier backbone 'xceptoin'"):
        train_trials(trials, file, out, run_jobs=in_this_process)
    assert [path.name for path in out.iterdir()] == ["seed=2"]


def test_the_command_ends_with_the_table(house, monkeypatch):
    monkeypatch.setattr(training_jobs, "in_turn", in_this_process)
    file = sweep_file(house, {"phases.0.learning_rate": [0.001, 1e30, 0.01]})
    words = ["sweep", str(file), "--manifest", str(house / "manifest.csv"), "--out", str(house / "runs")]
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 1, outcome.output
    table = pd.read_csv(house / "runs/sweep.csv", keep_default_na=False)
    diverged = "phases.0.learning_rate=1e+30"
    assert table["trial"].tolist()[-1] == diverged
    assert "the training diverged in epoch 1" in table["failure"].tolist()[-1]
    assert f"FAILED: {diverged}: " in outcome.output
    assert "The best of 2 trials was chosen on the images that it is scored on" in outcome.output
    for _, row in table.iloc[:2].iterrows():
        run = Run(house / "runs" / row["trial"])
        predictions = run.validation_predictions()
        mcc = matthews_corrcoef(predictions["has_pneumothorax"], predictions["probability"] >= 0.5)
        assert float(row["val_mcc"]) == pytest.approx(mcc)
        assert float(row["val_mcc_low"]) <= mcc <= float(row["val_mcc_high"])
        assert int(row["best_epoch"]) == run.metrics()["best_epoch"]
        assert run.curves.exists()
    assert (house / "runs/sweep.png").exists()


def finished(folder, **metrics):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_segmenters_are_sorted_by_iou_and_failures_come_last(tmp_path):
    path = sweep_file(tmp_path, {"seed": [1, 2, 3, 4]}, str(EXPERIMENTS / "demo_segmenter.yaml"))
    trials = load_trials(path)
    finished(tmp_path / "seed=1", best_epoch=3, val_iou=0.5, swa_val_iou=0.75)
    finished(tmp_path / "seed=3", best_epoch=2, val_iou=0.625)
    folds = [{"best_epoch": 7, "val_iou": 0.75}, {"best_epoch": 9, "val_iou": 0.25}]
    finished(tmp_path / "seed=4", folds=folds)
    table = sweep_table(trials, tmp_path, {"seed=2": "no memory"})
    assert table.index.tolist() == ["seed=3", "seed=1", "seed=4", "seed=2"]
    assert table["best_epoch"].tolist()[:3] == ["2", "3", "7 9"]
    np.testing.assert_array_equal(table["val_iou"], [0.625, 0.5, 0.5, np.nan])
    np.testing.assert_array_equal(table["swa_val_iou"], [np.nan, 0.75, np.nan, np.nan])
    assert table["failure"].tolist() == ["", "", "", "no memory"]
    assert "best of 3 trials" in describe_table(table)


def test_a_sweep_of_failures_has_a_table(tmp_path):
    trials = load_trials(sweep_file(tmp_path, {"seed": [1, 2]}, str(EXPERIMENTS / "demo_classifier.yaml")))
    table = sweep_table(trials, tmp_path, {"seed=1": "a", "seed=2": "b"})
    assert table["failure"].tolist() == ["a", "b"]
    text = describe_table(table)
    assert "FAILED: seed=2: b" in text
    assert "best of" not in text
