"""Bundles and runs of one backend of Keras, used and continued on the other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from pneumoseg.data.index import save_manifest
from pneumoseg.data.loaders import classification_examples, files_named
from pneumoseg.image_errors import ImageError
from pneumoseg.training.run import Run
from pneumoseg.training.train import train
from tests.training.conftest import SHORT
from tests.training.on_backend import EPOCHS, NETWORKS, save_changed, train_until

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="needs KERAS_BACKEND=jax: see `make test-jax`")


@pytest.fixture(scope="module")
def both(manifest, tmp_path_factory):
    """The folder of what both backends have made of each other's bundles and runs."""
    folder = tmp_path_factory.mktemp("backends")
    save_manifest(manifest, folder / "manifest.csv")
    on_tensorflow("begin", folder)
    save_changed(folder / "jax", folder / "tensorflow")
    train_until(manifest, folder / "from_tensorflow", EPOCHS)
    train_until(manifest, folder / "from_jax", 2)
    on_tensorflow("end", folder)
    return folder


def on_tensorflow(part, folder):
    command = [sys.executable, "-m", "tests.training.on_backend", part, str(folder)]
    subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "tensorflow"}, check=True, timeout=600)


@pytest.mark.parametrize(("one", "other"), [("tensorflow", "jax"), ("jax", "tensorflow")])
@pytest.mark.parametrize("name", NETWORKS)
def test_bundle_predicts_the_same_on_the_other_backend(name, one, other, both):
    here, there = np.load(both / one / f"{name}.npy"), np.load(both / other / f"{name} of {one}.npy")
    assert np.ptp(here) > 1e-3  # the images make a difference
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-5)


def test_run_goes_on_on_the_other_backend(both):
    """Moments, step and statistics come along: the run ends as one that stayed on one backend."""
    whole, moved = (pd.read_csv(both / name / "history.csv") for name in ("stayed", "from_tensorflow"))
    scores = ["loss", "val_loss", "val_auc"]
    pd.testing.assert_frame_equal(moved[["epoch", "learning_rate"]], whole[["epoch", "learning_rate"]])
    pd.testing.assert_frame_equal(moved[scores], whole[scores], rtol=1e-3)
    assert len(pd.read_csv(both / "from_jax/history.csv")) == EPOCHS


@pytest.mark.parametrize(("run", "backend"), [("from_tensorflow", "jax"), ("from_jax", "tensorflow")])
def test_environment_is_that_of_the_process_that_ended_the_run(run, backend, both):
    environment = json.loads((both / run / "environment.json").read_text())
    assert environment["backend"] == backend
    assert ("jaxlib" in environment) == (backend == "jax")


@pytest.mark.parametrize("flags", ["", "--xla_gpu_deterministic_ops=true"])
def test_determinism_on_a_gpu_needs_the_flag_of_xla(flags, monkeypatch, classifier, manifest, untrained, tmp_path):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", flags)
    task, run = classifier(**SHORT, deterministic=True), Run(tmp_path / "run")
    if flags:
        assert train(task, manifest, run)["best_epoch"] == 1
        return
    with pytest.raises(ValueError, match="set XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        train(task, manifest, run)
    assert not run.folder.exists()


def test_a_training_names_the_file_that_was_damaged(manifest, tmp_path):
    """JAX gets the batches from TensorFlow, whose error says nothing about the file."""
    rows = manifest[:2].assign(path=[shutil.copy(path, tmp_path) for path in manifest["path"][:2]])
    examples = classification_examples(rows, 32, cache_dir=tmp_path / "cache", decoded_images_gigabytes=0)
    model = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    os.truncate(rows["path"][1], 1000)
    with pytest.raises(ImageError, match=Path(rows["path"][1]).name), files_named(rows):
        model.fit(examples.batches(2), verbose=0)
