"""Streaming metrics of masks and labels.

Targets and predictions have the same shape: (batch, height, width, 1) or (batch, height, width) for masks, (batch, 1)
or (batch,) for the classifier. A target is positive above 0.5, a prediction above the threshold of the metric.
Everything is computed in float32, whatever the precision policy. A sample weight is one number per image.

A NaN prediction is neither positive nor negative. It makes the result NaN until the state is reset.

A single float32 stops counting at 2**24, which is sixteen images of 1024 x 1024. Each total is therefore stored as a
number of whole units and a remainder, and is exact up to 2**36 pixels, or 65,536 such images.
"""

from typing import Any

import keras
from keras import ops

from pneumoseg.tensors import flatten_images, weight_per_image

# Largest number of pixels in an image that a single float32 counts exactly.
_MOST_PIXELS = 2**24
_PIXEL_UNIT = 2.0**12
_SCORE_UNIT = 1.0


@keras.saving.register_keras_serializable("pneumoseg")
class MatthewsCorrelation(keras.metrics.Metric):
    """Matthews correlation coefficient of one confusion matrix over all batches since the last reset.

    ``(tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn))`` (Matthews 1975), in [-1, 1]. A mean over
    batches would depend on how the images are divided into batches; this value does not. If a class is never predicted
    or never true, the coefficient is undefined and the result is 0, as in scikit-learn.

    Args:
        threshold: Probability above which a prediction is positive.
        name: Name of the metric.

    Example:
        >>> metric = MatthewsCorrelation()
        >>> metric.update_state([1, 1, 0, 0], [0.9, 0.2, 0.1, 0.3])  # tp 1, fp 0, fn 1, tn 2
        >>> round(float(metric.result()), 4)  # 2 / sqrt(1 * 2 * 2 * 3)
        0.5774
    """

    def __init__(self, threshold: float = 0.5, name: str = "mcc") -> None:
        super().__init__(name=name, dtype="float32")
        self.threshold = threshold
        self.totals = self.add_variable((2, 4), "zeros", dtype="float32", name="confusion")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch to the confusion matrix."""
        counts = _confusion(y_true, y_pred, self.threshold) * _count_weights(sample_weight)
        self.totals.assign(_added(self.totals, counts, _PIXEL_UNIT))

    def result(self) -> Any:
        """Return the coefficient, a float32 scalar."""
        tp, fp, fn, tn = ops.unstack(_read(self.totals, _PIXEL_UNIT), 4)
        # Two roots, because the product of all four sums can overflow float32 at the 1e10 pixels of an epoch.
        scale = ops.sqrt((tp + fp) * (tp + fn)) * ops.sqrt((tn + fp) * (tn + fn))
        return ops.clip(_ratio(tp * tn - fp * fn, scale, 0.0), -1.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this metric."""
        return {"threshold": self.threshold, "name": self.name}


class _Overlap(keras.metrics.Metric):
    """A score of true positives, false positives and false negatives, averaged over images or pooled over pixels."""

    def __init__(self, threshold: float, per_image: bool, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.threshold = threshold
        self.per_image = per_image
        self.totals = self.add_variable((2, 2 if per_image else 4), "zeros", dtype="float32", name="totals")

    def score(self, tp: Any, fp: Any, fn: Any) -> Any:
        """Return the score of these counts, 1 where all of them are 0."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch to the totals."""
        counts, weights = _confusion(y_true, y_pred, self.threshold), _count_weights(sample_weight)
        if not self.per_image:
            self.totals.assign(_added(self.totals, counts * weights, _PIXEL_UNIT))
            return
        tp, fp, fn, _ = ops.unstack(counts, 4, axis=-1)
        scores = ops.expand_dims(self.score(tp, fp, fn), axis=-1)
        scored = ops.concatenate([scores, ops.ones_like(scores)], axis=-1)
        self.totals.assign(_added(self.totals, scored * weights, _SCORE_UNIT))

    def result(self) -> Any:
        """Return the score, a float32 scalar, or 0 before the first image."""
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
        threshold: Probability above which a pixel is predicted positive.
        per_image: Whether to average the scores of the images. Otherwise all pixels are pooled into one score.
        name: Name of the metric.

    Example:
        >>> metric = IoU()
        >>> metric.update_state([[1, 1, 0, 0], [0, 0, 0, 0]], [[0.9, 0.2, 0.7, 0.1], [0.1, 0.0, 0.0, 0.2]])
        >>> round(float(metric.result()), 4)  # the mean of 1 / 3 and 1
        0.6667
    """

    def __init__(self, threshold: float = 0.5, per_image: bool = True, name: str = "iou") -> None:
        super().__init__(threshold, per_image, name)

    def score(self, tp: Any, fp: Any, fn: Any) -> Any:
        """Return the IoU of these counts, 1 where all of them are 0."""
        return _ratio(tp, tp + fp + fn, 1.0)


@keras.saving.register_keras_serializable("pneumoseg")
class FBeta(_Overlap):
    """F-beta score, ``(1 + beta^2) tp / ((1 + beta^2) tp + beta^2 fn + fp)``, in [0, 1] (van Rijsbergen 1979).

    ``beta=1`` is the Dice coefficient; ``beta=2`` makes recall twice as important as precision. An empty prediction of
    an empty mask scores 1.

    Args:
        beta: Importance of recall relative to precision, above 0.
        threshold: Probability above which a pixel is predicted positive.
        per_image: Whether to average the scores of the images. Otherwise all pixels are pooled into one score.
        name: Name of the metric; None names it after ``beta``: "f1", "f2" and so on.

    Raises:
        ValueError: If ``beta`` is not above 0.

    Example:
        >>> metric = FBeta(beta=1)
        >>> metric.update_state([[1, 1, 0, 0], [0, 0, 0, 0]], [[0.9, 0.2, 0.7, 0.1], [0.1, 0.0, 0.0, 0.2]])
        >>> metric.name, float(metric.result())  # the mean of 2 / 4 and 1
        ('f1', 0.75)
    """

    def __init__(
        self, beta: float = 1.0, threshold: float = 0.5, per_image: bool = True, name: str | None = None
    ) -> None:
        if not beta > 0:
            raise ValueError(f"FBeta needs beta > 0; got {beta}")
        super().__init__(threshold, per_image, name or f"f{beta:g}")
        self.beta = beta

    def score(self, tp: Any, fp: Any, fn: Any) -> Any:
        """Return the F-beta score of these counts, 1 where all of them are 0."""
        square = self.beta**2
        return _ratio((1 + square) * tp, (1 + square) * tp + square * fn + fp, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this metric."""
        return {"beta": self.beta, **super().get_config()}


def _confusion(y_true: Any, y_pred: Any, threshold: float) -> Any:
    """Return the true positives, false positives, false negatives and true negatives of each image, (batch, 4)."""
    true, pred = flatten_images(y_true, y_pred)
    if (pred.shape[-1] or 0) > _MOST_PIXELS:
        raise ValueError(f"images of up to {_MOST_PIXELS} pixels are counted exactly; got {pred.shape[-1]} pixels")
    actual = ops.cast(true > 0.5, "float32")
    # A plain comparison would count NaN as negative.
    predicted = ops.where(ops.isnan(pred), pred, ops.cast(pred > threshold, "float32"))
    tp = ops.sum(actual * predicted, axis=-1)
    fp = ops.sum(predicted, axis=-1) - tp
    fn = ops.sum(actual, axis=-1) - tp
    tn = ops.cast(ops.shape(pred)[-1], "float32") - tp - fp - fn
    return ops.stack([tp, fp, fn, tn], axis=-1)


def _count_weights(sample_weight: Any) -> Any:
    """Return the sample weights as a column, (batch, 1), or (1, 1) if there are none."""
    return ops.expand_dims(weight_per_image(1.0 if sample_weight is None else sample_weight), axis=-1)


def _added(totals: Any, values: Any, unit: float) -> Any:
    """Add values, (batch, k), to the totals, (2, k): whole units in the first row, the remainder in the second."""
    units = ops.floor(values / unit)
    remainder = totals[1] + ops.sum(values - units * unit, axis=0)
    carried = ops.floor(remainder / unit)
    return ops.stack([totals[0] + ops.sum(units, axis=0) + carried, remainder - carried * unit])


def _read(totals: Any, unit: float) -> Any:
    return totals[0] * unit + totals[1]


def _ratio(numerator: Any, denominator: Any, undefined: float) -> Any:
    """Return the quotient, or ``undefined`` where the denominator is 0; NaN stays NaN."""
    defined = denominator != 0
    return ops.where(defined, numerator / ops.where(defined, denominator, 1.0), undefined)
