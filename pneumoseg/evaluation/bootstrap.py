"""Between which bounds a score would lie on other images of the same kind: the bootstrap over patients."""

from collections.abc import Callable

import numpy as np


def bootstrap_interval(
    score: Callable[[np.ndarray], float | np.ndarray],
    groups: np.ndarray,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate between which bounds a score would lie on other images of the same kind (Efron's percentile bootstrap).

    Whole groups are drawn with replacement: two images of one patient tell less than those of two.

    Args:
        score: From row numbers, int64 (n,), some of them several times, to the score of these rows,
            or an array of scores.
        groups: (n,), whose image each row is; all different where nothing is known.
        resamples: How often to draw.
        level: Share of the resamples between the bounds.
        seed: Same seed, same bounds.

    Returns:
        The lower and the upper bound, float64, of the shape of a score. A resample without a score, such as the AUC of
        one class, does not count; NaN where none has one.
    """
    _, members = np.unique(groups, return_inverse=True)
    rows = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members))[:-1])
    rng = np.random.default_rng(seed)
    scores = np.array(
        [
            score(np.concatenate([rows[group] for group in rng.integers(len(rows), size=len(rows))]))
            for _ in range(resamples)
        ]
    )
    return _bounds(scores, level)


def bootstrap_means(
    values: np.ndarray, groups: np.ndarray, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Do what `bootstrap_interval` does for means, many at once and all from the same resamples.

    Args:
        values: float, (n, m); NaN where an image does not count for a mean.
        groups: (n,), as for `bootstrap_interval`, and likewise the others.
        resamples: How often to draw.
        level: Share of the resamples between the bounds.
        seed: Same seed, same bounds.

    Returns:
        The lower and upper bounds, float64 (m,) each; NaN for a mean of nothing.
    """
    _, members = np.unique(groups, return_inverse=True)
    known = ~np.isnan(values)
    totals = _group_sums(np.where(known, values, 0.0), members)
    counts = _group_sums(known.astype(float), members)
    count = len(totals)
    rng = np.random.default_rng(seed)
    means = np.full((resamples, values.shape[1]), np.nan)
    for number in range(resamples):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count).astype(float)
        counted = drawn @ counts
        np.divide(drawn @ totals, counted, out=means[number], where=counted > 0)
    return _bounds(means, level)


def _bounds(scores: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles over the first axis, without NaN."""
    bounds = np.full((2, *scores.shape[1:]), np.nan)
    known = ~np.isnan(scores).all(axis=0)
    bounds[:, known] = np.nanquantile(scores[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return bounds[0], bounds[1]


def _group_sums(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    sums = np.zeros((members.max() + 1, values.shape[1]))
    np.add.at(sums, members, values)
    return sums
