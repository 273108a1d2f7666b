"""Keep the model of the best epoch."""

import math
from collections.abc import Callable

import keras
import pandas as pd


class BestBundle(keras.callbacks.Callback):
    """Save the model at the end of each epoch that is better than all epochs before.

    Works across several calls of `fit`, so that the best epoch of all phases is kept.

    Args:
        monitor: Name of a value in the logs; greater is better.
        save: Function that saves the model, called as `save(model, logs)`.

    Attributes:
        best: Best value so far; -inf before the first epoch.
        best_epoch: Epoch of the best value, counted from 1; 0 before the first epoch.

    Example:
        >>> best = BestBundle("val_iou", lambda model, logs: model.save_weights("best.weights.h5"))
        >>> model.fit(images, masks, validation_data=validation, callbacks=[best])  # doctest: +SKIP
        >>> best.best_epoch
        0
    """

    def __init__(self, monitor: str, save: Callable[[keras.Model, dict[str, float]], None]) -> None:
        super().__init__()
        self.monitor, self._save = monitor, save
        self.best, self.best_epoch = -math.inf, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare the epoch with the best one, and save the model if it is better.

        Raises:
            ValueError: If the logs do not hold the monitored value.
        """
        logs = logs or {}
        if self.monitor not in logs:
            raise ValueError(f"BestBundle monitors {self.monitor!r}, but the logs hold {', '.join(sorted(logs))}")
        if self._improves(epoch + 1, logs[self.monitor]):
            self._save(self.model, logs)

    def resume(self, history: pd.DataFrame) -> None:
        """Continue after epochs that an earlier process trained.

        If the last of them is the best, the model is saved again: the process may have died before it did.

        Args:
            history: Table with `epoch` and the monitored value, one row per epoch, see `HistoryFile`. The callback's
                model has the weights of the last epoch.
        """
        improved = False
        for row in history.to_dict("records"):
            improved = self._improves(int(row["epoch"]), row[self.monitor])
        if improved:
            self._save(self.model, row)

    def _improves(self, epoch: int, value: float) -> bool:
        # A first NaN is kept too, so that the run ends with a bundle: a score can be undefined although the loss is
        # not. A training that diverges does not get here, see `FiniteLoss`.
        if not (value > self.best or self.best_epoch == 0):
            return False
        self.best, self.best_epoch = value if not math.isnan(value) else -math.inf, epoch
        return True
