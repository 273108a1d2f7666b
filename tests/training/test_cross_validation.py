"""Folds: each image predicted by a network that did not see it; finished folds kept."""

import csv

import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from pneumoseg.models.bundle_spec import read_bundle_spec
from pneumoseg.training import train as training
from pneumoseg.training.run import Run
from pneumoseg.training.train import cross_validate, train
from tests.training.conftest import SHORT, Untrained, ids

pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly. option is set"),
]


@pytest.fixture(scope="module")
def folds(eager, classifier, manifest, tmp_path_factory):
    """A finished cross-validation of trained classifiers: its folder, its task and its metrics."""
    run, task = tmp_path_factory.mktemp("folds") / "run", classifier(**SHORT, cross_validate=True)
    return run, task, cross_validate(task, manifest, Run(run))


def test_each_image_is_predicted_by_the_network_that_did_not_see_it(folds, manifest):
    run, task, metrics = folds
    table = pd.read_csv(run / "validation_predictions.csv")
    assert sorted(table["image_id"]) == manifest["image_id"].tolist()
    assert metrics["mcc"] == pytest.approx(matthews_corrcoef(table["has_pneumothorax"], table["probability"] > 0.5))
    assert len(metrics["folds"]) == 2
    for fold, rows in table.groupby("fold"):
        assert set(rows["image_id"]) == set(ids(run / f"fold_{fold}", "val"))
        assert read_bundle_spec(run / f"fold_{fold}/best").images.validation == set(rows["image_id"])
    with pytest.raises(FileExistsError, match="finished run"):
        cross_validate(task, manifest, Run(run))


def test_each_fold_is_deployed(folds):
    run, _, _ = folds
    assert Run(run).deployable() == [run / "fold_1/best", run / "fold_2/best"]
    assert [fold.folder for fold in Run(run).folds()] == [run / "fold_1", run / "fold_2"]
    assert Run(run / "fold_1").folds() == []


def test_finished_run_is_left_as_it_is_when_resumed(folds, classifier, manifest, monkeypatch):
    run, task, metrics = folds
    before = (run / "metrics.json").stat().st_mtime_ns
    monkeypatch.setattr(training, "Engine", None)
    assert cross_validate(task, manifest, Run(run, resume=True)) == metrics
    assert (run / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"fold_1 cannot be resumed, its split\.csv"):
        cross_validate(task, manifest.iloc[2:], Run(run, resume=True))
    with pytest.raises(ValueError, match="holds a cross-validation: choose another folder"):
        train(classifier(), manifest, Run(run, resume=True))
    with pytest.raises(ValueError, match="holds a run without cross-validation"):
        cross_validate(task, manifest, Run(run / "fold_1", resume=True))


def test_finished_folds_are_kept_when_resumed(classifier, manifest, tmp_path, monkeypatch):
    task, trained = classifier(cross_validate=True), []

    class Interrupted(Untrained):
        def fit(self, epoch_batches):
            trained.append(self.run.folder.name)
            if trained == ["fold_1", "fold_2"]:
                raise KeyboardInterrupt
            return super().fit(epoch_batches)

    monkeypatch.setattr(training, "Engine", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(task, manifest, Run(tmp_path / "run"))
    with pytest.raises(FileExistsError, match="--resume"):
        cross_validate(task, manifest, Run(tmp_path / "run"))
    with pytest.raises(ValueError, match="holds no finished run"):
        Run(tmp_path / "run").deployable()
    with pytest.raises(ValueError, match=r"fold_1 cannot be resumed, its settings\.yaml"):
        cross_validate(classifier(cross_validate=True, seed=9), manifest, Run(tmp_path / "run", resume=True))
    cross_validate(task, manifest, Run(tmp_path / "run", resume=True))
    assert trained == ["fold_1", "fold_2", "fold_2"]


def test_segmenters_have_the_classifiers_folds(folds, segmenter, manifest, tmp_path, untrained):
    task = segmenter(cross_validate=True, swa=None, epoch_weights_gigabytes=0.0, negatives_per_positive=None)
    metrics = cross_validate(task, manifest, Run(tmp_path / "segmenters"))
    assert [{"best_epoch", "val_iou"} <= fold.keys() for fold in metrics["folds"]] == [True, True]
    for fold in ("fold_1", "fold_2"):
        splits = [(run / fold / "split.csv").read_text() for run in (tmp_path / "segmenters", folds[0])]
        assert splits[0] == splits[1]
    with pytest.raises(ValueError, match="call cross_validate"):
        train(task, manifest, Run(tmp_path / "run"))


def test_ids_that_read_like_something_else_stay_among_the_pooled(classifier, tmp_path):
    names, patients = ["NA", "None", "0001", "nan", "1e5", "True"], ["NULL", "007", "", "n/a", "1", "1"]
    run = Run(tmp_path)
    for number, fold in enumerate([run.fold(1), run.fold(2)], start=1):
        table = pd.DataFrame({"image_id": names, "patient_id": patients, "has_pneumothorax": [True, False] * 3})
        table["probability"] = [0.75, 0.25, 0.75, 0.25, 0.25, float("nan")]
        table["image_id"] = [f"{image_id}" if number == 1 else f"{image_id}2" for image_id in names]
        fold.folder.mkdir()
        table.to_csv(fold.folder / "validation_predictions.csv", index=False)
        (fold.folder / "metrics.json").write_text("{}")
    classifier().summarize_folds(run, run.folds())
    with open(tmp_path / "validation_predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [*names, *(f"{image_id}2" for image_id in names)]
    assert [row["patient_id"] for row in rows] == patients * 2
    assert [row["has_pneumothorax"] for row in rows] == ["True", "False"] * 6
    assert [row["probability"] for row in rows[:6]] == ["0.75", "0.25", "0.75", "0.25", "0.25", ""]


def test_ten_folds_are_in_order(tmp_path):
    for number in range(1, 12):
        (tmp_path / f"fold_{number}").mkdir()
    assert [fold.folder.name for fold in Run(tmp_path).folds()] == [f"fold_{number}" for number in range(1, 12)]


def test_one_network_and_many_are_not_confused(classifier, manifest, tmp_path):
    with pytest.raises(ValueError, match="call cross_validate"):
        train(classifier(cross_validate=True), manifest, Run(tmp_path / "run"))
    split = {"validation_fraction": 0.7, "seed": 0, "group_by_patient": False}
    with pytest.raises(ValueError, match="two folds or more, got 1: take a smaller validation_fraction"):
        cross_validate(classifier(cross_validate=True, split=split), manifest, Run(tmp_path / "run"))
