"""Comparison of recomputed batch statistics with the statistics of all inputs, computed without Keras."""

import functools

import keras
import numpy as np
import pytest

from pneumoseg.models import batch_statistics
from pneumoseg.models.batch_statistics import recompute_batch_statistics
from pneumoseg.models.segmenter import build_segmenter

IMAGES = np.random.default_rng(0).normal(3, 2, size=(23, 6)).astype("float32")


def batches(size):
    return [(IMAGES[first : first + size], None) for first in range(0, 23, size)]


def normalizing(momentum=0.99):
    keras.utils.set_random_seed(0)
    first, second = keras.layers.BatchNormalization(momentum=momentum), keras.layers.BatchNormalization()
    return keras.Sequential([keras.Input((6,)), first, keras.layers.Dense(4), second]), first, second


@pytest.mark.parametrize("size", [23, 8, 5])
def test_first_layer_has_the_statistics_of_all_images(size):
    model, first, _ = normalizing()
    first.moving_mean.assign(np.full(6, 99.0))
    first.moving_variance.assign(np.full(6, np.inf))
    recompute_batch_statistics(model, batches(size))
    np.testing.assert_allclose(first.moving_mean, IMAGES.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance, IMAGES.var(0), rtol=1e-4)


def test_deeper_layer_has_those_of_inputs_normalized_by_batch():
    model, first, second = normalizing()
    kernel, bias = (np.array(values) for values in model.layers[1].get_weights())
    inputs = []
    for images, _ in batches(8):
        normalized = (images - images.mean(0)) / np.sqrt(images.var(0) + first.epsilon)
        inputs.append(normalized @ kernel + bias)
    inputs = np.concatenate(inputs)
    recompute_batch_statistics(model, batches(8))
    np.testing.assert_allclose(second.moving_mean, inputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(second.moving_variance, inputs.var(0), rtol=1e-4)


def test_everything_else_is_unchanged():
    model, first, second = normalizing(momentum=0.7)
    second.trainable = False  # a frozen layer uses its moving statistics, so they are kept
    second.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    before = [np.array(weights) for weights in [*model.layers[1].weights, first.gamma, first.beta]]
    recompute_batch_statistics(model, batches(8))
    after = [*model.layers[1].weights, first.gamma, first.beta]
    for values, same in zip(before, after, strict=True):
        np.testing.assert_array_equal(values, same)
    assert (first.momentum, second.momentum, second.trainable) == (0.7, 0.99, False)
    assert np.array(second.moving_mean).tolist() == [1, 2, 3, 4]
    assert np.array(second.moving_variance).tolist() == [1, 1, 1, 1]


def test_whole_segmenter_agrees_with_its_own_training_mode_on_one_batch():
    keras.utils.set_random_seed(0)
    model = build_segmenter("unet", "compact", 32, weights=None)
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    recompute_batch_statistics(model, [images])
    np.testing.assert_allclose(model(images, training=False), model(images, training=True), atol=1e-5)


def test_without_batches_or_normalization():
    model, first, _ = normalizing()
    with pytest.raises(ValueError, match="no batch"):
        recompute_batch_statistics(model, [])
    assert first.momentum == 0.99
    recompute_batch_statistics(keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)]), batches(8))


class Noting(keras.layers.Layer):
    """Counts the calls of its Python code: one per batch in an eager network, one per trace in a graph."""

    calls = 0

    def call(self, inputs):
        Noting.calls += 1
        return inputs


def test_network_runs_in_a_graph_which_keeps_no_outputs(monkeypatch):
    normalization = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((6,)), Noting(), normalization])
    monkeypatch.setattr(Noting, "calls", 0)
    recompute_batch_statistics(model, batches(2))  # eleven batches of 2 and one of 1
    assert Noting.calls <= 2
    np.testing.assert_allclose(normalization.moving_mean, IMAGES.mean(0), rtol=1e-5)


def test_graph_gives_the_statistics_of_the_eager_network(monkeypatch):
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, (size, 32, 32, 1), dtype=np.uint8) for size in (4, 4, 3)]
    weights = []
    for eager in (False, True):
        if eager:
            monkeypatch.setattr(batch_statistics, "_graph_of", lambda model: functools.partial(model, training=True))
        keras.utils.set_random_seed(0)
        model = build_segmenter("unet", "compact", 32, weights=None)
        recompute_batch_statistics(model, images)
        weights.append(model.get_weights())
    for graph, eager in zip(*weights, strict=True):
        np.testing.assert_allclose(graph, eager, rtol=1e-5, atol=1e-5)


def test_later_training_is_not_affected():
    model, first, _ = normalizing(momentum=0.5)
    recompute_batch_statistics(model, batches(23))
    model(IMAGES * 0 + 7, training=True)
    # The mean of the next batch, 7, has a weight of 0.5. If the momentum had stayed 0, its weight would be 1.
    np.testing.assert_allclose(first.moving_mean, (IMAGES.mean(0) + 7) / 2, rtol=1e-5)
