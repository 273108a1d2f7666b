from pathlib import Path

import pytest
import yaml

from pneumoseg.config import load_classifier_settings, load_segmenter_settings

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def settings_of(tmp_path):
    """Settings of the demo's classifier, made small, with changes."""

    def load(**changes):
        content = yaml.safe_load((EXPERIMENTS / "demo_classifier.yaml").read_text())
        content |= {"image_size": 32, "batch_size": 8}
        content["split"] = {"validation_fraction": 0.5, "seed": 0, "group_by_patient": False}
        content["phases"] = [
            {"epochs": 1, "learning_rate": 0.01, "trainable": "head"},
            {"epochs": 2, "learning_rate": 0.001, "trainable": "all"},
        ]
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return load_classifier_settings(path)

    return load


@pytest.fixture
def segmenter_settings(tmp_path):
    """Settings of the demo's segmenter, made small, with changes."""

    def load(**changes):
        content = yaml.safe_load((EXPERIMENTS / "demo_segmenter.yaml").read_text())
        content |= {"image_size": 32, "batch_size": 8}
        content["split"] = {"validation_fraction": 0.5, "seed": 0, "group_by_patient": False}
        content["phases"] = [
            {"epochs": 1, "learning_rate": 0.01, "trainable": "second_half"},
            {"epochs": 4, "learning_rate": 0.002, "trainable": "all", "cosine": {"cycle_epochs": 2}},
        ]
        content |= {"swa": {"start_epoch": 2, "end_epoch": 4}, "epoch_weights_gigabytes": 1.0}
        path = tmp_path / "segmenter.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return load_segmenter_settings(path)

    return load
