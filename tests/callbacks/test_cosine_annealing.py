"""The learning rate, step by step, against the formula."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from pneumoseg.callbacks.cosine_annealing import CosineAnnealing, annealed_rate
from pneumoseg.callbacks.epochwise_callbacks import EpochwiseCallbacks


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0, 1.0),
        (1, 0.55),
        (0.5, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2),
        (2, 1.0),
        (4, 0.55),
        (6, 1.0),
        (10, 0.55),
    ],
)
def test_by_hand_with_restarts_and_growing_cycles(position, expected):
    # Cycles of 2, 4 and 8 epochs: they begin at 0, 2 and 6.
    assert annealed_rate(position, 1.0, 2, 2, 0.1) == pytest.approx(expected)


def test_end_of_a_cycle_approaches_the_minimum():
    assert annealed_rate(4.999999, 1e-4, 5, 1, 1e-6) == pytest.approx(1e-6, rel=1e-3)
    assert annealed_rate(5, 1e-4, 5, 1, 1e-6) == 1e-4


ON_JAX = keras.backend.backend() == "jax"


class Rates(keras.callbacks.Callback):
    """Note how far each step moves the weight, which is its rate."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        weight = self.model.weights[0]
        self.rates.append(float(keras.ops.convert_to_numpy(weight)[0, 0]))
        weight.assign([[0.0]])


def rising(optimizer):
    """Return a network of one weight, which rises by the rate in each step: the gradient of its negative is -1."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizer, lambda true, pred: -pred, jit_compile=ON_JAX)
    return model


def batches_of_one(steps):
    return tf.data.Dataset.from_tensor_slices((np.ones((steps, 1, 1)), np.ones((steps, 1, 1))))


@pytest.mark.parametrize("scaled", [False, True])
def test_every_step_has_its_rate_whatever_the_length_of_the_epochs(scaled):
    sgd = keras.optimizers.SGD(0.5)
    model = rising(keras.optimizers.LossScaleOptimizer(sgd, initial_scale=1.0) if scaled else sgd)
    annealing, noted, expected = CosineAnnealing(0.01, 3, 1, 0.001, first_epoch=2), Rates(), []
    for epoch, steps in ((2, 4), (3, 10), (4, 5), (5, 4)):
        model.fit(batches_of_one(steps), initial_epoch=epoch, epochs=epoch + 1, callbacks=[annealing, noted], verbose=0)
        for step in range(steps):
            fraction = ((epoch - 2) % 3 + step / steps) / 3
            expected.append(0.001 + 0.009 * (1 + math.cos(math.pi * fraction)) / 2)
    assert noted.rates == pytest.approx(expected, rel=1e-6)
    assert noted.rates[0] == noted.rates[19] == pytest.approx(0.01)  # the restart


def test_the_rates_of_steps_that_nothing_looks_at():
    """On JAX, only then are the variables not copied into the network after each step."""
    model = rising(keras.optimizers.SGD(0.5))
    model.fit(batches_of_one(4), epochs=2, callbacks=[CosineAnnealing(0.01, 2)], verbose=0)
    rates = [0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert model.get_weights()[0][0, 0] == pytest.approx(sum(rates), rel=1e-5)
    assert float(model.optimizer.learning_rate) == pytest.approx(rates[-1], rel=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
def test_phases_that_call_fit_once_per_epoch(scaled):
    """Callbacks of a phase begin before `fit` has built the optimizer."""
    model = rising(keras.optimizers.SGD(0.5))
    for _ in range(2):
        sgd = keras.optimizers.SGD(0.5)
        optimizer = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=1.0) if scaled else sgd
        model.compile(optimizer, lambda true, pred: -pred, jit_compile=ON_JAX)
        callbacks = EpochwiseCallbacks([CosineAnnealing(0.01, 2)], model, epochs=2, verbose=0)
        callbacks.begin_phase(batches_of_one(4))
        for epoch in range(2):
            model.fit(batches_of_one(4), initial_epoch=epoch, epochs=epoch + 1, callbacks=callbacks, verbose=0)
        callbacks.end_phase()
    rates = [0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert model.get_weights()[0][0, 0] == pytest.approx(2 * sum(rates), rel=1e-5)


class Interrupted(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_an_interrupted_training_leaves_no_rate_behind():
    model, noted = rising(keras.optimizers.SGD(0.5)), Rates()
    for maximum in (0.01, 0.02):
        with pytest.raises(KeyboardInterrupt):
            model.fit(batches_of_one(2), callbacks=[CosineAnnealing(maximum, 2), noted, Interrupted()], verbose=0)
    model.optimizer.learning_rate = 0.25
    model.fit(batches_of_one(2), callbacks=[noted], verbose=0)
    model.fit(batches_of_one(2), callbacks=[CosineAnnealing(0.04, 1), noted], verbose=0)
    assert noted.rates == pytest.approx([0.01, 0.02, 0.25, 0.25, 0.04, 0.02])


@pytest.mark.parametrize(
    "numbers",
    [{"cycle": 0}, {"cycle": 2, "multiplier": 0.5}, {"cycle": 2, "minimum": 0.2}, {"cycle": 2, "minimum": -1}],
)
def test_wrong_numbers(numbers):
    with pytest.raises(ValueError, match="CosineAnnealing needs cycle > 0"):
        CosineAnnealing(0.1, **numbers)
