"""Write down, after each epoch, all that a training needs to go on from there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from pneumoseg.atomic_write import atomic_write


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or belongs to another network; names the file and the remedy."""


class Checkpoint(keras.callbacks.Callback):
    """Save the model's and the optimizer's variables and other callbacks' counters after each epoch, atomically.

    The model's variables include its batch normalization statistics and the states of its random layers; the
    optimizer's include its moments, its step and its learning rate. What depends on the epoch's number alone, such as
    the order of the data, needs no saving. Keras' `BackupAndRestore` keeps no counters of other callbacks.

    It stands behind the callbacks whose counters it keeps, and behind the one that writes the history.

    Args:
        path: The file, an uncompressed `.npz` without pickled objects.
        counters: Names of attributes to keep, by callback: plain numbers, None, or lists of arrays.

    Attributes:
        epochs: How many epochs had ended when the file was written; 0 where there is none.

    Raises:
        CheckpointError: The file cannot be read.
    """

    def __init__(self, path: str | Path, counters: Mapping[keras.callbacks.Callback, Sequence[str]] = {}) -> None:
        super().__init__()
        self._path, self._counters = Path(path), counters
        self._arrays, state = _read(self._path) if self._path.exists() else ({}, {"epochs": 0, "counters": []})
        self.epochs: int = state["epochs"]
        self._saved_counters: list[dict[str, float | None]] = state["counters"]

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the file anew."""
        self._arrays = {}  # restored by now, and as large as the model with its optimizer
        arrays = _values("model", self.model.variables) | _values("optimizer", self.model.optimizer.variables)
        counters: list[dict[str, float | None]] = []
        for callback, names in self._counters.items():
            values = {name: getattr(callback, name) for name in names}
            counters.append({name: value for name, value in values.items() if not isinstance(value, list)})
            for name in values.keys() - counters[-1].keys():
                arrays |= _values(f"{name} of callback {len(counters)} ", values[name])
        state = {"epochs": epoch + 1, "counters": counters}
        with atomic_write(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, state=np.array(json.dumps(state, default=float)), **arrays)

    def restore_model(self) -> None:
        """Give the model the saved variables, and the callbacks their counters.

        Raises:
            CheckpointError: They belong to another network.
        """
        self._assign("model", self.model.variables)
        self._restore_counters()

    def restore_training(self) -> None:
        """Give the optimizer what was saved of it, and the callbacks again, which may forget as a training begins.

        Raises:
            CheckpointError: They belong to another optimizer.
        """
        self.model.optimizer.build(self.model.trainable_variables)
        self._assign("optimizer", self.model.optimizer.variables)
        self._restore_counters()

    def _restore_counters(self) -> None:
        for number, (callback, names) in enumerate(self._counters.items(), start=1):
            for name in names:
                if name in self._saved_counters[number - 1]:
                    setattr(callback, name, self._saved_counters[number - 1][name])
                else:
                    setattr(callback, name, [v.copy() for v in self._saved(f"{name} of callback {number} ")])

    def _saved(self, owner: str) -> list[np.ndarray]:
        return [values for name, values in self._arrays.items() if name.startswith(owner)]

    def _assign(self, owner: str, variables: Sequence[Any]) -> None:
        saved = self._saved(owner)
        if [values.shape for values in saved] != [tuple(variable.shape) for variable in variables]:
            raise CheckpointError(
                f"{self._path} was written by another {owner}, or another version of it: "
                "remove the run's folder to train anew"
            )
        for variable, values in zip(variables, saved, strict=True):
            variable.assign(values)


def _values(owner: str, variables: Sequence[Any]) -> dict[str, np.ndarray]:
    return {f"{owner}{number:06}": _portable(keras.ops.convert_to_numpy(v)) for number, v in enumerate(variables)}


def _portable(values: np.ndarray) -> np.ndarray:
    # NumPy reads bfloat16 back as raw bytes; float32 holds each of its values.
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(str(arrays.pop("state")))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CheckpointError(
            f"{path} is no checkpoint, or damaged ({error}): remove the run's folder to train anew"
        ) from error
