from pathlib import Path

import keras
import pandas as pd
import pytest
import tensorflow as tf
import yaml

from pneumoseg.config import ClassifierSettings, SegmenterSettings
from pneumoseg.training import train as training
from pneumoseg.training.run import Run
from pneumoseg.training.tasks import ClassifierTask, SegmenterTask

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALL = {
    "image_size": 32,
    "batch_size": 8,
    "split": {"validation_fraction": 0.5, "seed": 0, "group_by_patient": False},
}
# One epoch: for tests of what is written and refused, not of what is learned.
SHORT = {"phases": [{"epochs": 1, "learning_rate": 1e-3, "trainable": "all"}]}


@pytest.fixture(scope="session")
def classifier():
    """Makes a task from the settings of the demo's classifier, made small, with changes."""

    def make(**changes):
        content = yaml.safe_load((EXPERIMENTS / "demo_classifier.yaml").read_text()) | SMALL
        content["phases"] = [
            {"epochs": 1, "learning_rate": 0.01, "trainable": "head"},
            {"epochs": 2, "learning_rate": 0.001, "trainable": "all"},
        ]
        return ClassifierTask(ClassifierSettings.model_validate(content | changes))

    return make


@pytest.fixture(scope="session")
def segmenter():
    """Makes a task from the settings of the demo's segmenter, made small, with changes."""

    def make(**changes):
        content = yaml.safe_load((EXPERIMENTS / "demo_segmenter.yaml").read_text()) | SMALL
        content["phases"] = [
            {"epochs": 1, "learning_rate": 0.01, "trainable": "second_half"},
            {"epochs": 4, "learning_rate": 0.002, "trainable": "all", "cosine": {"cycle_epochs": 2}},
        ]
        content |= {"swa": {"start_epoch": 2, "end_epoch": 4}, "epoch_weights_gigabytes": 1.0}
        return SegmenterTask(SegmenterSettings.model_validate(content | changes))

    return make


@pytest.fixture(scope="module")
def eager():
    """Run operations one by one: the few steps of these trainings take less time than tracing their graphs would."""
    tf.config.run_functions_eagerly(keras.backend.backend() == "tensorflow")
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def graphs(eager):
    """Run graphs after all, as any training outside the tests does."""
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(keras.backend.backend() == "tensorflow")


class Untrained:
    """Stands in for the engine: keeps the initial weights as those of a single epoch."""

    best_epoch = 1

    def __init__(self, model, schedule, objective, run, save, *, callbacks, observers):
        self.run, self._model, self._objective, self._save = run, model, objective, save

    def fit(self, epoch_batches):
        self._save(self._model, {"val_best_threshold": 0.5})
        history = pd.DataFrame({"epoch": [1], self._objective.monitor: [0.25], "val_best_threshold": [0.5]})
        history.to_csv(self.run.history_file, index=False)
        return history


@pytest.fixture
def untrained(monkeypatch):
    """No network learns anything; all else is as in any training."""
    monkeypatch.setattr(training, "Engine", Untrained)
    return Untrained


def ids(run, split):
    """The image ids of one split, "train" or "val", in the order of the file."""
    table = Run(run).split()
    return table.loc[table["split"] == split, "image_id"].tolist()
