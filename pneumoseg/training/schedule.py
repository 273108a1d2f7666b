"""The phases of a training: which part learns in an epoch, and at which learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pneumoseg.callbacks.cosine_annealing import annealed_rate
from pneumoseg.config import Phase


@dataclass(frozen=True)
class Schedule:
    """Length of a training and size of its steps.

    Attributes:
        phases: Epochs, learning rate and trainable part of each phase, in order.
        stop_after: Number of epochs of the last phase without a new best of that phase, after which the training ends;
            None trains all epochs.
        gradient_accumulation_steps: Number of batches per step of the optimizer.
        jit_compile: Whether XLA compiles the network on TensorFlow: once per phase and number of images in a batch.
    """

    phases: Sequence[Phase]
    stop_after: int | None = None
    gradient_accumulation_steps: int = 1
    jit_compile: bool = False


def trainable_part_at(phases: Sequence[Phase], epoch: int) -> str:
    """Return which part of the network is trainable in an epoch, counted from 1."""
    last = 0
    for phase in phases:
        last += phase.epochs
        if epoch <= last:
            break
    return phase.trainable


def learning_rates(phases: Sequence[Phase], points: int = 50) -> pd.DataFrame:
    """Return the learning rate that the phases plan.

    Args:
        phases: Phases in order.
        points: Number of points per epoch.

    Returns:
        `epoch`, float, where 2.5 is the middle of the third epoch, and `learning_rate` at that point.
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
