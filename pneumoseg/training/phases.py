"""Fit a model phase by phase, from the beginning or from where an earlier process was stopped."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.callbacks.checkpoint import Checkpoint
from pneumoseg.callbacks.cosine_annealing import CosineAnnealing, annealed_rate
from pneumoseg.callbacks.epoch_weights import EpochWeights
from pneumoseg.callbacks.finite_loss import FiniteLoss
from pneumoseg.callbacks.history_file import HistoryFile
from pneumoseg.callbacks.swa import SWA
from pneumoseg.config import ClassifierSettings, Phase, SegmenterSettings
from pneumoseg.data.loaders import Examples
from pneumoseg.data.sampling import EpochPlan, random_epoch, scheduled_fraction
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
    stop_after: int | None = None,
    swa: SWA | None = None,
    epoch_weights: EpochWeights | None = None,
    class_weights: dict[int, float] | None = None,
    gradient_accumulation_steps: int = 1,
    jit_compile: bool = False,
    watch: keras.callbacks.Callback | None = None,
) -> pd.DataFrame:
    """Train through all phases that are not done yet, epochs counted on.

    At the beginning of a phase another part of the network becomes trainable, and Adam starts anew: with the phase's
    learning rate, zero moments and step 0. The paper trains on "with the same optimizer, but with a learning rate of"
    its own (section 4.1.1), and an Adam that kept its step would correct the new weights' moments too little: their
    first steps would be several times too large, where the paper lowers the rate to spare the pretrained weights.
    Keras' ReduceLROnPlateau, too, waits and compares within a phase.

    With `gradient_accumulation_steps` above 1 Adam makes one step for so many batches, along the mean of their
    gradients, with the learning rate of the last of them. An incomplete group goes on in the next epoch; at the end of
    a phase it is given up, and the log says so. Batch normalization, and a loss that pools its batch, know only the
    batches themselves.

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
        stop_after: Epochs of the last phase, without a new best of that phase, after which the training ends.
        swa: Averages weights.
        epoch_weights: Keeps each epoch's weights.
        class_weights: What an image counts in the training loss, by label.
        gradient_accumulation_steps: Batches a step of Adam.
        jit_compile: Whether XLA compiles the network: in each phase, once for each number of images in a batch.
        watch: A callback that finds the history written and the best model kept. It is called at epochs, not at
            batches; once more at the last epoch that ended, where a stopped training goes on, with the history's row.

    Returns:
        The history, see `HistoryFile`.

    Raises:
        CheckpointError: If there is a checkpoint that cannot be read or was written by another network.
        DivergedError: If a loss is NaN or infinite; the epochs before are kept.
    """
    counters: dict[keras.callbacks.Callback, tuple[str, ...]] = {}
    if plateau is not None:
        counters[plateau] = ("best", "wait", "cooldown_counter")
    if swa is not None:
        counters[swa] = ("count", "average")
    checkpoint = Checkpoint(folder / CHECKPOINT, counters)
    history = HistoryFile(folder / "history.csv", checkpoint.epochs)
    tensorboard = keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)
    # The learning rate is noted before it falls. The checkpoint needs the history; it comes before the bundle, which
    # `BestBundle.resume` writes again where a process died between the two.
    # What is not finite is found before anything is written: in Keras' own losses, and in those of `scores`.
    finite = FiniteLoss(folder)
    candidates = (scores, finite, tensorboard, history, plateau, swa, epoch_weights, checkpoint, best, watch)
    callbacks = [callback for callback in candidates if callback is not None]
    if checkpoint.epochs:
        for callback in (checkpoint, best):
            callback.set_model(model)
        checkpoint.restore_model()
        best.resume(history.table)
        if watch is not None:
            watch.set_model(model)
            watch.on_epoch_end(checkpoint.epochs - 1, history.last_logs)  # the process may have died before it did
    last = 0
    for number, phase in enumerate(phases, start=1):
        first, last = last, last + phase.epochs
        if checkpoint.epochs >= last:
            continue
        compile_phase(model, phase, loss, metrics, gradient_accumulation_steps, jit_compile=jit_compile)
        for callback in callbacks:
            callback.set_model(model)
            callback.on_train_begin()
        if checkpoint.epochs > first:
            checkpoint.restore_training()
            first = checkpoint.epochs
        _log.info(
            f"Phase {number}: epochs {first + 1} to {last}, {phase.trainable} trainable, Adam {phase.learning_rate}"
        )
        annealing = _annealing(phase, last - phase.epochs)
        for epoch in range(first, last):
            if number == len(phases) and _stalled(history.table, best.monitor, last - phase.epochs, stop_after):
                break
            model.fit(
                epoch_batches(epoch),
                validation_data=validation,
                initial_epoch=epoch,
                epochs=last,
                callbacks=[*annealing, finite, _OneEpoch(callbacks)],
                class_weight=class_weights,
                shuffle=False,  # the batches come in their order
                verbose=1 if sys.stdout.isatty() else 2,
            )
        for callback in callbacks:
            callback.on_train_end()
        _tell_given_up(model.optimizer, gradient_accumulation_steps)
    return history.table


def load_sides(
    make: Callable[..., Examples],
    settings: ClassifierSettings | SegmenterSettings,
    sides: Sequence[pd.DataFrame],
    cache_dir: str | Path,
) -> list[Examples]:
    """Make the examples of each side of a split as the settings say.

    Args:
        make: `classification_examples` or `segmentation_examples`.
        settings: Say the image size and the memory for decoded images.
        sides: Manifest rows of each side.
        cache_dir: Folder for images that need transcoding.
    """
    options = {"cache_dir": cache_dir, "decoded_images_gigabytes": settings.decoded_images_gigabytes}
    return [make(side, settings.image_size, **options) for side in sides]


def plan_epoch(settings: ClassifierSettings | SegmenterSettings, labels: np.ndarray, number: int) -> EpochPlan:
    """What an epoch of a training shows.

    Args:
        settings: Say the seed, whether images are augmented, and the share of positives.
        labels: bool, (n,): which training images are positive.
        number: The epoch's, from 0 over all phases.
    """
    positive_fraction = None
    if settings.positive_fraction is not None:
        epochs, share = sum(phase.epochs for phase in settings.phases), settings.positive_fraction
        positive_fraction = scheduled_fraction(share.first, share.last, number, epochs)
    augmented = settings.augmentation is not None
    return random_epoch(labels, number, seed=settings.seed, augmented=augmented, positive_fraction=positive_fraction)


def learning_rates(phases: Sequence[Phase], points: int = 50) -> pd.DataFrame:
    """The learning rate as the phases plan it.

    Args:
        phases: In order.
        points: How many an epoch.

    Returns:
        `epoch`, float: 2.5 is the middle of the training's third epoch; and `learning_rate` there.
    """
    rows, first = [], 0
    for phase in phases:
        for point in range(phase.epochs * points):
            position, rate = point / points, phase.learning_rate
            if phase.cosine is not None:
                cosine = phase.cosine
                rate = annealed_rate(position, rate, cosine.cycle_epochs, cosine.multiplier, cosine.minimum)
            rows.append({"epoch": first + position, "learning_rate": rate})
        first += phase.epochs
    return pd.DataFrame(rows)


def _stalled(history: pd.DataFrame, monitor: str, first: int, stop_after: int | None) -> bool:
    """Whether a phase's last epochs did not better it; of the history alone, so that a resumed training stops alike."""
    values = [] if stop_after is None or history.empty else history.loc[history["epoch"] > first, monitor].tolist()
    best, since = -math.inf, 0
    for value in values:
        best, since = (value, 0) if value > best else (best, since + 1)
    if stop_after is None or since < stop_after:
        return False
    _log.info(f"No better {monitor} for {since} epochs: the training ends after epoch {first + len(values)}")
    return True


def _annealing(phase: Phase, first_epoch: int) -> list[keras.callbacks.Callback]:
    if phase.cosine is None:
        return []
    cosine = phase.cosine
    return [CosineAnnealing(phase.learning_rate, cosine.cycle_epochs, cosine.multiplier, cosine.minimum, first_epoch)]


def compile_phase(
    model: keras.Model,
    phase: Phase,
    loss: keras.losses.Loss,
    metrics: Sequence[keras.metrics.Metric],
    gradient_accumulation_steps: int = 1,
    *,
    jit_compile: bool = False,
) -> None:
    """Make a phase's part of the network trainable, with a new Adam; arguments as `fit_phases`."""
    set_trainable(model, phase.trainable)
    for metric in metrics:
        # Keras resets metrics at an epoch's begin, but those just compiled only from the second epoch on.
        metric.reset_state()
    accumulated = gradient_accumulation_steps if gradient_accumulation_steps > 1 else None  # Keras takes no 1
    adam = keras.optimizers.Adam(phase.learning_rate, gradient_accumulation_steps=accumulated)
    model.compile(adam, loss, metrics=list(metrics), jit_compile=jit_compile)


def _tell_given_up(optimizer: keras.optimizers.Optimizer, gradient_accumulation_steps: int) -> None:
    adam = getattr(optimizer, "inner_optimizer", optimizer)  # mixed_float16 wraps it
    given_up = int(adam.variables[0]) % gradient_accumulation_steps  # the first counts batches, `iterations` steps
    if given_up:
        _log.info(f"The phase ended within a step of Adam: gradients of its last {given_up} batches are given up")


class _OneEpoch(keras.callbacks.Callback):
    """End a fit after one epoch, and pass that on to callbacks whose training goes on.

    Each epoch has a fit of its own, since Keras repeats one data set, of one length, through all epochs of a fit.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        super().__init__()
        self._callbacks = callbacks

    def set_params(self, params: dict[str, int | None]) -> None:
        super().set_params(params)
        for callback in self._callbacks:
            callback.set_params(params)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for callback in self._callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, logs)
        self.model.stop_training = True
