"""Let the learning rate fall along a cosine, again and again (SGDR)."""

import math

import keras


def annealed_rate(
    position: float, maximum: float, cycle: float, multiplier: float = 1.0, minimum: float = 0.0
) -> float:
    """Return the learning rate of cosine annealing with warm restarts (Loshchilov and Hutter 2016, equation 5).

    ``minimum + (maximum - minimum) (1 + cos(pi t / T)) / 2``, where ``t`` is how far a cycle has gone and ``T`` its
    length. A cycle begins at ``maximum`` where the one before ends.

    Args:
        position: Since the first cycle's beginning, in epochs, fractions included; 0 or more.
        maximum: At the beginning of each cycle.
        cycle: Length of the first cycle in epochs, above 0.
        multiplier: How many times as long each cycle is as the one before; 1 or more.
        minimum: At the end of each cycle.
    """
    while position >= cycle:
        position, cycle = position - cycle, cycle * multiplier
    return minimum + (maximum - minimum) * (1 + math.cos(math.pi * position / cycle)) / 2


class CosineAnnealing(keras.callbacks.Callback):
    """Set the learning rate before each step by `annealed_rate`.

    The rate follows from the epoch's number and the step alone, so that a resumed training needs nothing kept. Epochs
    may differ in length; the data set must know how many batches it has.

    Args:
        maximum: Learning rate at the beginning of each cycle.
        cycle: Length of the first cycle in epochs, above 0.
        multiplier: How many times as long each cycle is as the one before; 1 or more.
        minimum: Learning rate at the end of each cycle.
        first_epoch: The epoch, from 0, with which the first cycle begins.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self, maximum: float, cycle: float, multiplier: float = 1.0, minimum: float = 0.0, first_epoch: int = 0
    ) -> None:
        super().__init__()
        if not (cycle > 0 and multiplier >= 1 and 0 <= minimum <= maximum):
            raise ValueError(
                "CosineAnnealing needs cycle > 0, multiplier >= 1 and 0 <= minimum <= maximum; "
                f"got {cycle=}, {multiplier=}, {minimum=}, {maximum=}"
            )
        self._arguments = (maximum, cycle, multiplier, minimum)
        self._first_epoch = self._epoch = first_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the rate of the first step, for whoever notes an epoch's rate."""
        self._epoch = epoch
        self._set(epoch - self._first_epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Set the rate of this step."""
        self._set(self._epoch - self._first_epoch + batch / self.params["steps"])

    def _set(self, position: float) -> None:
        self.model.optimizer.learning_rate = annealed_rate(position, *self._arguments)
