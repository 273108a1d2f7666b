"""Folds: each image predicted by a network that did not see it; finished folds kept."""

import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from pneumoseg.training import classifier
from pneumoseg.training.cross_validation import cross_validate_classifier


def test_each_image_is_predicted_by_the_network_that_did_not_see_it(settings_of, manifest, tmp_path):
    settings = settings_of(cross_validate=True)
    metrics = cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path)
    table = pd.read_csv(tmp_path / "run/predictions.csv")
    assert sorted(table["image_id"]) == manifest["image_id"].tolist()
    assert metrics["mcc"] == pytest.approx(matthews_corrcoef(table["has_pneumothorax"], table["probability"] > 0.5))
    assert len(metrics["folds"]) == 2
    for fold, rows in table.groupby("fold"):
        split = pd.read_csv(tmp_path / f"run/fold_{fold}/split.csv")
        assert set(rows["image_id"]) == set(split.loc[split["side"] == "validation", "image_id"])
    with pytest.raises(FileExistsError, match="finished run"):
        cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path, resume=True)


def test_finished_folds_are_kept_when_resumed(settings_of, manifest, tmp_path, monkeypatch):
    settings, trained = settings_of(cross_validate=True), []

    def interrupted(*arguments, **options):
        trained.append(arguments[3].name)
        if trained == ["fold_1", "fold_2"]:
            raise KeyboardInterrupt
        return classifier.train_split(*arguments, **options)

    monkeypatch.setattr("pneumoseg.training.cross_validation.train_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path)
    with pytest.raises(ValueError, match=r"fold_1 cannot go on, its settings\.yaml"):
        cross_validate_classifier(
            settings_of(cross_validate=True, seed=9), manifest, tmp_path / "run", tmp_path, resume=True
        )
    cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path, resume=True)
    assert trained == ["fold_1", "fold_2", "fold_2"]


def test_one_network_and_many_are_not_confused(settings_of, manifest, tmp_path):
    with pytest.raises(ValueError, match="call cross_validate_classifier"):
        classifier.train_classifier(settings_of(cross_validate=True), manifest, tmp_path / "run", tmp_path)
    split = {"validation_fraction": 0.7, "seed": 0, "group_by_patient": False}
    with pytest.raises(ValueError, match="two folds or more, got 1: take a smaller validation_fraction"):
        cross_validate_classifier(settings_of(cross_validate=True, split=split), manifest, tmp_path / "run", tmp_path)
