"""Trainings on two devices of one process: they end with the weights of one device."""

import functools

import keras
import numpy as np
import pytest

from pneumoseg.models.bundle import load_bundle
from pneumoseg.training.run import Run
from pneumoseg.training.train import train

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.skipif(
    jax.device_count() != 2, reason="needs XLA_FLAGS=--xla_force_host_platform_device_count=2"
)
EPOCHS = 3


class Recorded(keras.callbacks.Callback):
    """Keeps the weights after each epoch, and stops the process's part after one of them."""

    def __init__(self, last=EPOCHS):
        super().__init__()
        self.weights, self._last = {}, last

    def on_epoch_end(self, epoch, logs=None):
        self.weights[epoch + 1] = self.model.get_weights()
        if epoch + 1 == self._last < EPOCHS:
            raise KeyboardInterrupt


@pytest.fixture
def on_devices(monkeypatch):
    """Trains a task on the first devices alone."""
    every = keras.distribution.list_devices()

    def run(count, task, manifest, folder, last=EPOCHS):
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: every[:count])
        recorded = Recorded(last)
        start = functools.partial(train, task, manifest, Run(folder, resume=True), make_callback=lambda run: recorded)
        if last < EPOCHS:
            with pytest.raises(KeyboardInterrupt):
                start()
        else:
            start()
        return recorded.weights

    return run


@pytest.fixture(scope="module", params=["classifier", "segmenter"])
def task(request):
    return request.getfixturevalue(f"compact_{request.param}")()


@pytest.fixture(scope="module")
def whole(task, manifest, tmp_path_factory):
    """The run of one device and its weights after each epoch."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("whole") / "one"
        patch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
        recorded = Recorded()
        train(task, manifest, Run(folder), make_callback=lambda run: recorded)
        return Run(folder), recorded.weights


def largest_difference(some, others):
    return max(np.abs(one - other).max() for one, other in zip(some, others, strict=True))


def test_weights_of_each_epoch_and_all_results_are_those_of_one_device(task, manifest, whole, on_devices, tmp_path):
    one, expected = whole
    found = on_devices(2, task, manifest, tmp_path / "two")
    assert sorted(found) == [1, 2, 3]
    assert largest_difference(expected[1], expected[3]) > 1e-3
    for epoch in found:
        assert largest_difference(expected[epoch], found[epoch]) < 1e-5
    two = Run(tmp_path / "two")
    timeless = [run.history().drop(columns="seconds") for run in (one, two)]
    assert list(timeless[0]) == list(timeless[1])
    np.testing.assert_allclose(*timeless, atol=1e-5)
    for name, value in (one.metrics() | {"seconds": two.metrics()["seconds"]}).items():
        assert two.metrics()[name] == pytest.approx(value, abs=1e-5), name
    for bundle in ("best", "swa"):
        if (one.folder / bundle).exists():
            weights = [load_bundle(run.folder / bundle).model.get_weights() for run in (one, two)]
            assert largest_difference(*weights) < 1e-5
    if one.predictions_file.exists():
        one, two = one.validation_predictions(), two.validation_predictions()
        assert one["image_id"].tolist() == two["image_id"].tolist()
        assert one["image_id"].is_unique
        np.testing.assert_allclose(one["probability"], two["probability"], atol=1e-5)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2)])
def test_a_training_goes_on_on_another_number_of_devices(first, second, task, manifest, whole, on_devices, tmp_path):
    on_devices(first, task, manifest, tmp_path / "run", last=2)
    assert not Run(tmp_path / "run").is_finished
    found = on_devices(second, task, manifest, tmp_path / "run")
    assert largest_difference(found[3], whole[1][3]) < 1e-5
    assert Run(tmp_path / "run").history()["epoch"].tolist() == [1, 2, 3]
