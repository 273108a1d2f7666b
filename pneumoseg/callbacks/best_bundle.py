"""Keep the model of the best epoch."""

import math
from collections.abc import Callable

import keras
import pandas as pd


class BestBundle(keras.callbacks.Callback):
    """Save the model at the end of each epoch that is better than all before.

    Works across several calls of `fit`, so that the best of all phases is kept.

    Args:
        monitor: Name of the value in the logs; greater is better.
        save: Called as `save(model, logs)`.

    Attributes:
        best: The best value so far, -inf before the first epoch.
        best_epoch: Its epoch, one-based; 0 before the first.
    """

    def __init__(self, monitor: str, save: Callable[[keras.Model, dict[str, float]], None]) -> None:
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
        if self._improves(epoch + 1, logs[self.monitor]):
            self._save(self.model, logs)

    def resume(self, history: pd.DataFrame) -> None:
        """Go on after epochs that an earlier process trained.

        Where the last of them is the best, the model is saved again: the process may have died before it did.

        Args:
            history: One row an epoch with `epoch` and the monitored value, see `HistoryFile`; the callback's model has
                the weights of the last one.
        """
        improved = False
        for row in history.to_dict("records"):
            improved = self._improves(int(row["epoch"]), row[self.monitor])
        if improved:
            self._save(self.model, row)

    def _improves(self, epoch: int, value: float) -> bool:
        # A first NaN is kept too: a measure can be undefined where the loss is not, and the run ends with a bundle. One
        # that diverges does not come here, see `FiniteLoss`.
        if not (value > self.best or self.best_epoch == 0):
            return False
        self.best, self.best_epoch = value if not math.isnan(value) else -math.inf, epoch
        return True
