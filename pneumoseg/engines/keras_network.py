"""Networks computed by Keras, as they were trained."""

import keras
import numpy as np


class KerasNetwork:
    """A Keras model as a network of a pipeline, see `Network`.

    Args:
        model: Network from images, (batch, size, size, 1) in [0, 255], to probabilities.
        full_batch: Number of images that each batch is filled up to; None for batches as they come. XLA would compile
            again for each number of images, which takes minutes. Without XLA a smaller batch costs less than a full
            one, and is traced again only once.

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
        return np.asarray(self.model.predict_on_batch(full))[: len(images)]
