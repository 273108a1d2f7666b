"""Recompute what batch normalization knows of its inputs, for weights that no training has seen, such as averages."""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from pneumoseg.models.freezing import flat_layers


def recompute_batch_statistics(model: keras.Model, batches: Iterable) -> None:
    """Replace each `BatchNormalization`'s moving mean and variance by those over all of the batches.

    The network runs in training mode, each layer normalizing with its batch, as it trains. A frozen layer trains with
    its moving statistics, which therefore stay. The statistics are
    cumulative and not moving ones, so that each image counts the same: the mean of the batches' means, and the mean of
    their variances plus the variance of their means (law of total variance), weighted by the batches' sizes. Izmailov
    et al. 2018 (section 3.2) need such a pass after weight averaging.

    Args:
        model: Its weights and all else stay as they are; a network without batch normalization is left alone.
        batches: Images, or pairs of images and targets; gone through once.

    Raises:
        ValueError: If there is no batch.
    """
    layers = [
        layer for layer in flat_layers(model) if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    # An eager call keeps every layer's output until it ends; a graph lets each go after its last use. It is traced
    # below, when the momenta are 0, and goes with this call.
    run = tf.function(model, reduce_retracing=True) if keras.backend.backend() == "tensorflow" else model
    count = 0
    means, squares = [0.0] * len(layers), [0.0] * len(layers)
    try:
        for layer in layers:
            layer.momentum = 0.0  # so that its moving statistics are those of the last batch
            layer.moving_variance.assign(keras.ops.ones_like(layer.moving_variance))  # 0 times infinity is NaN
            layer.moving_mean.assign(keras.ops.zeros_like(layer.moving_mean))
        for batch in batches:
            images = batch[0] if isinstance(batch, tuple) else batch
            run(images, training=True)
            size = len(images)
            count += size
            for number, layer in enumerate(layers):
                mean, variance = (
                    keras.ops.convert_to_numpy(values).astype(np.float64)
                    for values in (layer.moving_mean, layer.moving_variance)
                )
                means[number] = means[number] + size * mean
                squares[number] = squares[number] + size * (variance + mean**2)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if not count:
        raise ValueError("there is no batch to compute statistics of")
    for layer, mean_sum, square_sum in zip(layers, means, squares, strict=True):
        mean = np.asarray(mean_sum) / count
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(np.asarray(square_sum) / count - mean**2, 0))
