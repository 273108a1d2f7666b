"""Stop a training whose loss has become NaN or infinite."""

import math
from pathlib import Path

import keras
import numpy as np


class DivergedError(ValueError):
    """Error of a training that diverged; names its folder, the epoch, the files that are kept, and the remedy.

    Example:
        >>> try:  # doctest: +SKIP
        ...     train(task, manifest, run)
        ... except DivergedError as error:
        ...     print(error)
    """


class FiniteLoss(keras.callbacks.Callback):
    """End a training at a batch or an epoch whose loss, or whose weights, are NaN or infinite.

    Put it before the callbacks that write, so that the checkpoint, the history and the best bundle stay those of the
    epochs before. A metric that is undefined, such as the AUC of a single class, does not count as a loss. A step that
    a float16 training skips because its scaled gradients overflow has a finite loss, and changes no weight.

    Args:
        folder: The run's folder, for the error message.
        best: Folder of the best epoch's bundle, for the error message.

    Raises:
        DivergedError: At the end of the batch or the epoch.

    Example:
        >>> finite = FiniteLoss("runs/segmenter", "runs/segmenter/best")
        >>> model.fit(images, masks, callbacks=[finite, BestBundle("val_iou", save)])  # doctest: +SKIP
    """

    async_safe = True  # Keras need not wait for each batch's loss before it sends the next

    def __init__(self, folder: str | Path, best: str | Path) -> None:
        super().__init__()
        self._folder, self._best, self._epoch, self._rate = Path(folder), Path(best), 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch and its learning rate, for the error message."""
        self._epoch = epoch
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check the mean loss since the beginning of the epoch."""
        self._check("loss", logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Check both losses, and the weights, which a last step can spoil without any training loss showing it."""
        self._check("loss", logs)
        self._check("val_loss", logs)
        for weights in self.model.weights:
            # JAX would compile an operation for each shape.
            if not np.isfinite(keras.ops.convert_to_numpy(weights)).all():
                raise self._diverged(f"{weights.path} is not finite")

    def _check(self, name: str, logs: dict[str, float] | None) -> None:
        value = (logs or {}).get(name, 0.0)
        if not math.isfinite(value):
            raise self._diverged(f"{name} is {value}")

    def _diverged(self, found: str) -> DivergedError:
        kept = "nothing was kept"
        if self._epoch:
            kept = f"kept are the epochs up to {self._epoch}, the best of them in {self._best}"
        return DivergedError(
            f"{self._folder}: the training diverged in epoch {self._epoch + 1}, at a learning rate of "
            f"{self._rate:.3g}: {found}; {kept}. With --resume the same settings end "
            "here again: lower learning_rate, take precision float32 or mixed_bfloat16 where it is mixed_float16, or "
            "look for broken images with `pneumoseg show-masks`, and train in another folder"
        )
