"""Stochastic weight averaging: the mean of the weights of several epochs."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def running_mean(mean: Sequence[np.ndarray], weights: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Return the mean of `count` samples of weights from the mean of the samples before and the latest one.

    Args:
        mean: Mean of the first `count - 1` samples, float32; ignored if `count` is 1.
        weights: Latest sample, as `model.get_weights()` orders it.
        count: Number of samples, the latest included; 1 or more.

    Returns:
        The mean, float32, in new arrays.

    Example:
        >>> first = running_mean([], [np.array([1.0, 2.0])], 1)
        >>> running_mean(first, [np.array([3.0, 6.0])], 2)
        [array([2., 4.], dtype=float32)]
    """
    samples = [values.astype(np.float32) for values in weights]
    if count == 1:
        return samples
    return [before + (values - before) / count for before, values in zip(mean, samples, strict=True)]


class SWA(keras.callbacks.Callback):
    """Keep the mean of the weights at the ends of the epochs from `start_epoch` to `end_epoch`.

    With `every=1` these are all epochs of a window, as in the paper (section 4.1.2). With the length of the learning
    rate's cycle it is classic SWA (Izmailov et al. 2018), with one sample at the end of each cycle. The weights being
    trained are left unchanged. The statistics of batch normalization are averaged like the rest and then fit no
    network: `models.batch_statistics` recomputes them.

    Works across several calls of `fit`.

    Args:
        start_epoch: First epoch that is sampled, counted from 1.
        end_epoch: Last epoch that may be sampled, counted from 1.
        every: Number of epochs from one sample to the next.

    Attributes:
        count: Number of samples so far.
        average: Mean of the samples, float32, as `model.get_weights()` orders them; empty before the first sample.

    Raises:
        ValueError: If the window is empty or begins before the first epoch.

    Example:
        >>> swa = SWA(start_epoch=13, end_epoch=16)
        >>> model.fit(images, masks, epochs=37, callbacks=[swa])  # doctest: +SKIP
        >>> model.set_weights(swa.average)  # doctest: +SKIP
    """

    def __init__(self, start_epoch: int, end_epoch: int, every: int = 1) -> None:
        super().__init__()
        if not 1 <= start_epoch <= end_epoch or every < 1:
            raise ValueError(
                "SWA needs 1 <= start_epoch <= end_epoch, one-based and inclusive, and every >= 1; "
                f"got {start_epoch=}, {end_epoch=}, {every=}"
            )
        self.start_epoch, self.end_epoch, self.every = start_epoch, end_epoch, every
        self.count = 0
        self.average: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Add this epoch's weights to the mean if it is one of the sampled epochs."""
        since_start = epoch + 1 - self.start_epoch
        if not (0 <= since_start <= self.end_epoch - self.start_epoch and since_start % self.every == 0):
            return
        self.count += 1
        self.average = running_mean(self.average, self.model.get_weights(), self.count)

    def get_state(self) -> dict[str, Any]:
        """Return the number of samples and their mean."""
        return {"count": self.count, "average": self.average}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue with what `get_state` returned."""
        self.count, self.average = state["count"], state["average"]
