"""A training that goes on is the training that was never stopped."""

import keras
import numpy as np
import pytest

from pneumoseg.callbacks.checkpoint import Checkpoint, CheckpointError
from pneumoseg.callbacks.resumable_plateau import ResumablePlateau
from pneumoseg.callbacks.swa import SWA

RNG = np.random.default_rng(0)
IMAGES, TARGETS = RNG.normal(size=(32, 6)).astype("float32"), RNG.integers(2, size=(32, 1))


def network(seed=0, units=4):
    """With batch statistics and dropout, whose state is none of its weights."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(units), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(1, activation="sigmoid")])


def trained(model, epochs, *callbacks, first=0):
    model.fit(IMAGES, TARGETS, 8, epochs, initial_epoch=first, shuffle=False, callbacks=list(callbacks), verbose=0)
    return [np.array(variable) for variable in model.variables]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_goes_on_with_moments_statistics_and_dropout(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        whole, stopped, other = network(), network(), network(seed=1)
    finally:
        keras.config.set_dtype_policy("float32")
    for model in (whole, stopped, other):
        model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    expected = trained(whole, 4)
    trained(stopped, 2, Checkpoint(tmp_path / "c.npz"))
    checkpoint = Checkpoint(tmp_path / "c.npz")
    assert checkpoint.epochs == 2
    checkpoint.set_model(other)
    checkpoint.restore_model()
    checkpoint.restore_training()
    assert other.optimizer.iterations == stopped.optimizer.iterations
    for values, wanted in zip(trained(other, 4, first=2), expected, strict=True):
        np.testing.assert_array_equal(values, wanted)
    assert len(expected) > len(whole.weights)  # the dropout's state was among them


def test_counters_and_learning_rate_are_kept(tmp_path):
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    plateau = ResumablePlateau("loss", 0.5, 3, mode="max")
    plateau.best, plateau.wait, model.optimizer.learning_rate = np.float32(0.25), 2, 0.005
    swa = SWA(1, 9)
    checkpoint = Checkpoint(tmp_path / "c.npz", [plateau, swa])
    swa.set_model(model)
    for epoch in range(3):
        swa.on_epoch_end(epoch)
    checkpoint.set_model(model)
    model.optimizer.build(model.trainable_variables)
    checkpoint.on_epoch_end(6)
    fresh, averaging = ResumablePlateau("loss", 0.5, 3, mode="max"), SWA(1, 9)
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    again = Checkpoint(tmp_path / "c.npz", [fresh, averaging])
    again.set_model(model)
    again.restore_training()
    assert (fresh.best, fresh.wait, fresh.cooldown_counter, again.epochs) == (0.25, 2, 0, 7)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    assert averaging.count == 3
    for values, expected in zip(averaging.average, swa.average, strict=True):
        np.testing.assert_array_equal(values, expected)


def test_file_that_keeps_no_states_is_refused(tmp_path):
    np.savez(tmp_path / "c.npz", state=np.array('{"epochs": 1, "counters": []}'))
    with pytest.raises(CheckpointError, match=r"not a checkpoint, or is damaged \('states'\)"):
        Checkpoint(tmp_path / "c.npz")


def test_without_a_file_nothing_was_done(tmp_path):
    assert Checkpoint(tmp_path / "absent.npz").epochs == 0


def test_stopped_while_writing_keeps_the_last_one(tmp_path, monkeypatch):
    model = network()
    model.compile("adam", "binary_crossentropy")
    checkpoint = Checkpoint(tmp_path / "c.npz")
    trained(model, 1, checkpoint)

    def half(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.on_epoch_end(1)
    assert Checkpoint(tmp_path / "c.npz").epochs == 1


def test_another_network_is_refused(tmp_path):
    model = network()
    model.compile("adam", "binary_crossentropy")
    trained(model, 1, Checkpoint(tmp_path / "c.npz"))
    other = network(units=5)
    checkpoint = Checkpoint(tmp_path / "c.npz")
    checkpoint.set_model(other)
    with pytest.raises(CheckpointError, match=r"c\.npz was written by another model.*remove the run's folder"):
        checkpoint.restore_model()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_damaged_file_is_named(content, tmp_path):
    path = tmp_path / "c.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.npz is not a checkpoint, or is damaged.*remove the run's folder"):
        Checkpoint(path)


def test_no_pickle_is_opened(tmp_path):
    np.savez(tmp_path / "c.npz", state=np.array([{"epochs": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Checkpoint(tmp_path / "c.npz")
