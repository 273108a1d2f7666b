"""The enrichment arm: a training set balanced by changed copies of its positives (section 4.1.1, equations 1 and 2)."""

import numpy as np
import pandas as pd

from pneumoseg.data.sampling import SEEDS


def enrich(labels: np.ndarray, transform_count: int, *, seed: int) -> pd.DataFrame:
    """Choose the copies that balance a training set.

    Equation 1: ``sdif = negatives - positives``. Equation 2: each transform adds ``sdif / transform_count`` changed
    positives; of a remainder the first transforms add one more each, so that the set ends balanced. Over all
    transforms together each positive is copied equally often, or once more than another.

    Args:
        labels: bool, (n,): which training images are positive. Copies are made of these images alone, so split first.
        transform_count: How many transforms there are, 1 or more.
        seed: Same seed, same copies.

    Returns:
        One row a copy, sdif in all: `row`, the position of the image it is made of, `transform`, the position of the
        transform that changes it, and `seed`, of the transform's random choices; int64.

    Raises:
        ValueError: If no image is positive, or more are positive than negative.
    """
    positive = np.flatnonzero(labels)
    sdif = len(labels) - 2 * positive.size
    if not positive.size or sdif < 0:
        raise ValueError(
            f"enrichment adds positives until there are as many as negatives, and {positive.size} of {len(labels)} "
            "images are positive: leave enrichment out"
        )
    rng = np.random.default_rng(seed)
    support, remainder = divmod(sdif, transform_count)
    counts = [support + (number < remainder) for number in range(transform_count)]
    return pd.DataFrame(
        {
            "row": np.resize(rng.permutation(positive), sdif),
            "transform": np.repeat(np.arange(transform_count), counts),
            "seed": rng.integers(SEEDS, size=sdif),
        }
    )
