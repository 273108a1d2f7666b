"""Write each epoch's values to a CSV as soon as they are known."""

import time
from pathlib import Path

import keras
import pandas as pd

from pneumoseg.atomic_write import atomic_write


class HistoryFile(keras.callbacks.Callback):
    """One row an epoch: `epoch` (one-based), `seconds`, `learning_rate` at its beginning, and all logs.

    The file is whole after each epoch. Works across several calls of `fit`.

    Args:
        path: The CSV.
        epochs: How many epochs of an earlier process to go on from; the rows of later ones are dropped.

    Raises:
        ValueError: If the file has fewer rows.
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
                    "the run's folder to train anew"
                )
            self._rows = table.head(epochs).to_dict("records")
        self._begin, self._learning_rate = 0.0, 0.0

    @property
    def table(self) -> pd.DataFrame:
        """The rows so far."""
        return pd.DataFrame(self._rows)

    @property
    def last_logs(self) -> dict[str, float]:
        """The last row's logs, and the learning rate at its beginning."""
        return {name: value for name, value in self._rows[-1].items() if name not in ("epoch", "seconds")}

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock, and note the learning rate before other callbacks change it."""
        self._begin = time.perf_counter()
        self._learning_rate = float(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the table anew, to a temporary name first."""
        seconds = time.perf_counter() - self._begin
        row = {"epoch": epoch + 1, "seconds": round(seconds, 2), "learning_rate": self._learning_rate}
        self._rows.append(row | {name: float(value) for name, value in (logs or {}).items()})
        with atomic_write(self._path) as temporary:
            self.table.to_csv(temporary, index=False)
