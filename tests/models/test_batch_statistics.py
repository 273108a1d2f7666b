"""Recomputed statistics against those of all inputs, computed apart from Keras."""

import keras
import numpy as np
import pytest

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


def test_all_else_stays_as_it_was():
    model, first, second = normalizing(momentum=0.7)
    second.trainable = False  # it trains with its moving statistics, so they stay
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
