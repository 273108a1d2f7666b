"""Fit a model phase by phase."""

import logging
import sys
from pathlib import Path

import keras
import tensorflow as tf

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.callbacks.history_file import HistoryFile
from pneumoseg.config import Phase
from pneumoseg.models.freezing import set_trainable

_log = logging.getLogger(__name__)


def fit_phases(
    model: keras.Model,
    phases: list[Phase],
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    loss: keras.losses.Loss,
    metrics: list[keras.metrics.Metric],
    best: BestBundle,
    folder: Path,
) -> HistoryFile:
    """Train through all phases, epochs counted on; each phase starts a new Adam optimiser.

    Args:
        model: Compiled anew at the beginning of each phase.
        phases: Epochs, learning rate and trainable part, in order.
        training: Batches of images and targets.
        validation: Likewise.
        loss: Minimised.
        metrics: Measured on both sides.
        best: Keeps the best model.
        folder: Where `history.csv` and `tensorboard/` go.

    Returns:
        The history of all phases.
    """
    history = HistoryFile(folder / "history.csv")
    callbacks = [best, history, keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]
    done = 0
    for number, phase in enumerate(phases, start=1):
        set_trainable(model, phase.trainable)
        # "auto" would compile with XLA on a CPU too, where it is several times slower than without.
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        model.compile(
            keras.optimizers.Adam(phase.learning_rate), loss, metrics=metrics, jit_compile="auto" if on_gpu else False
        )
        last = done + phase.epochs
        _log.info(
            f"Phase {number}: epochs {done + 1} to {last}, {phase.trainable} trainable, Adam {phase.learning_rate}"
        )
        model.fit(
            training,
            validation_data=validation,
            initial_epoch=done,
            epochs=last,
            callbacks=callbacks,
            shuffle=False,  # the data set shuffles itself
            verbose=1 if sys.stdout.isatty() else 2,
        )
        done = last
    return history
