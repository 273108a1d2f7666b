"""Which images an epoch shows, in which order, and how each is changed.

All of it follows from a seed and the number of the epoch, and nothing from what came before: a training that was
stopped and goes on sees what it would have seen.
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
        rows: int64, (n,): positions in the manifest; one can occur several times.
        transforms: int64, (n,): which augmentation of a list changes the example, `UNCHANGED` for none.
        seeds: int64, (n,): of that augmentation's random choices.
    """

    rows: np.ndarray
    transforms: np.ndarray
    seeds: np.ndarray


def random_epoch(
    labels: np.ndarray, number: int, *, seed: int, augmented: bool = False, positive_fraction: float | None = None
) -> EpochPlan:
    """Shuffle the images of an epoch.

    Args:
        labels: bool, (n,): which images are positive.
        number: The epoch's, from 0.
        seed: Same seed and same number, same epoch.
        augmented: Whether augmentation 0 changes every example, with a random seed each.
        positive_fraction: None shows every image once. A share shows every positive once, and so many negatives, drawn
            without replacement, that the positives have this share; all negatives, if there are too few. This is the
            sample rate of the competition's first place (section 4.2).

    Raises:
        ValueError: If a share is asked for and there is no positive.
    """
    rng = np.random.default_rng([seed, number])
    rows = np.arange(len(labels))
    if positive_fraction is not None:
        positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
        if not positive.size:
            raise ValueError(f"cannot show a share of {positive_fraction} positives: none of {len(labels)} is positive")
        wanted = round(positive.size * (1 - positive_fraction) / positive_fraction)
        rows = np.concatenate([positive, rng.choice(negative, min(wanted, negative.size), replace=False)])
    rows = rng.permutation(rows)
    transforms = np.full(rows.size, 0 if augmented else UNCHANGED)
    return EpochPlan(rows, transforms, rng.integers(SEEDS, size=rows.size))


def enriched_epoch(count: int, copies: pd.DataFrame, number: int, *, seed: int) -> EpochPlan:
    """Shuffle all images and the changed copies that `enrichment.enrich` chose; the copies look the same each epoch.

    Args:
        count: How many images there are.
        copies: `row`, `transform` (both positions) and `seed` of each copy.
        number: The epoch's, from 0.
        seed: Same seed and same number, same epoch.
    """
    unchanged = np.full(count, UNCHANGED)
    order = np.random.default_rng([seed, number]).permutation(count + len(copies))
    return EpochPlan(
        np.concatenate([np.arange(count), copies["row"]])[order],
        np.concatenate([unchanged, copies["transform"]])[order],
        np.concatenate([np.zeros(count, np.int64), copies["seed"]])[order],
    )


def scheduled_fraction(first: float, last: float, number: int, epochs: int) -> float:
    """Go from one share to another in equal steps.

    Args:
        first: In epoch 0.
        last: In the last epoch.
        number: The epoch's, from 0.
        epochs: How many there are.
    """
    return first + (last - first) * number / max(epochs - 1, 1)
