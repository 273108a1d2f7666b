"""Learning rate that falls along a cosine, cycle after cycle (SGDR)."""

import math
from typing import Any

import keras
import numpy as np


def annealed_rate(
    position: float, maximum: float, cycle: float, multiplier: float = 1.0, minimum: float = 0.0
) -> float:
    """Return the learning rate of cosine annealing with warm restarts (Loshchilov and Hutter 2016, equation 5).

    ``minimum + (maximum - minimum) (1 + cos(pi t / T)) / 2``, where ``t`` is the position within the cycle and ``T``
    its length. The next cycle begins at ``maximum`` where the last one ends.

    Args:
        position: Epochs since the beginning of the first cycle, fractions included; 0 or more.
        maximum: Learning rate at the beginning of each cycle.
        cycle: Length of the first cycle in epochs, above 0.
        multiplier: Length of each cycle as a multiple of the one before; 1 or more.
        minimum: Learning rate at the end of each cycle.

    Example:
        >>> [round(annealed_rate(position, maximum=0.01, cycle=2), 4) for position in (0, 1, 1.5, 2)]
        [0.01, 0.005, 0.0015, 0.01]
    """
    while position >= cycle:
        position, cycle = position - cycle, cycle * multiplier
    return minimum + (maximum - minimum) * (1 + math.cos(math.pi * position / cycle)) / 2


class CosineAnnealing(keras.callbacks.Callback):
    """Set the learning rate before each step by `annealed_rate`.

    The rate follows from the epoch's number and the step alone, so that a resumed training needs no saved state.
    Epochs may differ in length; the data set must know its number of batches. On JAX, other callbacks find the rate of
    the last step in the optimizer, not that of the next.

    Args:
        maximum: Learning rate at the beginning of each cycle.
        cycle: Length of the first cycle in epochs, above 0.
        multiplier: Length of each cycle as a multiple of the one before; 1 or more.
        minimum: Learning rate at the end of each cycle.
        first_epoch: Epoch at which the first cycle begins, counted from 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> annealing = CosineAnnealing(maximum=1e-4, cycle=7, minimum=1e-6)
        >>> model.fit(images, masks, epochs=35, callbacks=[annealing])  # doctest: +SKIP
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
        self._step: _StepAtRate | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the rate of the first step, for callbacks that note an epoch's rate."""
        self._epoch = epoch
        if keras.backend.backend() == "jax":
            self._step = _StepAtRate.of(self.model)  # `fit` has made the step, and built the optimizer
        self.model.optimizer.learning_rate = self._rate(0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Set the rate of this step."""
        rate = self._rate(batch / self.params["steps"])
        if self._step is None:
            self.model.optimizer.learning_rate = rate
        else:
            self._step.rate = rate

    def _rate(self, part_of_epoch: float) -> float:
        return annealed_rate(self._epoch - self._first_epoch + part_of_epoch, *self._arguments)


class _StepAtRate:
    """The compiled step of a network on JAX, which takes its learning rate with its other arguments.

    A rate set in the optimizer between two steps makes Keras copy all variables into the network and out again.

    Attributes:
        rate: Learning rate of the next step, and of that alone; None leaves the optimizer's.
    """

    def __init__(self, model: keras.Model) -> None:
        self.rate: float | None = None
        self._step = model.train_function
        variables = model.optimizer.variables
        self._place = next(n for n, variable in enumerate(variables) if variable is model.optimizer.learning_rate)

    @classmethod
    def of(cls, model: keras.Model) -> "_StepAtRate":
        """Return the step of a network, which stays in place until the network is compiled again."""
        if not isinstance(model.train_function, cls):
            model.train_function = cls(model)
        return model.train_function

    def __call__(self, state: tuple[Any, Any, Any, Any], batches: Any) -> Any:
        if self.rate is not None:
            trainable, others, of_optimizer, of_metrics = state
            of_optimizer = [*of_optimizer]
            of_optimizer[self._place] = np.float32(self.rate)
            state, self.rate = (trainable, others, of_optimizer, of_metrics), None
        return self._step(state, batches)
