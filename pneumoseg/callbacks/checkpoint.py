"""Save everything that a training needs to continue, after each epoch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zipfile import BadZipFile

import keras
import numpy as np

from pneumoseg.atomic_write import atomic_write


class CheckpointError(ValueError):
    """Error of a checkpoint that cannot be read or belongs to another network; names the file and the remedy.

    Example:
        >>> try:  # doctest: +SKIP
        ...     Checkpoint("damaged.npz")
        ... except CheckpointError as error:
        ...     print(error)
    """


@runtime_checkable
class Stateful(Protocol):
    """A callback with a state that a `Checkpoint` saves and restores.

    Example:
        >>> from pneumoseg.callbacks.swa import SWA
        >>> isinstance(SWA(1, 2), Stateful)
        True
    """

    def get_state(self) -> dict[str, Any]:
        """Return the state: plain numbers, None, or lists of arrays, by name."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue with what `get_state` returned."""


class Checkpoint(keras.callbacks.Callback):
    """Save the variables of the model and the optimizer, and the state of other callbacks, after each epoch.

    The file is replaced atomically. The model's variables include the statistics of batch normalization and the states
    of random layers. The optimizer's include its moments, its step and its learning rate. Whatever depends on the
    epoch's number alone, such as the order of the data, needs no saving. Keras' `BackupAndRestore` keeps no state of
    other callbacks.

    Put it after the callbacks whose state it keeps, and after the one that writes the history.

    Args:
        path: File to write, an uncompressed `.npz` without pickled objects.
        stateful: Callbacks whose state is kept.

    Attributes:
        epochs: Number of finished epochs when the file was written; 0 if there is no file.

    Raises:
        CheckpointError: If the file cannot be read.

    Example:
        >>> plateau = ResumablePlateau("val_mcc")  # doctest: +SKIP
        >>> checkpoint = Checkpoint("run/checkpoint.npz", [plateau])  # doctest: +SKIP
        >>> model.fit(images, labels, epochs=5, callbacks=[plateau, checkpoint])  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, stateful: Sequence[Stateful] = ()) -> None:
        super().__init__()
        self._path, self._stateful = Path(path), stateful
        self._arrays, content = _read(self._path) if self._path.exists() else ({}, {"epochs": 0, "states": []})
        self.epochs: int = content["epochs"]
        self._numbers: list[dict[str, float | None]] = content["states"]

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Replace the file."""
        self._arrays = {}  # restored by now, and as large as the model with its optimizer
        arrays = _values("model", self.model.variables) | _values("optimizer", self.model.optimizer.variables)
        numbers: list[dict[str, float | None]] = []
        for position, callback in enumerate(self._stateful):
            state = callback.get_state()
            numbers.append({name: value for name, value in state.items() if not isinstance(value, list)})
            for name in state.keys() - numbers[-1].keys():
                arrays |= _values(_owner(position, name), state[name])
        content = json.dumps({"epochs": epoch + 1, "states": numbers}, default=float)
        with atomic_write(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, state=np.array(content), **arrays)

    def restore_model(self) -> None:
        """Restore the variables of the model.

        Raises:
            CheckpointError: If they belong to another network.
        """
        self._assign("model", self.model.variables)

    def restore_training(self) -> None:
        """Restore the optimizer state, and the state of the callbacks that `on_train_begin` has just reset.

        Raises:
            CheckpointError: If they belong to another optimizer.
        """
        self.model.optimizer.build(self.model.trainable_variables)
        self._assign("optimizer", self.model.optimizer.variables)
        for position, (callback, numbers) in enumerate(zip(self._stateful, self._numbers, strict=True)):
            lists = {
                name: [values.copy() for values in self._saved(_owner(position, name))]
                for name in callback.get_state().keys() - numbers.keys()
            }
            callback.set_state(numbers | lists)

    def _saved(self, owner: str) -> list[np.ndarray]:
        return [values for name, values in self._arrays.items() if name.startswith(owner)]

    def _assign(self, owner: str, variables: Sequence[Any]) -> None:
        saved = self._saved(owner)
        if [values.shape for values in saved] != [tuple(variable.shape) for variable in variables]:
            raise CheckpointError(
                f"{self._path} was written by another {owner}, or another version of it: "
                "remove the run's folder to train again"
            )
        for variable, values in zip(variables, saved, strict=True):
            variable.assign(values)


def _owner(position: int, name: str) -> str:
    return f"{name} of callback {position + 1} "


def _values(owner: str, variables: Sequence[Any]) -> dict[str, np.ndarray]:
    return {f"{owner}{number:06}": _portable(keras.ops.convert_to_numpy(v)) for number, v in enumerate(variables)}


def _portable(values: np.ndarray) -> np.ndarray:
    # NumPy reads bfloat16 back as raw bytes; float32 holds each of its values.
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        content = json.loads(str(arrays.pop("state")))
        return arrays, {name: content[name] for name in ("epochs", "states")}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint, or is damaged ({error}): remove the run's folder to train again"
        ) from error
