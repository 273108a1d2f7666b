"""The one thing that a pipeline asks of a network, whichever library computes it."""

from typing import Protocol

import numpy as np


class Network(Protocol):
    """A trained network that gives probabilities."""

    @property
    def name(self) -> str:
        """Name of the network, such as "classifier_xception"."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width of the images that it takes, in pixels."""
        ...

    @property
    def parameters(self) -> int:
        """Number of its weights."""
        ...

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the probabilities of a batch.

        Args:
            images: uint8, (n, image_size, image_size, 1), with n of 1 or more.

        Returns:
            float32, in [0, 1]: (n, 1) from a classifier, (n, image_size, image_size, 1) from a segmenter.
        """
        ...
