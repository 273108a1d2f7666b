"""Batch statistics of weights that were never trained as they are, such as averaged weights."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pneumoseg.models.freezing import flat_layers
from pneumoseg.xla import compiled_by_jax


def recompute_batch_statistics(model: keras.Model, batches: Iterable) -> None:
    """Replace the moving mean and variance of each `BatchNormalization` by the statistics of all batches.

    Such a pass is required after weight averaging (Izmailov et al. 2018, section 3.2). The network runs in training
    mode, in which each layer normalizes with the statistics of its batch. Frozen layers use their moving statistics in
    training too, so these are kept.

    The statistics are cumulative instead of moving, so that every image has the same weight. The mean is the mean of
    the batch means. The variance is the mean of the batch variances plus the variance of the batch means (law of total
    variance). Both are weighted by batch size.

    Args:
        model: Network to change in place. Everything but the statistics is kept; a network without batch normalization
            is not changed.
        batches: Batches of images, or pairs of images and targets; iterated once.

    Raises:
        ValueError: If there is no batch.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])  # doctest: +SKIP
        >>> recompute_batch_statistics(model, [np.array([[1.0], [3.0]]), np.array([[5.0], [7.0]])])  # doctest: +SKIP
        >>> float(model.layers[0].moving_mean[0]), float(model.layers[0].moving_variance[0])  # doctest: +SKIP
        (4.0, 5.0)
    """
    layers = [
        layer for layer in flat_layers(model) if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    count = 0
    means, squares = [0.0] * len(layers), [0.0] * len(layers)
    try:
        for layer in layers:
            layer.momentum = 0.0  # the moving statistics are then those of the last batch
            layer.moving_variance.assign(np.ones(layer.moving_variance.shape))  # 0 times infinity is NaN
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        run = _graph_of(model)
        for batch in batches:
            images = batch[0] if isinstance(batch, tuple) else batch
            run(images)
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
        raise ValueError("there is no batch to compute statistics from: pass at least one")
    for layer, mean_sum, square_sum in zip(layers, means, squares, strict=True):
        mean = np.asarray(mean_sum) / count
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(np.asarray(square_sum) / count - mean**2, 0))


def _graph_of(model: keras.Model) -> Callable[[Any], Any]:
    """Return a function that runs the network in training mode, with the momenta of its first call.

    An eager call keeps the output of every layer until it returns. A graph frees each output after its last use.
    """
    if keras.backend.backend() == "tensorflow":
        return tf.function(functools.partial(model, training=True), reduce_retracing=True)
    compute = compiled_by_jax(model, training=True)

    def run(images: Any) -> None:
        _, values = compute(images)
        for variable, value in zip(model.non_trainable_variables, values, strict=True):
            variable.assign(value)

    return run
