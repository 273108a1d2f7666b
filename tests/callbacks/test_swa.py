"""Averages against the mean of the captured weights."""

import keras
import numpy as np
import pytest

from pneumoseg.callbacks.swa import SWA

RNG = np.random.default_rng(0)
IMAGES, TARGETS = RNG.normal(size=(32, 6)).astype("float32"), RNG.normal(size=(32, 1))


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model


def trained(*callbacks, epochs=8):
    model, captured = network(), []
    capture = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: captured.append(model.get_weights()))
    model.fit(IMAGES, TARGETS, 8, epochs, shuffle=False, callbacks=[capture, *callbacks], verbose=0)
    return captured


WINDOWS = {(3, 6): [3, 4, 5, 6], (1, 1): [1], (2, 8, 3): [2, 5, 8], (3, 8, 2): [3, 5, 7], (7, 20): [7, 8]}


@pytest.fixture(scope="module")
def alone():
    """The weights at the ends of the epochs of a training without averages."""
    return trained()


@pytest.fixture(scope="module")
def averaged():
    """The same training with an average for each window."""
    swas = {window: SWA(*window) for window in WINDOWS}
    return trained(*swas.values()), swas


@pytest.mark.parametrize(("window", "epochs"), WINDOWS.items())
def test_average_is_the_mean_of_the_epochs_ends(window, epochs, averaged):
    captured, swas = averaged
    assert swas[window].count == len(epochs)
    for number, average in enumerate(swas[window].average):
        expected = np.mean([captured[epoch - 1][number].astype(float) for epoch in epochs], axis=0)
        assert average.dtype == np.float32
        np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-6)


def test_training_is_not_disturbed(alone, averaged):
    for one, other in zip(alone, averaged[0], strict=True):
        for values, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(values, same)


def test_state_is_all_that_a_mean_needs():
    model, first, second = network(), SWA(1, 4), SWA(1, 4)
    for epoch in range(4):
        model.set_weights([values + epoch for values in model.get_weights()])
        for swa in (first, second):
            swa.set_model(model)
        first.on_epoch_end(epoch)
        if epoch == 1:
            second.set_state(first.get_state())
        if epoch > 1:
            second.on_epoch_end(epoch)
    assert second.count == 4
    for values, same in zip(first.average, second.average, strict=True):
        np.testing.assert_array_equal(values, same)


@pytest.mark.parametrize("window", [(0, 3), (4, 3), (1, 3, 0)])
def test_wrong_window(window):
    with pytest.raises(ValueError, match="one-based and inclusive"):
        SWA(*window)
