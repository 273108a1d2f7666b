"""The enrichment arm: training sets balanced by augmented copies of positives (section 4.1.1, equations 1 and 2)."""

import numpy as np
import pandas as pd

from pneumoseg.data.sampling import SEEDS


def enrich(labels: np.ndarray, transform_count: int, *, seed: int) -> pd.DataFrame:
    """Choose the copies that balance a training set.

    Equation 1: ``sdif = negatives - positives``. Equation 2: each transform adds ``sdif / transform_count`` changed
    positives. If there is a remainder, the first transforms add one more each, so that the set is balanced exactly.
    Over all transforms, the numbers of copies of two positives differ by at most 1.

    Args:
        labels: Whether each training image is positive, bool, (n,). Only these images are copied, so split first.
        transform_count: Number of transforms, 1 or more.
        seed: Seed of the random choices; the same seed gives the same copies.

    Returns:
        One row per copy, sdif rows in all, int64: `row`, the position of the copied image in `labels`; `transform`, the
        position of the transform that changes it; and `seed`, the seed of the transform.

    Raises:
        ValueError: If no image is positive, or more images are positive than negative.

    Example:
        >>> enrich(np.array([False, True, False, False]), transform_count=2, seed=0)[["row", "transform"]]
           row  transform
        0    1          0
        1    1          1
    """
    positive = np.flatnonzero(labels)
    sdif = len(labels) - 2 * positive.size
    if not positive.size or sdif < 0:
        raise ValueError(
            f"enrichment adds positives until there are as many as negatives, but {positive.size} of {len(labels)} "
            "images are positive: train without enrichment"
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
