"""Curves of a run while it trains."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from pneumoseg.atomic_write import atomic_write
from pneumoseg.report.curves import draw_curves
from pneumoseg.training.run import Run
from pneumoseg.training.schedule import learning_rates
from pneumoseg.training.tasks import SegmenterTask, Task


class LiveCurves(keras.callbacks.Callback):
    """Draw the history of a run after each epoch, to `curves.png` and as an image in TensorBoard.

    Args:
        run: Run whose history an earlier callback has written.
        monitor: Metric that chooses the best epoch, without `val_`, see `draw_curves`.
        further: Further arguments of `draw_curves`.

    Example:
        >>> train(task, manifest, run, make_callback=lambda run: LiveCurves(run, "iou"))  # doctest: +SKIP
    """

    def __init__(self, run: Run, monitor: str, **further: Any) -> None:
        super().__init__()
        self._run, self._monitor, self._further = run, monitor, further
        self._writer: tf.summary.SummaryWriter | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Draw the curves with the new epoch."""
        picture = io.BytesIO()
        figure = draw_curves(self._run.history(), self._monitor, **self._further)
        figure.savefig(picture, dpi=120, format="png")
        with atomic_write(self._run.curves) as temporary:
            temporary.write_bytes(picture.getvalue())
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._run.tensorboard / "curves"))
        with self._writer.as_default():
            tf.summary.image("curves", tf.io.decode_png(picture.getvalue(), channels=3)[None], step=epoch)
        self._writer.flush()


def live_curves(task: Task) -> Callable[[Run], LiveCurves]:
    """Return a function that makes the callback which draws the curves of a run of this task.

    Args:
        task: Task of the training; of a segmenter the averaged epochs and the learning rate are drawn too.

    Example:
        >>> train(task, manifest, run, make_callback=live_curves(task))  # doctest: +SKIP
    """
    if isinstance(task, SegmenterTask):
        chosen, rates = task.settings.swa, learning_rates(task.settings.phases)
        averaged = range(chosen.start_epoch, chosen.end_epoch + 1, chosen.every) if chosen else ()
        return partial(LiveCurves, monitor="iou", averaged=averaged, learning_rates=rates)
    return partial(LiveCurves, monitor="mcc")
