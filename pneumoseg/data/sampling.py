"""Plans of epochs: which images are shown, in which order, and how each is changed.

A plan follows from a seed and the number of the epoch alone, so that a training that was stopped and resumed sees the
same images as one that was never stopped.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

UNCHANGED = -1
SEEDS = 2**31


@dataclass(frozen=True)
class EpochPlan:
    """The examples of one epoch, in order.

    Attributes:
        rows: Positions in the manifest, int64, (n,); a position can occur several times.
        transforms: Position of the augmentation that changes the example, int64, (n,); `UNCHANGED` for none.
        seeds: Seed of the random choices of that augmentation, int64, (n,).
    """

    rows: np.ndarray
    transforms: np.ndarray
    seeds: np.ndarray


def random_epoch(
    labels: np.ndarray, number: int, *, seed: int, augmented: bool = False, positive_fraction: float | None = None
) -> EpochPlan:
    """Shuffle the images of an epoch.

    Args:
        labels: Whether each image is positive, bool, (n,).
        number: Number of the epoch, counted from 0.
        seed: Seed of the order; the same seed and number give the same epoch.
        augmented: Whether augmentation 0 changes every example, each with its own random seed.
        positive_fraction: Fraction of positives to show; None shows every image once. A fraction shows every positive
            once, and draws as many negatives without replacement as give it; all negatives if there are too few. This
            is the sample rate of the competition's first place (section 4.2).

    Raises:
        ValueError: If a fraction is given and there is no positive.

    Example:
        >>> sorted(random_epoch(np.array([True, False, False]), 0, seed=0).rows.tolist())
        [0, 1, 2]
    """
    rng = np.random.default_rng([seed, number])
    rows = np.arange(len(labels))
    if positive_fraction is not None:
        positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
        if not positive.size:
            raise ValueError(
                f"cannot show a fraction of {positive_fraction} positives: none of {len(labels)} is positive"
            )
        wanted = round(positive.size * (1 - positive_fraction) / positive_fraction)
        rows = np.concatenate([positive, rng.choice(negative, min(wanted, negative.size), replace=False)])
    rows = rng.permutation(rows)
    transforms = np.full(rows.size, 0 if augmented else UNCHANGED)
    return EpochPlan(rows, transforms, rng.integers(SEEDS, size=rows.size))


def enriched_epoch(count: int, copies: pd.DataFrame, number: int, *, seed: int) -> EpochPlan:
    """Shuffle all images and the changed copies of `enrichment.enrich`, which look the same in each epoch.

    Args:
        count: Number of images.
        copies: Table with `row`, `transform` (both positions) and `seed`, one row per copy.
        number: Number of the epoch, counted from 0.
        seed: Seed of the order; the same seed and number give the same epoch.
    """
    unchanged = np.full(count, UNCHANGED)
    order = np.random.default_rng([seed, number]).permutation(count + len(copies))
    return EpochPlan(
        np.concatenate([np.arange(count), copies["row"]])[order],
        np.concatenate([unchanged, copies["transform"]])[order],
        np.concatenate([np.zeros(count, np.int64), copies["seed"]])[order],
    )


def scheduled_fraction(first: float, last: float, number: int, epochs: int) -> float:
    """Return the fraction of an epoch that goes from one fraction to another in equal steps.

    Args:
        first: Fraction in epoch 0.
        last: Fraction in the last epoch.
        number: Number of the epoch, counted from 0.
        epochs: Number of epochs.

    Example:
        >>> [round(scheduled_fraction(0.8, 0.4, number, 3), 1) for number in range(3)]
        [0.8, 0.6, 0.4]
    """
    return first + (last - first) * number / max(epochs - 1, 1)
