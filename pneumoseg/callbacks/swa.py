"""Average the weights of several epochs (stochastic weight averaging)."""

import keras
import numpy as np


class SWA(keras.callbacks.Callback):
    """Keep a running average of the weights at the ends of epochs from `start_epoch` to `end_epoch`.

    With `every=1` these are all epochs of a window, as the paper averages (section 4.1.2); with the length of the
    learning rate's cycle it is classic SWA (Izmailov et al. 2018), one sample at each cycle's end. The weights being
    trained are left as they are. Statistics of batch normalization are averaged with the rest, which makes them
    those of no network: `models.batch_statistics` recomputes them.

    Works across several calls of `fit`.

    Args:
        start_epoch: The first epoch that is sampled, one-based.
        end_epoch: The last one that can be, one-based and inclusive.
        every: Epochs from one sample to the next.

    Attributes:
        count: How many samples have been taken.
        average: float32, as `model.get_weights()` orders them; empty before the first sample.

    Raises:
        ValueError: If the window is empty or begins before the first epoch.
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
        """Take a sample if it is time."""
        since_start = epoch + 1 - self.start_epoch
        if not (0 <= since_start <= self.end_epoch - self.start_epoch and since_start % self.every == 0):
            return
        self.count += 1
        weights = [values.astype(np.float32) for values in self.model.get_weights()]
        if self.count == 1:
            self.average = weights
        for average, values in zip(self.average, weights, strict=True):
            average += (values - average) / self.count
