"""Folds: each image predicted by a network that did not see it; finished folds kept."""

import csv
import os

import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from pneumoseg.training import classifier
from pneumoseg.training.cross_validation import _pooled, cross_validate
from pneumoseg.training.segmenter import train_segmenter


def test_each_image_is_predicted_by_the_network_that_did_not_see_it(settings_of, manifest, tmp_path):
    settings = settings_of(cross_validate=True)
    metrics = cross_validate(settings, manifest, tmp_path / "run", tmp_path)
    table = pd.read_csv(tmp_path / "run/predictions.csv")
    assert sorted(table["image_id"]) == manifest["image_id"].tolist()
    assert metrics["mcc"] == pytest.approx(matthews_corrcoef(table["has_pneumothorax"], table["probability"] > 0.5))
    assert len(metrics["folds"]) == 2
    for fold, rows in table.groupby("fold"):
        split = pd.read_csv(tmp_path / f"run/fold_{fold}/split.csv")
        assert set(rows["image_id"]) == set(split.loc[split["side"] == "validation", "image_id"])
    with pytest.raises(FileExistsError, match="finished run"):
        cross_validate(settings, manifest, tmp_path / "run", tmp_path)


def test_finished_run_is_left_as_it_is_when_resumed(settings_of, manifest, tmp_path, monkeypatch):
    """As a run without folds is; make asks so where the manifest is newer."""
    settings, run = settings_of(cross_validate=True), tmp_path / "run"
    metrics = cross_validate(settings, manifest, run, tmp_path)
    os.utime(run / "metrics.json", (1, 1))
    monkeypatch.setattr(classifier, "fit_phases", None)
    assert cross_validate(settings, manifest, run, tmp_path, resume=True) == metrics
    assert (run / "metrics.json").stat().st_mtime > 1
    with pytest.raises(ValueError, match=r"fold_1 cannot go on, its split\.csv"):
        cross_validate(settings, manifest.iloc[2:], run, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"run cannot go on, it has no settings\.yaml: choose another folder"):
        classifier.train_classifier(settings_of(), manifest, run, tmp_path, resume=True)
    with pytest.raises(ValueError, match="holds a run without cross-validation"):
        cross_validate(settings, manifest, run / "fold_1", tmp_path, resume=True)


def test_finished_folds_are_kept_when_resumed(settings_of, manifest, tmp_path, monkeypatch):
    settings, trained, fit = settings_of(cross_validate=True), [], classifier.fit_phases

    def interrupted(*arguments, **options):
        trained.append(arguments[6].name)
        if trained == ["fold_1", "fold_2"]:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(classifier, "fit_phases", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(settings, manifest, tmp_path / "run", tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        cross_validate(settings, manifest, tmp_path / "run", tmp_path)
    with pytest.raises(ValueError, match=r"fold_1 cannot go on, its settings\.yaml"):
        cross_validate(settings_of(cross_validate=True, seed=9), manifest, tmp_path / "run", tmp_path, resume=True)
    cross_validate(settings, manifest, tmp_path / "run", tmp_path, resume=True)
    assert trained == ["fold_1", "fold_2", "fold_2"]


def test_segmenters_have_the_classifiers_folds(settings_of, segmenter_settings, manifest, tmp_path):
    settings = segmenter_settings(
        cross_validate=True, swa=None, epoch_weights_gigabytes=0.0, negatives_per_positive=None
    )
    metrics = cross_validate(settings, manifest, tmp_path / "segmenters", tmp_path)
    cross_validate(settings_of(cross_validate=True), manifest, tmp_path / "classifiers", tmp_path)
    assert [{"best_epoch", "val_iou"} <= fold.keys() for fold in metrics["folds"]] == [True, True]
    for fold in ("fold_1", "fold_2"):
        splits = [(tmp_path / kind / fold / "split.csv").read_text() for kind in ("segmenters", "classifiers")]
        assert splits[0] == splits[1]
    with pytest.raises(ValueError, match="call cross_validate"):
        train_segmenter(settings, manifest, tmp_path / "run", tmp_path)


def test_ids_that_read_like_something_else_stay_among_the_pooled(tmp_path):
    ids, patients = ["NA", "None", "0001", "nan", "1e5", "True"], ["NULL", "007", "", "n/a", "1", "1"]
    folds = []
    for number in (1, 2):
        folds.append(tmp_path / f"fold_{number}")
        table = pd.DataFrame({"image_id": ids, "patient_id": patients, "has_pneumothorax": [True, False] * 3})
        table["probability"] = [0.75, 0.25, 0.75, 0.25, 0.25, float("nan")]
        table["image_id"] = [f"{image_id}" if number == 1 else f"{image_id}2" for image_id in ids]
        folds[-1].mkdir()
        table.to_csv(folds[-1] / "predictions.csv", index=False)
    _pooled(tmp_path, folds)
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [*ids, *(f"{image_id}2" for image_id in ids)]
    assert [row["patient_id"] for row in rows] == patients * 2
    assert [row["has_pneumothorax"] for row in rows] == ["True", "False"] * 6
    assert [row["probability"] for row in rows[:6]] == ["0.75", "0.25", "0.75", "0.25", "0.25", ""]


def test_one_network_and_many_are_not_confused(settings_of, manifest, tmp_path):
    with pytest.raises(ValueError, match="call cross_validate"):
        classifier.train_classifier(settings_of(cross_validate=True), manifest, tmp_path / "run", tmp_path)
    split = {"validation_fraction": 0.7, "seed": 0, "group_by_patient": False}
    with pytest.raises(ValueError, match="two folds or more, got 1: take a smaller validation_fraction"):
        cross_validate(settings_of(cross_validate=True, split=split), manifest, tmp_path / "run", tmp_path)
