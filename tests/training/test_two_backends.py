"""Bundles and runs of one backend of Keras, used and continued on the other."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from pneumoseg.data.index import save_manifest
from pneumoseg.models.bundle import load_bundle
from pneumoseg.training.run import Run
from pneumoseg.training.train import train
from tests.training.conftest import SHORT
from tests.training.on_backend import EPOCHS, NETWORKS, outputs, save_networks, train_until

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="needs KERAS_BACKEND=jax: see `make test-jax`")


@pytest.fixture(scope="module")
def both(manifest, tmp_path_factory):
    """The folder of what both backends have made of each other's bundles and runs."""
    folder = tmp_path_factory.mktemp("backends")
    save_manifest(manifest, folder / "manifest.csv")
    save_networks(folder / "jax")
    np.savez(folder / "jax.npz", **outputs(folder / "jax"))
    train_until(manifest, folder / "from_jax", 2)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-m", "tests.training.on_backend", str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=600)
    train_until(manifest, folder / "from_tensorflow", EPOCHS)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_bundle_of_jax_predicts_the_same_on_tensorflow(name, both):
    here, there = (np.load(both / file)[name] for file in ("jax.npz", "jax_on_tensorflow.npz"))
    assert np.ptp(here) > 1e-4  # the images make a difference
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_bundle_of_tensorflow_predicts_the_same_on_jax(name, both):
    there = np.load(both / "tensorflow.npz")[name]
    assert np.ptp(there) > 1e-4
    np.testing.assert_allclose(outputs(both / "tensorflow")[name], there, rtol=0, atol=1e-5)


def test_run_goes_on_on_the_other_backend(both):
    """Moments, step and statistics come along: the run ends as one that stayed on one backend."""
    whole, moved = (pd.read_csv(both / name / "history.csv") for name in ("from_tensorflow_whole", "from_tensorflow"))
    scores = ["loss", "val_loss", "val_auc"]
    pd.testing.assert_frame_equal(moved[["epoch", "learning_rate"]], whole[["epoch", "learning_rate"]])
    pd.testing.assert_frame_equal(moved[scores], whole[scores], rtol=1e-3)
    assert len(pd.read_csv(both / "from_jax/history.csv")) == EPOCHS


@pytest.mark.parametrize(("run", "backend"), [("from_tensorflow", "jax"), ("from_jax", "tensorflow")])
def test_environment_is_that_of_the_process_that_ended_the_run(run, backend, both):
    environment = json.loads((both / run / "environment.json").read_text())
    assert environment["backend"] == backend
    assert ("jaxlib" in environment) == (backend == "jax")


def test_bundle_of_a_run_is_read_on_either(both):
    """The best epoch's bundle of a run that TensorFlow ended predicts here what was written there."""
    there = pd.read_csv(both / "from_jax/validation_predictions.csv")["probability"]
    assert there.nunique() > 1
    assert load_bundle(both / "from_jax/best").model.count_params() > 0


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
