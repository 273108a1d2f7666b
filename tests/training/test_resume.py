"""Real processes, killed at random: the training that goes on ends as the one that was never stopped."""

import functools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.callbacks.checkpoint import Checkpoint
from pneumoseg.callbacks.history_file import HistoryFile
from pneumoseg.callbacks.mcc import MCC
from pneumoseg.callbacks.resumable_plateau import ResumablePlateau
from pneumoseg.config import Phase
from pneumoseg.data.index import save_manifest
from pneumoseg.data.sampling import random_epoch
from pneumoseg.models.bundle import load_bundle
from pneumoseg.training.engine import Engine
from pneumoseg.training.objective import Objective
from pneumoseg.training.precision import precision
from pneumoseg.training.run import Run
from pneumoseg.training.schedule import Schedule

COMMAND = Path(sys.executable).parent / "pneumoseg"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def experiment(tmp_path):
    content = yaml.safe_load((EXPERIMENTS / "generated_classifier_augmentation.yaml").read_text())
    content |= {
        "based_on": str(EXPERIMENTS / "demo_classifier.yaml"),
        "image_size": 32,
        "batch_size": 4,
        "deterministic": True,
        "split": {"validation_fraction": 0.5, "seed": 0, "group_by_patient": False},
        "plateau": {"patience": 1, "factor": 0.5},
        "phases": [
            {"epochs": 2, "learning_rate": 0.01, "trainable": "head"},
            {"epochs": 10, "learning_rate": 0.002, "trainable": "all"},
        ],
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(experiment, manifest, run):
    command = [COMMAND, "train", experiment, "--manifest", manifest, "--out", run, "--resume"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def killed_during(experiment, manifest, run, seconds):
    """Start, wait for the first epoch that this process ends, wait a random time more, kill. Tells whether it lived."""
    process, history = start(experiment, manifest, run), run / "history.csv"
    written = history.stat().st_mtime_ns if history.exists() else 0
    while process.poll() is None and (history.stat().st_mtime_ns if history.exists() else 0) == written:
        time.sleep(0.01)
    time.sleep(seconds)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return alive


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="each of its processes would compile for long")
def test_killed_at_random_it_ends_with_the_same_weights(experiment, manifest, tmp_path):
    table, whole, broken = tmp_path / "manifest.csv", tmp_path / "whole", tmp_path / "broken"
    save_manifest(manifest, table)
    finished(start(experiment, table, whole))
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    print(f"seed of the kills: {seed}")
    kills = sum(killed_during(experiment, table, broken, rng.uniform(0, 0.8)) for _ in range(3))
    assert kills >= 1
    if not (broken / "metrics.json").exists():
        assert "epochs 1 to 2" not in finished(start(experiment, table, broken))
    history = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (whole, broken)]
    pd.testing.assert_frame_equal(*history, check_exact=True)
    assert history[0]["learning_rate"].nunique() > 2  # the plateau's counters mattered
    first, second = (load_bundle(run / "best").model.get_weights() for run in (whole, broken))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("metrics.json", "validation_predictions.csv", "split.csv"):
        texts = [(run / name).read_text() for run in (whole, broken)]
        if name == "metrics.json":
            texts = [[line for line in text.splitlines() if "seconds" not in line] for text in texts]
        assert texts[0] == texts[1]
    assert {path.name for path in whole.iterdir()} == {path.name for path in broken.iterdir()}


PHASES = [
    Phase(epochs=2, learning_rate=0.02, trainable="head"),
    Phase(epochs=4, learning_rate=0.01, trainable="all"),
]
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(40, 5)).astype(np.float32), RNG.random(40) < 0.4


class Stop(keras.callbacks.Callback):
    """Stands for the process's end at a point of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self._epoch:
            raise KeyboardInterrupt


def small_training(folder, seed, watch=None, policy="float32", **settings):
    keras.utils.set_random_seed(seed)
    with precision(policy):
        layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.2)]
        head = keras.layers.Dense(1, activation="sigmoid", name="head", dtype="float32")
        model = keras.Sequential([keras.Input((5,)), *layers, head])
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS[:, None].astype("float32"))).batch(8)

    def epoch_batches(number):
        order = random_epoch(LABELS, number, seed=0).rows
        return tf.data.Dataset.from_tensor_slices((IMAGES[order], LABELS[order, None].astype("float32"))).batch(8)

    loss = keras.losses.BinaryCrossentropy()
    engine = Engine(
        model, Schedule(PHASES, **settings),
        Objective(loss, "val_auc", validation_callback=MCC(batches, LABELS, loss)), Run(folder),
        lambda model, logs: model.save_weights(folder / "best.weights.h5"),
        callbacks=[ResumablePlateau("val_auc", 0.5, 1, mode="max")], observers=[watch] if watch else [],
    )  # fmt: skip
    history = engine.fit(epoch_batches)
    kept = keras.models.clone_model(model)
    kept.load_weights(folder / "best.weights.h5")
    return history.drop(columns="seconds"), engine.best_epoch, model.get_weights(), kept.get_weights()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The training that was never stopped, with the settings given; each is made once."""

    @functools.cache
    def make(**settings):
        return small_training(tmp_path_factory.mktemp("whole"), 0, **settings)

    return make


@pytest.mark.parametrize("place", ["on_epoch_begin", HistoryFile, Checkpoint, BestBundle, "after all"])
@pytest.mark.parametrize("epoch", [2, 3, 6])
def test_stopped_between_any_two_writes(place, epoch, uninterrupted, tmp_path, monkeypatch):
    """Stopped before each of what an epoch writes, it ends as the training that was never stopped."""
    stop, watch = Stop(epoch).on_epoch_end, None
    if place == "after all":
        watch = Stop(epoch)
    elif place == "on_epoch_begin":
        watch = keras.callbacks.LambdaCallback(on_epoch_begin=stop)
    else:
        write = place.on_epoch_end

        def stopped(self, number, logs=None):
            stop(number)
            write(self, number, logs)

        monkeypatch.setattr(place, "on_epoch_end", stopped)
    with pytest.raises(KeyboardInterrupt):
        small_training(tmp_path, 0, watch)
    monkeypatch.undo()
    # Another seed: whatever the checkpoint did not bring back would differ.
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda number, _=None: seen.append(number + 1))
    history, best_epoch, last, best = small_training(tmp_path, 1, watch)
    assert seen[-1] == 6  # whoever draws the curves sees the last epoch, even where it had ended
    expected_history, expected_epoch, expected_last, expected_best = uninterrupted()
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    assert best_epoch == expected_epoch
    for one, other in zip([*last, *best], [*expected_last, *expected_best], strict=True):
        np.testing.assert_array_equal(one, other)


# Five batches per epoch: a group of three or of seven is incomplete where an epoch ends.
@pytest.mark.parametrize("epoch", [1, 3, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 3},
        {"policy": "mixed_float16"},
        {"policy": "mixed_bfloat16"},
        {"policy": "mixed_float16", "gradient_accumulation_steps": 7},
    ],
)
def test_sums_of_gradients_and_the_scale_of_the_loss_go_on(settings, epoch, uninterrupted, tmp_path):
    whole = uninterrupted(**settings)
    with pytest.raises(KeyboardInterrupt):
        small_training(tmp_path / "broken", 0, Stop(epoch), **settings)
    history, best_epoch, last, best = small_training(tmp_path / "broken", 1, **settings)
    pd.testing.assert_frame_equal(history, whole[0], check_exact=True)
    assert best_epoch == whole[1]
    for one, other in zip([*last, *best], [*whole[2], *whole[3]], strict=True):
        np.testing.assert_array_equal(one, other)
