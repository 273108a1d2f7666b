"""Networks computed by Keras, as they were trained."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from pneumoseg.xla import compiled_by_jax


class KerasNetwork:
    """A Keras model as a network of a pipeline, see `Network`.

    Args:
        model: Network from images, (batch, size, size, 1) in [0, 255], to probabilities.
        full_batch: Number of images that each batch is filled up to; None for batches as they come. XLA would compile
            again for each number of images, which takes minutes. Without XLA a smaller batch costs less than a full
            one.

    Example:
        >>> network = KerasNetwork(build_classifier("compact", 64, weights=None))  # doctest: +SKIP
        >>> network(np.zeros((2, 64, 64, 1), np.uint8)).shape  # doctest: +SKIP
        (2, 1)
    """

    def __init__(self, model: keras.Model, full_batch: int | None = None) -> None:
        self.model, self.full_batch = model, full_batch
        self.name: str = model.name
        self.image_size: int = model.input_shape[1]
        self.parameters: int = model.count_params()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the probabilities of a batch, see `Network`."""
        missing = max(0, (self.full_batch or 0) - len(images))
        full = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
        return np.asarray(self._graph(full))[: len(images)]

    @functools.cached_property
    def _graph(self) -> Callable[[np.ndarray], Any]:
        """The model as one graph for every number of images; `predict_on_batch` traces a second one, in up to 10 s.

        JAX compiles one for each number of images.
        """
        if keras.backend.backend() == "jax":
            compute = compiled_by_jax(self.model, training=False)
            return lambda images: compute(images)[0]
        import tensorflow as tf

        anything = tf.TensorSpec((None, self.image_size, self.image_size, 1), tf.uint8)
        run = functools.partial(self.model, training=False)
        # AutoGraph, which a model does not need, would leave generated code in the folder of temporary files.
        return tf.function(run, input_signature=[anything], autograph=False, jit_compile=self.model.jit_compile)
