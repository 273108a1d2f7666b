"""Streaming metrics of masks and labels, and the competition's Dice on arrays.

Targets and predictions have the same shape: (batch, height, width, 1), or without the last axis, for masks; (batch, 1)
or (batch,) for the classifier. A target is positive above 0.5, a prediction above the metric's threshold. Everything is
computed in float32 whatever the precision policy, and a sample weight is one number an image.

A NaN prediction is neither positive nor negative: it makes the result NaN until the state is reset.

Totals stay exact where one float32 would stop counting (at 2**24, sixteen images of 1024 x 1024): each is kept as a
number of whole units and a remainder, and is exact up to 2**36 pixels, or 65,536 such images.
"""

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import keras
import numpy as np
from keras import ops

# One float32 counts an image's pixels exactly up to here.
_MOST_PIXELS = 2**24
_PIXEL_UNIT = 2.0**12
_SCORE_UNIT = 1.0


def dice(mask: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice coefficient of two masks, ``2 |X & Y| / (|X| + |Y|)``, and 1 where both are empty.

    This is the competition's score of one image, at 1024 x 1024.

    Args:
        mask: bool, (H, W).
        other: bool, (H, W).

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If the shapes differ, or either is not bool.
    """
    if mask.shape != other.shape:
        raise ValueError(f"two masks must have one shape; got {mask.shape} and {other.shape}: resize one first")
    if mask.dtype != bool or other.dtype != bool:
        raise ValueError(f"masks must be bool; got {mask.dtype} and {other.dtype}: threshold them first")
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return 2 * np.count_nonzero(mask & other) / total if total else 1.0


def mean_dice(masks: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> float:
    """Return the mean of :func:`dice` over pairs, holding one pair at a time: the competition's metric.

    Args:
        masks: bool masks, (H, W) each; any iterable, read once.
        others: The masks to compare with, in the same order.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If there are none, one side has more, or a pair cannot be compared.
    """
    total, pairs = 0.0, 0
    for mask, other in zip_longest(masks, others):
        if mask is None or other is None:
            raise ValueError(f"mean_dice needs pairs of masks; the {'first' if mask is None else 'second'} side ended")
        total += dice(mask, other)
        pairs += 1
    if not pairs:
        raise ValueError("mean_dice of no masks is undefined: give at least one pair")
    return total / pairs


@keras.saving.register_keras_serializable("pneumoseg")
class MatthewsCorrelation(keras.metrics.Metric):
    """Matthews correlation coefficient of one confusion matrix over all that was seen since the last reset.

    ``(tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn))`` (Matthews 1975), in [-1, 1]. It is not a mean
    over batches, which depends on how they are cut. Where a class is never predicted or never true it is undefined,
    and 0, as in scikit-learn.

    Args:
        threshold: A prediction above it is positive.
        name: Name of the metric.
    """

    def __init__(self, threshold: float = 0.5, name: str = "mcc") -> None:
        super().__init__(name=name, dtype="float32")
        self.threshold = threshold
        self.totals = self.add_variable((2, 4), "zeros", dtype="float32", name="confusion")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch to the confusion matrix."""
        counts = _confusion(y_true, y_pred, self.threshold) * _column(sample_weight)
        self.totals.assign(_added(self.totals, counts, _PIXEL_UNIT))

    def result(self) -> Any:
        """Return the coefficient, a float32 scalar."""
        tp, fp, fn, tn = ops.unstack(_read(self.totals, _PIXEL_UNIT), 4)
        # Two roots: the product of all four can overflow float32 at the 1e10 pixels of an epoch.
        scale = ops.sqrt((tp + fp) * (tp + fn)) * ops.sqrt((tn + fp) * (tn + fn))
        return ops.clip(_ratio(tp * tn - fp * fn, scale, 0.0), -1.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this metric."""
        return {"threshold": self.threshold, "name": self.name}


class _Overlap(keras.metrics.Metric):
    """A score of true positives, false positives and false negatives: a mean over images, or pooled over pixels."""

    def __init__(self, threshold: float, per_image: bool, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.threshold = threshold
        self.per_image = per_image
        self.totals = self.add_variable((2, 2 if per_image else 4), "zeros", dtype="float32", name="totals")

    def score(self, tp: Any, fp: Any, fn: Any) -> Any:
        """Return the score of these counts, 1 where all are 0."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch."""
        counts, weights = _confusion(y_true, y_pred, self.threshold), _column(sample_weight)
        if not self.per_image:
            self.totals.assign(_added(self.totals, counts * weights, _PIXEL_UNIT))
            return
        tp, fp, fn, _ = ops.unstack(counts, 4, axis=-1)
        scores = ops.expand_dims(self.score(tp, fp, fn), axis=-1)
        scored = ops.concatenate([scores, ops.ones_like(scores)], axis=-1)
        self.totals.assign(_added(self.totals, scored * weights, _SCORE_UNIT))

    def result(self) -> Any:
        """Return the score, a float32 scalar; 0 before the first image."""
        if self.per_image:
            total, images = ops.unstack(_read(self.totals, _SCORE_UNIT), 2)
            return _ratio(total, images, 0.0)
        tp, fp, fn, tn = ops.unstack(_read(self.totals, _PIXEL_UNIT), 4)
        return ops.where(tp + fp + fn + tn == 0, 0.0, self.score(tp, fp, fn))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this metric."""
        return {"threshold": self.threshold, "per_image": self.per_image, "name": self.name}


@keras.saving.register_keras_serializable("pneumoseg")
class IoU(_Overlap):
    """Intersection over union, ``tp / (tp + fp + fn)``, in [0, 1].

    An empty prediction of an empty mask scores 1.

    Args:
        threshold: A prediction above it is positive.
        per_image: Whether to take the mean of the images' scores, or one score of all pixels pooled.
        name: Name of the metric.
    """

    def __init__(self, threshold: float = 0.5, per_image: bool = True, name: str = "iou") -> None:
        super().__init__(threshold, per_image, name)

    def score(self, tp: Any, fp: Any, fn: Any) -> Any:
        """Return the IoU of these counts, 1 where all are 0."""
        return _ratio(tp, tp + fp + fn, 1.0)


@keras.saving.register_keras_serializable("pneumoseg")
class FBeta(_Overlap):
    """F-beta, ``(1 + beta^2) tp / ((1 + beta^2) tp + beta^2 fn + fp)``, in [0, 1] (van Rijsbergen 1979).

    ``beta=1`` is the Dice coefficient; ``beta=2`` counts recall twice as important as precision. An empty prediction
    of an empty mask scores 1.

    Args:
        beta: Importance of recall relative to precision, above 0.
        threshold: A prediction above it is positive.
        per_image: Whether to take the mean of the images' scores, or one score of all pixels pooled.
        name: Name of the metric; by default "f1", "f2" and so on, after ``beta``.

    Raises:
        ValueError: If ``beta`` is not above 0.
    """

    def __init__(
        self, beta: float = 1.0, threshold: float = 0.5, per_image: bool = True, name: str | None = None
    ) -> None:
        if not beta > 0:
            raise ValueError(f"FBeta needs beta > 0; got {beta}")
        super().__init__(threshold, per_image, name or f"f{beta:g}")
        self.beta = beta

    def score(self, tp: Any, fp: Any, fn: Any) -> Any:
        """Return the F-beta of these counts, 1 where all are 0."""
        square = self.beta**2
        return _ratio((1 + square) * tp, (1 + square) * tp + square * fn + fp, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this metric."""
        return {"beta": self.beta, **super().get_config()}


def _confusion(y_true: Any, y_pred: Any, threshold: float) -> Any:
    """Return each image's true positives, false positives, false negatives and true negatives, (batch, 4)."""
    true, pred = _flattened(y_true, y_pred)
    actual = ops.cast(true > 0.5, "float32")
    # A comparison alone would count NaN among the negatives.
    predicted = ops.where(ops.isnan(pred), pred, ops.cast(pred > threshold, "float32"))
    tp = ops.sum(actual * predicted, axis=-1)
    fp = ops.sum(predicted, axis=-1) - tp
    fn = ops.sum(actual, axis=-1) - tp
    tn = ops.cast(ops.shape(pred)[-1], "float32") - tp - fp - fn
    return ops.stack([tp, fp, fn, tn], axis=-1)


def _flattened(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Return float32 targets and predictions as (batch, pixels), or refuse shapes that would give a wrong number."""
    y_true, y_pred = (ops.convert_to_tensor(y, dtype="float32") for y in (y_true, y_pred))
    true, pred = (shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape for shape in (y_true.shape, y_pred.shape))
    if len(true) != len(pred) or any(t != p for t, p in zip(true, pred, strict=True) if t and p):
        raise ValueError(
            f"y_true and y_pred must have the same shape, but for a last axis of 1; got {y_true.shape}, {y_pred.shape}"
        )
    flat_true, flat_pred = (ops.reshape(y, (ops.shape(y)[0], -1)) for y in (y_true, y_pred))
    if (flat_pred.shape[-1] or 0) > _MOST_PIXELS:
        raise ValueError(f"images of up to {_MOST_PIXELS} pixels are counted exactly; got shape {y_pred.shape}")
    return flat_true, flat_pred


def _column(sample_weight: Any) -> Any:
    """Return the weights as (batch, 1) or (1, 1), or refuse weights of pixels."""
    weights = ops.convert_to_tensor(1.0 if sample_weight is None else sample_weight, dtype="float32")
    if any(size != 1 for size in weights.shape[1:]):
        raise ValueError(f"sample_weight must hold one weight an image, shape (batch,); got shape {weights.shape}")
    return ops.reshape(weights, (-1, 1))


def _added(totals: Any, values: Any, unit: float) -> Any:
    """Return the totals with the (batch, k) values added: (2, k), whole units above the remainder below one unit."""
    units = ops.floor(values / unit)
    remainder = totals[1] + ops.sum(values - units * unit, axis=0)
    carried = ops.floor(remainder / unit)
    return ops.stack([totals[0] + ops.sum(units, axis=0) + carried, remainder - carried * unit])


def _read(totals: Any, unit: float) -> Any:
    return totals[0] * unit + totals[1]


def _ratio(numerator: Any, denominator: Any, undefined: float) -> Any:
    """Return the quotient, and ``undefined`` where the denominator is 0; NaN stays NaN."""
    defined = denominator != 0
    return ops.where(defined, numerator / ops.where(defined, denominator, 1.0), undefined)
