"""Scores of a classifier on arrays: one confusion matrix, the area under the ROC curve, calibration, best threshold."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve


def classification_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Score probabilities at one threshold.

    Args:
        labels: bool, (n,): whether there is a pneumothorax.
        probabilities: (n,), in [0, 1]. One above the threshold is positive.
        threshold: In [0, 1].

    Returns:
        `mcc` (see `matthews_correlation`), `precision`, `recall` (sensitivity), `specificity`, `accuracy`, `f1` and
        `auc`, floats. A ratio without a denominator is 0, as in scikit-learn; `auc`, which no threshold changes, is NaN
        where a class is missing. After a NaN probability all are NaN.

    Raises:
        ValueError: If there are none, or not as many labels as probabilities.
    """
    labels, probabilities = _checked(labels, probabilities)
    if np.isnan(probabilities).any():
        names = ("mcc", "precision", "recall", "specificity", "accuracy", "f1", "auc")
        return dict.fromkeys(names, float("nan"))
    predicted = probabilities > threshold
    tp, fp = int((predicted & labels).sum()), int((predicted & ~labels).sum())
    fn, tn = int((~predicted & labels).sum()), int((~predicted & ~labels).sum())
    return {
        "mcc": float(matthews_correlation(tp, fp, fn, tn)),
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "specificity": tn / (tn + fp) if tn + fp else 0.0,
        "accuracy": (tp + tn) / labels.size,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
        "auc": float(roc_auc_score(labels, probabilities)) if 0 < labels.sum() < labels.size else float("nan"),
    }


def matthews_correlation(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, tn: ArrayLike) -> np.ndarray:
    """Return ``(tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn))`` (Matthews 1975), in [-1, 1].

    Args:
        tp: True positives, and likewise the others: counts, numbers or arrays of one shape.
        fp: False positives.
        fn: False negatives.
        tn: True negatives.

    Returns:
        float64. 0 where a class is never predicted or never true, as in scikit-learn.
    """
    tp, fp, fn, tn = (np.asarray(count, float) for count in (tp, fp, fn, tn))
    scale = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
    return np.divide(tp * tn - fp * fn, scale, out=np.zeros_like(scale), where=scale > 0)


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Find the threshold with the greatest Matthews correlation.

    Every way to cut the sorted probabilities in two is tried; the threshold lies half-way between the two
    probabilities that it divides. Of several equally good ones the nearest to .5 is taken.

    Args:
        labels: bool, (n,).
        probabilities: (n,), in [0, 1].

    Returns:
        The threshold, above which an image is positive, and the correlation there. Where no threshold does better than
        chance, or a probability is NaN, the threshold is .5.

    Raises:
        ValueError: As `classification_scores`.
    """
    labels, probabilities = _checked(labels, probabilities)
    values, cuts = np.unique(probabilities), np.array([0.5])
    if not np.isnan(probabilities).any() and values.size > 1:
        cuts = (values[:-1] + values[1:]) / 2
    # Positives at or below each cut are missed, negatives at or below it are rightly left.
    fn, tn = (np.searchsorted(np.sort(probabilities[side]), cuts, "right") for side in (labels, ~labels))
    correlations = matthews_correlation(labels.sum() - fn, (~labels).sum() - tn, fn, tn)
    if correlations.max() <= 0:
        return 0.5, classification_scores(labels, probabilities)["mcc"]
    best = np.flatnonzero(correlations == correlations.max())
    chosen = best[np.abs(cuts[best] - 0.5).argmin()]
    return float(cuts[chosen]), float(correlations[chosen])


def sensitivity_at_specificity(labels: np.ndarray, probabilities: np.ndarray, specificity: float) -> float:
    """Find the greatest sensitivity that a threshold reaches at no less than this specificity.

    Args:
        labels: bool, (n,).
        probabilities: (n,), in [0, 1].
        specificity: In [0, 1].

    Returns:
        In [0, 1]; NaN where a class is missing or a probability is NaN.

    Raises:
        ValueError: As `classification_scores`.
    """
    labels, probabilities = _checked(labels, probabilities)
    if np.isnan(probabilities).any() or labels.all() or not labels.any():
        return float("nan")
    false_alarms, found, _ = roc_curve(labels, probabilities, drop_intermediate=False)
    # A share of n negatives is a fraction that rounding may put just beside the one that was meant.
    return float(found[false_alarms <= 1 - specificity + 1e-9].max())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Compare predicted probabilities with how often they come true, in bins of equal width.

    Args:
        labels: bool, (n,).
        probabilities: (n,), in [0, 1], none NaN.
        bins: How many; a probability on a bound belongs to the bin above it, 1 to the last.

    Returns:
        One row a bin that is not empty: `low`, `high`, `images`, the mean `probability` and the `share` of positives.

    Raises:
        ValueError: As `classification_scores`, or if a probability is not in [0, 1].
    """
    edges = _edges(bins)
    images, probability, share = _bins(labels, probabilities, bins)
    table = pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "images": images, "probability": probability, "share": share}
    )
    return table[table["images"] > 0].reset_index(drop=True)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error (Naeini et al. 2015; Guo et al. 2017), in [0, 1].

    The mean over images of how far the share of positives lies from the mean probability in their bin; arguments and
    errors as `reliability`.
    """
    images, probability, share = _bins(labels, probabilities, bins)
    return float((np.abs(share - probability) * images).sum() / images.sum())


def _edges(bins: int) -> np.ndarray:
    # linspace puts the third of ten just above .3.
    return np.arange(bins + 1) / bins


def _bins(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, mean probability and share of positives of each bin, 0 where it is empty."""
    labels, probabilities = _checked(labels, probabilities)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is not in [0, 1]: leave out the images without one")
    number = np.clip(np.searchsorted(_edges(bins), probabilities, "right") - 1, 0, bins - 1)
    images = np.bincount(number, minlength=bins)
    sums = (np.bincount(number, weights=values, minlength=bins) for values in (probabilities, labels.astype(float)))
    probability, share = (total / np.maximum(images, 1) for total in sums)
    return images, probability, share


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels, bool).ravel(), np.asarray(probabilities, np.float64).ravel()
    if labels.size != probabilities.size or labels.size == 0:
        raise ValueError(f"got {labels.size} labels and {probabilities.size} probabilities: expected one each an image")
    return labels, probabilities


def dice(mask: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice coefficient of two masks, ``2 |X & Y| / (|X| + |Y|)``, or 1 if both are empty.

    This is the competition's score of one image, at 1024 x 1024 pixels.

    Args:
        mask: bool, (H, W).
        other: Mask to compare with, bool, (H, W).

    Returns:
        Dice coefficient in [0, 1].

    Raises:
        ValueError: If the shapes differ, or a mask is not bool.

    Example:
        >>> dice(np.array([[True, True, False]]), np.array([[True, False, False]]))
        0.6666666666666666
    """
    if mask.shape != other.shape:
        raise ValueError(f"two masks must have the same shape; got {mask.shape} and {other.shape}: resize one first")
    if mask.dtype != bool or other.dtype != bool:
        raise ValueError(f"masks must be bool; got {mask.dtype} and {other.dtype}: threshold them first")
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return float(2 * np.count_nonzero(mask & other) / total) if total else 1.0
