"""Keep the weights of each epoch, so that any of them can be averaged later."""

from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np

from pneumoseg.atomic_write import atomic_write


class EpochWeights(keras.callbacks.Callback):
    """Write the weights after each epoch to `epoch_001.npz` and so on, within a budget.

    An array is written as float16 if that changes no value by more than a thousandth or 1e-7, else as float32. If the
    files exceed the budget, the epochs with the lowest monitored values are deleted first.

    Args:
        folder: Folder to write to.
        gigabytes: Budget in gigabytes (10^9 bytes).
        monitor: Name of a value in the logs; greater is better.

    Example:
        >>> kept = EpochWeights("run/epochs", gigabytes=2, monitor="val_iou")
        >>> model.fit(images, masks, validation_data=validation, callbacks=[kept])  # doctest: +SKIP
        >>> load_epoch_weights("run/epochs", 3)  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, gigabytes: float, monitor: str) -> None:
        super().__init__()
        self._folder, self._bytes, self._monitor = Path(folder), gigabytes * 1e9, monitor

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write this epoch's weights, then delete what exceeds the budget.

        Raises:
            ValueError: If the budget does not hold a single epoch.
        """
        arrays = {f"w{number:06}": _compact(values) for number, values in enumerate(self.model.get_weights())}
        with atomic_write(epoch_path(self._folder, epoch + 1)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, monitored=np.array((logs or {})[self._monitor]), **arrays)
        size = epoch_path(self._folder, epoch + 1).stat().st_size
        if size > self._bytes:
            raise ValueError(
                f"an epoch's weights take {size / 1e9:.3g} gigabytes, and epoch_weights_gigabytes is "
                f"{self._bytes / 1e9:.3g}: raise it, or set it to 0 to keep none"
            )
        kept = sorted(self._folder.glob("epoch_*.npz"), key=_monitored)
        while kept and sum(path.stat().st_size for path in kept) > self._bytes:
            kept.pop(0).unlink()


def epoch_path(folder: Path, epoch: int) -> Path:
    """Return the file of an epoch, counted from 1."""
    return folder / f"epoch_{epoch:03}.npz"


def load_epoch_weights(folder: str | Path, epoch: int) -> list[np.ndarray]:
    """Read the weights of an epoch.

    Args:
        folder: Folder that an `EpochWeights` wrote to.
        epoch: Number of the epoch, counted from 1.

    Returns:
        float32, as `model.get_weights()` orders them.

    Raises:
        ValueError: If the epoch was not kept, or its file is damaged.
    """
    path = epoch_path(Path(folder), epoch)
    if not path.exists():
        raise ValueError(
            f"{path}: the weights of epoch {epoch} were not kept; choose other epochs, or train with a larger "
            "epoch_weights_gigabytes"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name].astype(np.float32) for name in file.files if name.startswith("w")]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}): choose other epochs") from error


def _compact(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.allclose(half, values, rtol=1e-3, atol=1e-7) else values.astype(np.float32)


def _monitored(path: Path) -> float:
    with np.load(path, allow_pickle=False) as file:
        value = float(file["monitored"])
    return -np.inf if np.isnan(value) else value
