"""Fit a model phase by phase, from the beginning or from where an earlier process was stopped."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import pandas as pd
import tensorflow as tf

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.callbacks.checkpoint import Checkpoint
from pneumoseg.callbacks.history_file import HistoryFile
from pneumoseg.config import Phase
from pneumoseg.models.freezing import set_trainable
from pneumoseg.training.run import CHECKPOINT

_log = logging.getLogger(__name__)


def fit_phases(
    model: keras.Model,
    phases: Sequence[Phase],
    epoch_batches: Callable[[int], tf.data.Dataset],
    loss: keras.losses.Loss,
    metrics: Sequence[keras.metrics.Metric],
    best: BestBundle,
    folder: Path,
    *,
    scores: keras.callbacks.Callback | None = None,
    validation: tf.data.Dataset | None = None,
    plateau: keras.callbacks.ReduceLROnPlateau | None = None,
    class_weights: dict[int, float] | None = None,
    watch: keras.callbacks.Callback | None = None,
) -> pd.DataFrame:
    """Train through all phases that are not done yet, epochs counted on.

    At the beginning of a phase another part of the network becomes trainable, and Adam starts anew: with the phase's
    learning rate, zero moments and step 0. The paper trains on "with the same optimizer, but with a learning rate of"
    its own (section 4.1.1), and an Adam that kept its step would correct the new weights' moments too little: their
    first steps would be several times too large, where the paper lowers the rate to spare the pretrained weights.
    Keras' ReduceLROnPlateau, too, waits and compares within a phase.

    Args:
        model: Compiled anew at the beginning of each phase.
        phases: Epochs, learning rate and trainable part, in order.
        epoch_batches: From an epoch's number, counted from 0 over all phases, to its batches of images and targets.
        loss: Minimised.
        metrics: Measured on the training side, and on `validation`.
        best: Keeps the best model.
        folder: The run's, for `history.csv`, `tensorboard/` and the checkpoint, from which a stopped training goes on.
        scores: A callback that puts scores into the logs, called before those that read them.
        validation: Batches that Keras measures after each epoch; None where `scores` does.
        plateau: Lowers the learning rate.
        class_weights: What an image counts in the training loss, by label.
        watch: A callback that finds the history written and the best model kept.

    Returns:
        The history, see `HistoryFile`.

    Raises:
        CheckpointError: If there is a checkpoint that cannot be read or was written by another network.
    """
    counters = {plateau: ("best", "wait", "cooldown_counter")} if plateau else {}
    checkpoint = Checkpoint(folder / CHECKPOINT, counters)
    history = HistoryFile(folder / "history.csv", checkpoint.epochs)
    tensorboard = keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)
    # The learning rate is noted before it falls. The checkpoint needs the history; it comes before the bundle, which
    # `BestBundle.resume` writes again where a process died between the two.
    candidates = (scores, tensorboard, history, plateau, checkpoint, best, watch)
    callbacks = [callback for callback in candidates if callback is not None]
    if checkpoint.epochs:
        for callback in (checkpoint, best):
            callback.set_model(model)
        checkpoint.restore_model()
        best.resume(history.table)
        if watch is not None:
            watch.on_epoch_end(checkpoint.epochs - 1)  # the process may have died before it did
    last = 0
    for number, phase in enumerate(phases, start=1):
        first, last = last, last + phase.epochs
        if checkpoint.epochs >= last:
            continue
        compile_phase(model, phase, loss, metrics)
        for callback in callbacks:
            callback.set_model(model)
            callback.on_train_begin()
        if checkpoint.epochs > first:
            checkpoint.restore_training()
            first = checkpoint.epochs
        _log.info(
            f"Phase {number}: epochs {first + 1} to {last}, {phase.trainable} trainable, Adam {phase.learning_rate}"
        )
        for epoch in range(first, last):
            model.fit(
                epoch_batches(epoch),
                validation_data=validation,
                initial_epoch=epoch,
                epochs=last,
                callbacks=[_OneEpoch(callbacks)],
                class_weight=class_weights,
                shuffle=False,  # the batches come in their order
                verbose=1 if sys.stdout.isatty() else 2,
            )
        for callback in callbacks:
            callback.on_train_end()
    return history.table


def compile_phase(
    model: keras.Model, phase: Phase, loss: keras.losses.Loss, metrics: Sequence[keras.metrics.Metric]
) -> None:
    """Make a phase's part of the network trainable, with a new Adam; arguments as `fit_phases`."""
    set_trainable(model, phase.trainable)
    for metric in metrics:
        # Keras resets metrics at an epoch's begin, but those just compiled only from the second epoch on.
        metric.reset_state()
    model.compile(keras.optimizers.Adam(phase.learning_rate), loss, metrics=list(metrics))


class _OneEpoch(keras.callbacks.Callback):
    """End a fit after one epoch, and pass that on to callbacks whose training goes on.

    Each epoch has a fit of its own, since Keras repeats one data set, of one length, through all epochs of a fit.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        super().__init__()
        self._callbacks = callbacks

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for callback in self._callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, logs)
        self.model.stop_training = True
