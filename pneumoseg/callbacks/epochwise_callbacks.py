"""A list of callbacks for a training that calls `fit` once per epoch."""

from collections.abc import Sequence

import keras
import tensorflow as tf


class EpochwiseCallbacks(keras.callbacks.CallbackList):
    """Callbacks that see one continuous training, although each epoch has a `fit` of its own.

    Keras keeps the length of the first epoch through all epochs of a `fit`, so epochs of different lengths need one
    `fit` each. This list withholds the beginning and the end of each `fit`: `on_train_begin` and `on_train_end` reach
    the callbacks once per phase. All other hooks reach them as usual, in the order of the list, and `params["steps"]`
    is the length of the present epoch.

    Args:
        callbacks: Any Keras callbacks, in the order in which they are called.
        model: Compiled network.
        epochs: Number of the phase's last epoch, counted from 1.
        verbose: 0, 1 or 2, as for `fit`: silent, a progress bar, or one line per epoch.

    Example:
        >>> callbacks = EpochwiseCallbacks([keras.callbacks.TerminateOnNaN()], model, epochs=2)  # doctest: +SKIP
        >>> callbacks.begin_phase(data[0])  # doctest: +SKIP
        >>> for epoch, batches in enumerate(data):  # doctest: +SKIP
        ...     callbacks.set_length(batches)
        ...     model.fit(batches, initial_epoch=epoch, epochs=epoch + 1, callbacks=callbacks)
        >>> callbacks.end_phase()  # doctest: +SKIP
    """

    def __init__(
        self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, *, epochs: int, verbose: int = 2
    ) -> None:
        super().__init__(
            list(callbacks), add_history=True, add_progbar=verbose != 0, model=model,
            verbose=verbose, epochs=epochs, steps=None,
        )  # fmt: skip
        self._last_logs: dict[str, float] | None = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Withhold the beginning of one epoch's `fit`."""

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Withhold the end of one epoch's `fit`, and note its logs for the end of the phase."""
        self._last_logs = logs

    def set_length(self, batches: tf.data.Dataset | None) -> None:
        """Tell the callbacks how many batches the next epoch has; None if that is unknown."""
        steps = -1 if batches is None else int(batches.cardinality())
        self.set_params(self.params | {"steps": steps if steps >= 0 else None})

    def begin_phase(self, batches: tf.data.Dataset | None = None) -> None:
        """Tell the callbacks that a training begins, with the batches of its first epoch."""
        self.set_length(batches)
        super().on_train_begin()

    def end_phase(self) -> None:
        """Tell the callbacks that the training has ended, with the logs of its last epoch."""
        super().on_train_end(self._last_logs)
