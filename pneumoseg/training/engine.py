"""The epoch loop: phases, checkpoints, and the callbacks of a training."""

import logging
import math
import sys
from collections.abc import Callable, Sequence

import keras
import pandas as pd
import tensorflow as tf

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.callbacks.checkpoint import Checkpoint, Stateful
from pneumoseg.callbacks.cosine_annealing import CosineAnnealing
from pneumoseg.callbacks.epochwise_callbacks import EpochwiseCallbacks
from pneumoseg.callbacks.finite_loss import FiniteLoss
from pneumoseg.callbacks.history_file import HistoryFile
from pneumoseg.config import Phase
from pneumoseg.models.freezing import set_trainable
from pneumoseg.training.objective import Objective
from pneumoseg.training.run import Run
from pneumoseg.training.schedule import Schedule
from pneumoseg.xla import uses_xla

_log = logging.getLogger(__name__)


class Engine:
    """A training in phases, which starts from the beginning or continues where an earlier process stopped.

    At the beginning of a phase another part of the network becomes trainable, and Adam starts again: with the phase's
    learning rate, zero moments and step 0. The paper trains on "with the same optimizer, but with a learning rate of"
    its own (section 4.1.1), and an Adam that kept its step would correct the new weights' moments too little: their
    first steps would be several times too large, where the paper lowers the rate to spare the pretrained weights.
    Keras' ReduceLROnPlateau, too, waits and compares within a phase.

    With `gradient_accumulation_steps` above 1 Adam makes one step per that many batches, along the mean of their
    gradients, with the learning rate of the last of them. An incomplete group continues in the next epoch. At the end
    of a phase it is dropped, and the log says so. Batch normalization, and a loss that pools its batch, know only the
    batches themselves.

    Any Keras callback works: each sees one continuous training per phase, see `EpochwiseCallbacks`. One that sets
    `model.stop_training` ends the whole training.

    Args:
        model: Network to train; it is compiled at the beginning of each phase.
        schedule: Phases, and how the steps are made.
        objective: Loss, metrics, and the value that tells the best epoch.
        run: Run whose folder gets the history, TensorBoard's logs and the checkpoint.
        save: Function that saves the best model, called as `save(model, logs)`.
        callbacks: Callbacks that read the validation scores. They are called before the checkpoint is written, which
            keeps the state of those that are `Stateful`.
        observers: Callbacks that find the history written and the best model kept. When a stopped training continues,
            they get `on_epoch_end` of the last finished epoch again, since the process may have died before they did.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ValueError: If the history has fewer epochs than the checkpoint.
    """

    def __init__(
        self,
        model: keras.Model,
        schedule: Schedule,
        objective: Objective,
        run: Run,
        save: Callable[[keras.Model, dict[str, float]], None],
        *,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        observers: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self._model, self._schedule, self._objective = model, schedule, objective
        self._observers = observers
        self._checkpoint = Checkpoint(run.checkpoint, [each for each in callbacks if isinstance(each, Stateful)])
        self._history = HistoryFile(run.history_file, self._checkpoint.epochs)
        self._best = BestBundle(objective.monitor, save)
        scorers = [] if objective.validation_callback is None else [objective.validation_callback]
        # A loss or weight that is not finite is found before anything is written. The history notes the learning rate
        # before it falls. The checkpoint needs the history, and comes before the best bundle, which `BestBundle.resume`
        # writes again if a process died between the two.
        self._callbacks = [
            *scorers,
            FiniteLoss(run.folder, run.best),
            keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
            self._history,
            *callbacks,
            self._checkpoint,
            self._best,
            *observers,
        ]

    @property
    def best_epoch(self) -> int:
        """The epoch with the best monitored value so far, counted from 1; 0 before the first."""
        return self._best.best_epoch

    def fit(self, epoch_batches: Callable[[int], tf.data.Dataset]) -> pd.DataFrame:
        """Train through all phases that are not finished yet.

        Args:
            epoch_batches: Function from an epoch's number, counted from 0 over all phases, to its batches of images
                and targets.

        Returns:
            The history, see `HistoryFile`.

        Raises:
            CheckpointError: If the checkpoint was written by another network.
            DivergedError: If a loss or a weight is NaN or infinite; the epochs before are kept.
        """
        self._model.stop_training = False
        if self._checkpoint.epochs:
            self._restore_model()
        first = 0
        for number, phase in enumerate(self._schedule.phases, start=1):
            # The phase of the last finished epoch is begun even if no epoch of it is left, so that callbacks see its
            # end: the process may have died before they did.
            if self._checkpoint.epochs <= first + phase.epochs:
                self._fit_phase(number, first, epoch_batches)
            if self._model.stop_training:
                break
            first += phase.epochs
        return self._history.table

    def _restore_model(self) -> None:
        for callback in (self._checkpoint, self._best):
            callback.set_model(self._model)
        self._checkpoint.restore_model()
        self._best.resume(self._history.table)

    def _fit_phase(self, number: int, first: int, epoch_batches: Callable[[int], tf.data.Dataset]) -> None:
        phase, accumulated = self._schedule.phases[number - 1], self._schedule.gradient_accumulation_steps
        last, epoch = first + phase.epochs, max(first, self._checkpoint.epochs)
        compile_phase(
            self._model, phase, self._objective.loss, self._objective.metrics, accumulated,
            jit_compile=self._schedule.jit_compile,
        )  # fmt: skip
        if epoch < last:
            _log.info(
                f"Phase {number}: epochs {epoch + 1} to {last}, {phase.trainable} trainable, Adam {phase.learning_rate}"
            )
        verbose = 1 if sys.stdout.isatty() else 2
        annealing = _annealing(phase, first)
        callbacks = EpochwiseCallbacks([*annealing, *self._callbacks], self._model, epochs=last, verbose=verbose)
        batches = None if self._is_over(number, epoch, first) else epoch_batches(epoch)
        callbacks.begin_phase(batches)
        if epoch > first:
            self._resume_phase()
        while batches is not None:
            self._fit_epoch(epoch, batches, callbacks)
            epoch += 1
            batches = None if self._is_over(number, epoch, first) else epoch_batches(epoch)
        callbacks.end_phase()
        _log_dropped_batches(self._model.optimizer, accumulated)

    def _fit_epoch(self, epoch: int, batches: tf.data.Dataset, callbacks: EpochwiseCallbacks) -> None:
        callbacks.set_length(batches)
        self._model.fit(
            batches,
            validation_data=self._objective.validation,
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=callbacks,
            class_weight=self._objective.class_weights,
            shuffle=False,  # the batches come in their order
        )

    def _resume_phase(self) -> None:
        self._checkpoint.restore_training()
        for callback in self._observers:
            callback.on_epoch_end(self._checkpoint.epochs - 1, self._history.last_logs)

    def _is_over(self, number: int, epoch: int, first: int) -> bool:
        """Return whether a phase that began with epoch `first` has no further epoch."""
        phases, last = self._schedule.phases, first + self._schedule.phases[number - 1].epochs
        if epoch == last or self._model.stop_training:
            return True
        return number == len(phases) and self._has_stalled(first)

    def _has_stalled(self, first: int) -> bool:
        """Return whether the last epochs of a phase did not improve on it.

        This follows from the history alone, so that a resumed training stops at the same epoch.
        """
        history, monitor, stop_after = self._history.table, self._objective.monitor, self._schedule.stop_after
        if stop_after is None or history.empty:
            return False
        values = history.loc[history["epoch"] > first, monitor].tolist()
        best, since = -math.inf, 0
        for value in values:
            best, since = (value, 0) if value > best else (best, since + 1)
        if since < stop_after:
            return False
        _log.info(f"No better {monitor} for {since} epochs: the training ends after epoch {first + len(values)}")
        return True


def compile_phase(
    model: keras.Model,
    phase: Phase,
    loss: keras.losses.Loss,
    metrics: Sequence[keras.metrics.Metric],
    gradient_accumulation_steps: int = 1,
    *,
    jit_compile: bool = False,
) -> None:
    """Make a phase's part of the network trainable, and compile it with a new Adam.

    Args:
        model: Network to compile.
        phase: Learning rate and trainable part.
        loss: Loss to minimise.
        metrics: Metrics of the training images.
        gradient_accumulation_steps: Number of batches per step of Adam.
        jit_compile: Whether XLA compiles the network.
    """
    set_trainable(model, phase.trainable)
    for metric in metrics:
        # Keras resets metrics when an epoch begins, but those just compiled only from the second epoch on.
        metric.reset_state()
    accumulated = gradient_accumulation_steps if gradient_accumulation_steps > 1 else None  # Keras takes no 1
    adam = keras.optimizers.Adam(phase.learning_rate, gradient_accumulation_steps=accumulated)
    model.compile(adam, loss, metrics=list(metrics), jit_compile=uses_xla(jit_compile))


def _annealing(phase: Phase, first_epoch: int) -> list[keras.callbacks.Callback]:
    if phase.cosine is None:
        return []
    cosine = phase.cosine
    return [CosineAnnealing(phase.learning_rate, cosine.cycle_epochs, cosine.multiplier, cosine.minimum, first_epoch)]


def _log_dropped_batches(optimizer: keras.optimizers.Optimizer, gradient_accumulation_steps: int) -> None:
    adam = getattr(optimizer, "inner_optimizer", optimizer)  # mixed_float16 wraps it
    batches = int(keras.ops.convert_to_numpy(adam.variables[0]))  # `iterations` counts steps
    dropped = batches % gradient_accumulation_steps
    if dropped:
        _log.info(f"The phase ended within a step of Adam: gradients of its last {dropped} batches are dropped")
