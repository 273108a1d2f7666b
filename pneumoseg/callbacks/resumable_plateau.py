"""Keras' ReduceLROnPlateau with a state that a checkpoint can keep."""

from typing import Any

import keras


class ResumablePlateau(keras.callbacks.ReduceLROnPlateau):
    """Keras' `ReduceLROnPlateau`, whose counters a `Checkpoint` saves and restores.

    Takes the same arguments. Keras resets the counters at the beginning of each training.

    Example:
        >>> plateau = ResumablePlateau("val_mcc", factor=0.2, patience=3, mode="max")
        >>> plateau.set_state({"best": 0.5, "wait": 2, "cooldown_counter": 0})
        >>> plateau.get_state()
        {'best': 0.5, 'wait': 2, 'cooldown_counter': 0}
    """

    def get_state(self) -> dict[str, Any]:
        """Return the best value, the epochs since, and the epochs left to cool down."""
        return {"best": self.best, "wait": self.wait, "cooldown_counter": self.cooldown_counter}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue with what `get_state` returned."""
        self.best, self.wait, self.cooldown_counter = state["best"], state["wait"], state["cooldown_counter"]
