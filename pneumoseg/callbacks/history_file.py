"""Table of all epochs, written after each of them."""

import time
from pathlib import Path

import keras
import pandas as pd

from pneumoseg.atomic_write import atomic_write


class HistoryFile(keras.callbacks.Callback):
    """Write a CSV with one row per epoch: `epoch`, `seconds`, `learning_rate` and all logs.

    Epochs are counted from 1, and `learning_rate` is that of the epoch's beginning. The file is complete after each
    epoch. Works across several calls of `fit`.

    Args:
        path: CSV to write.
        epochs: Number of epochs of an earlier process to continue from; rows of later epochs are dropped.

    Raises:
        ValueError: If the file has fewer rows.

    Example:
        >>> history = HistoryFile("run/history.csv")
        >>> model.fit(images, masks, epochs=2, callbacks=[history])  # doctest: +SKIP
        >>> history.table["epoch"].tolist()  # doctest: +SKIP
        [1, 2]
    """

    def __init__(self, path: str | Path, epochs: int = 0) -> None:
        super().__init__()
        self._path = Path(path)
        self._rows: list[dict[str, float]] = []
        if epochs:
            # The default parser may be off by the last bit, and the best epoch is found among these numbers.
            table = pd.read_csv(path, float_precision="round_trip") if self._path.exists() else pd.DataFrame()
            if len(table) < epochs:
                raise ValueError(
                    f"{path} has {len(table)} of {epochs} epochs that were trained: put the whole file back, or remove "
                    "the run's folder to train again"
                )
            self._rows = table.head(epochs).to_dict("records")
        self._begin, self._learning_rate = 0.0, 0.0

    @property
    def table(self) -> pd.DataFrame:
        """The rows so far."""
        return pd.DataFrame(self._rows)

    @property
    def last_logs(self) -> dict[str, float]:
        """The logs of the last row, and the learning rate at the beginning of its epoch."""
        return {name: value for name, value in self._rows[-1].items() if name not in ("epoch", "seconds")}

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock, and note the learning rate before other callbacks change it."""
        self._begin = time.perf_counter()
        self._learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Add this epoch's row and replace the file."""
        seconds = time.perf_counter() - self._begin
        row = {"epoch": epoch + 1, "seconds": round(seconds, 2), "learning_rate": self._learning_rate}
        self._rows.append(row | {name: float(value) for name, value in (logs or {}).items()})
        with atomic_write(self._path) as temporary:
            self.table.to_csv(temporary, index=False)
