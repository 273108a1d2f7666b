"""Write each epoch's values to a CSV as soon as they are known."""

import time
from pathlib import Path

import keras
import pandas as pd

from pneumoseg.whole_file import whole_file


class HistoryFile(keras.callbacks.Callback):
    """One row an epoch: `epoch` (one-based), `seconds`, `learning_rate` and all logs; whole after each epoch.

    Works across several calls of `fit`.

    Args:
        path: The CSV.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._path = Path(path)
        self._rows: list[dict[str, float]] = []
        self._begin = 0.0

    @property
    def table(self) -> pd.DataFrame:
        """The rows so far."""
        return pd.DataFrame(self._rows)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the table anew, to a temporary name first."""
        seconds = time.perf_counter() - self._begin
        learning_rate = float(self.model.optimizer.learning_rate)
        row = {"epoch": epoch + 1, "seconds": round(seconds, 2), "learning_rate": learning_rate}
        self._rows.append(row | {name: float(value) for name, value in (logs or {}).items()})
        with whole_file(self._path) as temporary:
            self.table.to_csv(temporary, index=False)
