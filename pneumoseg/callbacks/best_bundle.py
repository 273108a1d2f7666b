"""Keep the model of the best epoch."""

import math
from collections.abc import Callable

import keras


class BestBundle(keras.callbacks.Callback):
    """Save the model at the end of each epoch that is better than all before.

    Works across several calls of `fit`, so that the best of all phases is kept.

    Args:
        monitor: Name of the value in the logs; greater is better.
        save: Called as `save(model)`.

    Attributes:
        best: The best value so far, -inf before the first epoch.
        best_epoch: Its epoch, one-based; 0 before the first.
    """

    def __init__(self, monitor: str, save: Callable[[keras.Model], None]) -> None:
        super().__init__()
        self.monitor, self._save = monitor, save
        self.best, self.best_epoch = -math.inf, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare and save.

        Raises:
            ValueError: If the logs do not hold the monitored value.
        """
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(f"BestBundle monitors {self.monitor!r}, and the logs hold {', '.join(sorted(logs))}")
        # A first NaN is kept too, so that a run that diverges still ends with a bundle to look at.
        if logs[self.monitor] > self.best or self.best_epoch == 0:
            self.best = logs[self.monitor] if not math.isnan(logs[self.monitor]) else -math.inf
            self.best_epoch = epoch + 1
            self._save(self.model)
