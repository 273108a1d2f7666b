"""Confidence intervals by bootstrap resampling of patients."""

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
    """Compute the confidence interval of a score (Efron's percentile bootstrap).

    Whole groups are resampled with replacement, since two images of one patient say less than images of two patients.

    Args:
        score: Function from row numbers, int64 (n,), with repetitions, to the score of these rows or to an array of
            scores.
        groups: (n,), the group of each row, see `patient_groups`.
        resamples: Number of resamples.
        level: Confidence level: the fraction of the resamples between the bounds.
        seed: Seed of the resampling. The same seed gives the same bounds.

    Returns:
        The lower and the upper bound, float64, of the shape of a score. Resamples in which a score is NaN, such as the
        AUC of a single class, are ignored; a bound is NaN if all of them are.

    Example:
        >>> values = np.array([0.0, 1.0, 1.0, 1.0])
        >>> low, high = bootstrap_interval(lambda rows: values[rows].mean(), np.arange(4))
        >>> float(low), float(high)
        (0.25, 1.0)
    """
    _, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members)
    rows, ends = np.argsort(members, kind="stable"), np.cumsum(sizes)  # the rows of one group after those of another
    rng = np.random.default_rng(seed)

    def resample() -> np.ndarray:
        drawn = rng.integers(sizes.size, size=sizes.size)
        counts = sizes[drawn]
        # A row's position is that of its group's first row plus its number in the group.
        return rows[np.arange(counts.sum()) + np.repeat(ends[drawn] - np.cumsum(counts), counts)]

    scores = np.array([score(resample()) for _ in range(resamples)])
    return _bounds(scores, level)


def bootstrap_means(
    values: np.ndarray, groups: np.ndarray, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the confidence intervals of several means at once, all from the same resamples.

    The bounds are those of `bootstrap_interval`, computed much faster.

    Args:
        values: float, (n, m); NaN where an image does not count towards a mean.
        groups: (n,), the group of each row, see `patient_groups`.
        resamples: Number of resamples.
        level: Confidence level: the fraction of the resamples between the bounds.
        seed: Seed of the resampling. The same seed gives the same bounds.

    Returns:
        The lower and the upper bounds, float64, (m,) each; NaN for the mean of no values.

    Example:
        >>> low, high = bootstrap_means(np.array([[0.0], [1.0], [1.0], [1.0]]), np.arange(4))
        >>> low.tolist(), high.tolist()
        ([0.25], [1.0])
    """
    _, members = np.unique(groups, return_inverse=True)
    known = ~np.isnan(values)
    totals = _group_sums(np.where(known, values, 0.0), members)
    counts = _group_sums(known.astype(float), members)
    count = len(totals)
    rng = np.random.default_rng(seed)
    means = np.full((resamples, values.shape[1]), np.nan)
    for number in range(resamples):
        repeats = np.bincount(rng.integers(count, size=count), minlength=count).astype(float)
        counted = repeats @ counts
        np.divide(repeats @ totals, counted, out=means[number], where=counted > 0)
    return _bounds(means, level)


def _bounds(scores: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles over the first axis, ignoring NaN."""
    bounds = np.full((2, *scores.shape[1:]), np.nan)
    known = ~np.isnan(scores).all(axis=0)
    bounds[:, known] = np.nanquantile(scores[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return bounds[0], bounds[1]


def _group_sums(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    sums = np.zeros((members.max() + 1, values.shape[1]))
    np.add.at(sums, members, values)
    return sums
