"""A run's curves while it trains."""

import io
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from pneumoseg.atomic_write import atomic_write
from pneumoseg.report.curves import draw_curves


class LiveCurves(keras.callbacks.Callback):
    """Draw a run's history after each epoch, to `curves.png` and as an image in TensorBoard.

    Args:
        run: The run's folder, in which an earlier callback has written `history.csv`.
        monitor: The metric that chooses the best epoch, see `draw_curves`.
        further: Further arguments of `draw_curves`.
    """

    def __init__(self, run: Path, monitor: str, **further: Any) -> None:
        super().__init__()
        self._run, self._monitor, self._further = run, monitor, further
        self._writer: tf.summary.SummaryWriter | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Draw anew."""
        picture = io.BytesIO()
        figure = draw_curves(pd.read_csv(self._run / "history.csv"), self._monitor, **self._further)
        figure.savefig(picture, dpi=120, format="png")
        with atomic_write(self._run / "curves.png") as temporary:
            temporary.write_bytes(picture.getvalue())
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._run / "tensorboard" / "curves"))
        with self._writer.as_default():
            tf.summary.image("curves", tf.io.decode_png(picture.getvalue(), channels=3)[None], step=epoch)
        self._writer.flush()
