"""Scores of a classifier from arrays: confusion matrix, area under the ROC curve, calibration, best threshold."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score


def classification_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Score probabilities at one threshold.

    Args:
        labels: bool, (n,), whether there is a pneumothorax.
        probabilities: float, (n,), in [0, 1]. Those above the threshold are positive.
        threshold: Probability in [0, 1].

    Returns:
        `mcc` (see `matthews_correlation`), `precision`, `recall` (sensitivity), `specificity`, `accuracy`, `f1` and
        `auc`, floats. A ratio whose denominator is 0 is 0, as in scikit-learn. `auc`, which does not depend on the
        threshold, is NaN if a class is missing. All scores are NaN if a probability is.

    Raises:
        ValueError: If the arrays are empty or of different lengths.

    Example:
        >>> scores = classification_scores([True, True, False, False], [0.9, 0.4, 0.6, 0.1])
        >>> scores["recall"], scores["auc"]
        (0.5, 0.75)
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
    """Compute ``(tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn))`` (Matthews 1975).

    Args:
        tp: Number of true positives; a number, or an array of the shape of the others.
        fp: Number of false positives.
        fn: Number of false negatives.
        tn: Number of true negatives.

    Returns:
        float64, in [-1, 1]. 0 where a class is never predicted or never true, as in scikit-learn.

    Example:
        >>> float(matthews_correlation(tp=4, fp=1, fn=1, tn=4))
        0.6
    """
    tp, fp, fn, tn = (np.asarray(count, float) for count in (tp, fp, fn, tn))
    scale = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
    return np.divide(tp * tn - fp * fn, scale, out=np.zeros_like(scale), where=scale > 0)


def best_threshold(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Find the threshold with the greatest Matthews correlation.

    One threshold is tried between each two neighbours of the sorted probabilities, half-way between them. Of equally
    good ones, the nearest to 0.5 is chosen.

    Args:
        labels: bool, (n,), whether there is a pneumothorax.
        probabilities: float, (n,), in [0, 1].

    Returns:
        The threshold, above which an image is positive, and the correlation there. The threshold is 0.5 if none is
        better than chance, or if a probability is NaN.

    Raises:
        ValueError: If the arrays are empty or of different lengths.

    Example:
        >>> best_threshold([False, False, True, True], [0.125, 0.25, 0.5, 0.75])
        (0.375, 1.0)
    """
    labels, probabilities = _checked(labels, probabilities)
    values, cuts = np.unique(probabilities), np.array([0.5])
    if not np.isnan(probabilities).any() and values.size > 1:
        cuts = (values[:-1] + values[1:]) / 2
    # Positives at or below a cut are false negatives, and negatives at or below it are true negatives.
    fn, tn = (np.searchsorted(np.sort(probabilities[side]), cuts, "right") for side in (labels, ~labels))
    correlations = matthews_correlation(labels.sum() - fn, (~labels).sum() - tn, fn, tn)
    if correlations.max() <= 0:
        return 0.5, classification_scores(labels, probabilities)["mcc"]
    best = np.flatnonzero(correlations == correlations.max())
    chosen = best[np.abs(cuts[best] - 0.5).argmin()]
    return float(cuts[chosen]), float(correlations[chosen])


def sensitivity_at_specificity(labels: np.ndarray, probabilities: np.ndarray, specificity: float) -> float:
    """Find the greatest sensitivity of all thresholds with at least this specificity.

    Args:
        labels: bool, (n,), whether there is a pneumothorax.
        probabilities: float, (n,), in [0, 1].
        specificity: Lowest specificity, in [0, 1].

    Returns:
        The sensitivity, in [0, 1]; NaN if a class is missing or a probability is NaN.

    Raises:
        ValueError: If the arrays are empty or of different lengths.

    Example:
        >>> sensitivity_at_specificity([True, True, False, False], [0.9, 0.4, 0.6, 0.1], specificity=1.0)
        0.5
    """
    labels, probabilities = _checked(labels, probabilities)
    if np.isnan(probabilities).any() or labels.all() or not labels.any():
        return float("nan")
    negatives, positives = probabilities[~labels], probabilities[labels]
    # A fraction of n negatives may be rounded to slightly less than the one that was asked for.
    false_alarms = int((1 - specificity + 1e-9) * negatives.size)
    if false_alarms >= negatives.size:
        return 1.0
    # The threshold is the most probable negative that must not be found.
    threshold = -np.partition(-negatives, false_alarms)[false_alarms]
    return float(np.count_nonzero(positives > threshold) / positives.size)


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Compare predicted probabilities with the fraction of positives, in bins of equal width.

    Args:
        labels: bool, (n,), whether there is a pneumothorax.
        probabilities: float, (n,), in [0, 1], none NaN.
        bins: Number of bins. A probability on a bound belongs to the bin above it, and 1 to the last bin.

    Returns:
        One row per bin that is not empty: `low` and `high` (its bounds), `images`, `probability` (the mean) and
        `positive_fraction`.

    Raises:
        ValueError: If the arrays are empty or of different lengths, or a probability is not in [0, 1].

    Example:
        >>> reliability([True, False, True], [0.3, 0.4, 0.9], bins=2)["positive_fraction"].tolist()
        [0.5, 1.0]
    """
    edges = _edges(bins)
    images, probability, fraction = _bins(labels, probabilities, bins)
    columns = {"low": edges[:-1], "high": edges[1:], "images": images}
    table = pd.DataFrame(columns | {"probability": probability, "positive_fraction": fraction})
    return table[table["images"] > 0].reset_index(drop=True)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Compute the expected calibration error (Naeini et al. 2015; Guo et al. 2017).

    This is the mean over images of the absolute difference between the fraction of positives and the mean probability
    in the image's bin.

    Args:
        labels: bool, (n,), whether there is a pneumothorax.
        probabilities: float, (n,), in [0, 1], none NaN.
        bins: Number of bins of equal width.

    Returns:
        The error, in [0, 1].

    Raises:
        ValueError: If the arrays are empty or of different lengths, or a probability is not in [0, 1].

    Example:
        >>> calibration_error([True, True, False, True], [0.75, 0.75, 0.75, 0.75])
        0.0
    """
    images, probability, fraction = _bins(labels, probabilities, bins)
    return float((np.abs(fraction - probability) * images).sum() / images.sum())


def _edges(bins: int) -> np.ndarray:
    # With linspace the third of ten edges would be slightly above 0.3.
    return np.arange(bins + 1) / bins


def _bins(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images, mean probability and fraction of positives of each bin, all 0 for an empty bin."""
    labels, probabilities = _checked(labels, probabilities)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("expected probabilities in [0, 1]: leave out images without a probability")
    number = np.clip(np.searchsorted(_edges(bins), probabilities, "right") - 1, 0, bins - 1)
    images = np.bincount(number, minlength=bins)
    sums = (np.bincount(number, weights=values, minlength=bins) for values in (probabilities, labels.astype(float)))
    probability, fraction = (total / np.maximum(images, 1) for total in sums)
    return images, probability, fraction


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels, bool).ravel(), np.asarray(probabilities, np.float64).ravel()
    if labels.size != probabilities.size or labels.size == 0:
        raise ValueError(
            f"got {labels.size} labels and {probabilities.size} probabilities: expected one of each per image"
        )
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
