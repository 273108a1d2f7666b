"""Losses on probabilities, which can be added and scaled: ``2.0 * FocalLoss() + DiceLoss()``.

Targets and predictions have the same shape: (batch, height, width, 1) or (batch, height, width) for masks, (batch, 1)
or (batch,) for the classifier. Targets are 0 or 1 in any dtype. Predictions are probabilities in [0, 1] in any float
dtype. Everything is computed in float32, whatever the precision policy. Each loss has one value per image, so a sample
weight is one number per image. The reduction works as in Keras. A NaN prediction makes the loss NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from pneumoseg.tensors import flatten_images, weight_per_image

_MEAN = "sum_over_batch_size"
# Logarithms, powers and their gradients stay finite for probabilities at least this far from 0 and 1.
_EPSILON = 1e-7


class _ImageLoss(keras.losses.Loss):
    """A float32 loss with one value per image, which can be added to other losses and scaled."""

    def __init__(self, name: str, reduction: str | None) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if sample_weight is not None:
            sample_weight = weight_per_image(sample_weight)
        return super().__call__(y_true, y_pred, sample_weight)

    def __add__(self, other: keras.losses.Loss) -> WeightedSum:
        if not isinstance(other, keras.losses.Loss):
            return NotImplemented
        return _joined(self, other)

    def __radd__(self, other: keras.losses.Loss) -> WeightedSum:
        if not isinstance(other, keras.losses.Loss):
            return NotImplemented
        return _joined(other, self)

    def __mul__(self, weight: float) -> WeightedSum:
        terms, weights = _terms(self)
        return WeightedSum(terms, [weight * w for w in weights])

    __rmul__ = __mul__


@keras.saving.register_keras_serializable("pneumoseg")
class FocalLoss(_ImageLoss):
    """Binary focal cross-entropy, averaged over the pixels of each image.

    The loss of a pixel is ``-alpha (1 - p)^gamma log(p)`` where the target is 1, and
    ``-(1 - alpha) p^gamma log(1 - p)`` where it is 0 (Lin et al. 2017, arXiv:1708.02002, equation 5). Probabilities
    are first clipped to [1e-7, 1 - 1e-7].

    Args:
        alpha: Weight of positive pixels, in [0, 1]; background pixels have weight ``1 - alpha``.
        gamma: Focusing exponent, at least 0; with 0 the loss is the weighted cross-entropy.
        name: Name of the loss.
        reduction: Reduction over images, as in Keras; None returns one loss per image.

    Raises:
        ValueError: If ``alpha`` or ``gamma`` is out of range.

    Example:
        >>> loss = FocalLoss(alpha=0.25, gamma=2.0)
        >>> round(float(loss([[1], [0]], [[0.9], [0.2]])), 6)
        0.003479
    """

    def __init__(
        self, alpha: float = 0.25, gamma: float = 2.0, name: str = "focal", reduction: str | None = _MEAN
    ) -> None:
        if not 0 <= alpha <= 1 or not gamma >= 0:
            raise ValueError(f"FocalLoss needs alpha in [0, 1] and gamma >= 0; got alpha={alpha}, gamma={gamma}")
        super().__init__(name, reduction)
        self.alpha = alpha
        self.gamma = gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one loss per image, float32, (batch,)."""
        true, pred = flatten_images(y_true, y_pred)
        pred = ops.clip(pred, _EPSILON, 1 - _EPSILON)
        return keras.losses.binary_focal_crossentropy(
            true, pred, apply_class_balancing=True, alpha=self.alpha, gamma=self.gamma
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this loss."""
        return {"alpha": self.alpha, "gamma": self.gamma, "name": self.name, "reduction": self.reduction}


@keras.saving.register_keras_serializable("pneumoseg")
class DiceLoss(_ImageLoss):
    """One minus the soft Dice coefficient, ``1 - (2 sum(tp) + smooth) / (sum(t) + sum(p) + smooth)``.

    Here ``t`` is the target, ``p`` the probability and ``tp`` their product at a pixel. The loss is 0 if both target
    and prediction are empty. If only the target is empty, ``smooth`` keeps the gradient from vanishing.

    Args:
        smooth: Number of pixels, above 0, added to the numerator and the denominator.
        per_image: Whether to compute one ratio per image. Otherwise the pixels of the batch are pooled into one ratio,
            which every image of the batch gets.
        name: Name of the loss.
        reduction: Reduction over images, as in Keras; None returns one loss per image.

    Raises:
        ValueError: If ``smooth`` is not above 0.

    Example:
        >>> loss = DiceLoss(smooth=1.0)
        >>> round(float(loss([[1, 1, 0, 0]], [[1, 0.5, 0.5, 0]])), 4)  # 1 - (2 * 1.5 + 1) / (2 + 2 + 1)
        0.2
    """

    def __init__(
        self, smooth: float = 1.0, per_image: bool = True, name: str = "dice", reduction: str | None = _MEAN
    ) -> None:
        if not smooth > 0:
            raise ValueError(f"DiceLoss needs smooth > 0 so that an empty image does not divide by zero; got {smooth}")
        super().__init__(name, reduction)
        self.smooth = smooth
        self.per_image = per_image

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one loss per image, float32, (batch,)."""
        return 1 - _tversky_index(y_true, y_pred, 0.5, 0.5, self.smooth, self.per_image)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this loss."""
        return {"smooth": self.smooth, "per_image": self.per_image, "name": self.name, "reduction": self.reduction}


@keras.saving.register_keras_serializable("pneumoseg")
class TverskyLoss(_ImageLoss):
    """One minus the soft Tversky index (Salehi et al. 2017, arXiv:1706.05721).

    The loss is ``1 - (2 tp + smooth) / (2 tp + 2 alpha fp + 2 beta fn + smooth)``. Because of the factors of 2,
    ``alpha = beta = 0.5`` gives :class:`DiceLoss` with the same ``smooth``. A ``beta`` above ``alpha`` favours recall.

    Args:
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0.
        smooth: Number of pixels, above 0, added to the numerator and the denominator.
        per_image: Whether to compute one ratio per image. Otherwise the pixels of the batch are pooled into one ratio,
            which every image of the batch gets.
        name: Name of the loss.
        reduction: Reduction over images, as in Keras; None returns one loss per image.

    Raises:
        ValueError: If ``alpha`` or ``beta`` is negative, or ``smooth`` is not above 0.

    Example:
        >>> loss = TverskyLoss(alpha=0.3, beta=0.7)
        >>> missed = loss([[1, 1, 0, 0]], [[1, 0, 0, 0]])  # 1 - (2 + 1) / (2 + 1.4 + 1)
        >>> false_alarm = loss([[1, 0, 0, 0]], [[1, 1, 0, 0]])  # 1 - (2 + 1) / (2 + 0.6 + 1)
        >>> round(float(missed), 3), round(float(false_alarm), 3)
        (0.318, 0.167)
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1.0,
        per_image: bool = True,
        name: str = "tversky",
        reduction: str | None = _MEAN,
    ) -> None:
        if not (alpha >= 0 and beta >= 0 and smooth > 0):
            raise ValueError(
                f"TverskyLoss needs alpha >= 0, beta >= 0 and smooth > 0; got {alpha=}, {beta=}, {smooth=}"
            )
        super().__init__(name, reduction)
        self.alpha = alpha
        self.beta = beta
        self.smooth = smooth
        self.per_image = per_image

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one loss per image, float32, (batch,)."""
        return 1 - _tversky_index(y_true, y_pred, self.alpha, self.beta, self.smooth, self.per_image)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this loss."""
        return {
            "alpha": self.alpha,
            "beta": self.beta,
            "smooth": self.smooth,
            "per_image": self.per_image,
            "name": self.name,
            "reduction": self.reduction,
        }


@keras.saving.register_keras_serializable("pneumoseg")
class WeightedSum(_ImageLoss):
    """Weighted sum of losses, as built by ``2.0 * FocalLoss() + DiceLoss()``.

    Call it by name to give a weight to a loss of Keras, which cannot be multiplied by a number.

    Args:
        terms: Losses of this module or of Keras. Each must have the default reduction, because only the sum reduces.
        weights: One number above 0 per term.
        name: Name of the loss; None joins the names of the terms, as in "focal_plus_dice".
        reduction: Reduction over images, as in Keras; None returns one loss per image.

    Raises:
        ValueError: If there is no term, the lengths differ, a weight is not above 0, or a term has another reduction.

    Example:
        >>> loss = 2.0 * FocalLoss() + DiceLoss()
        >>> loss.name, loss.weights
        ('focal_plus_dice', [2.0, 1.0])
        >>> first_place = WeightedSum([DiceLoss(), FocalLoss(), keras.losses.BinaryCrossentropy()], [1, 4, 3])
        >>> first_place.name
        'dice_plus_focal_plus_binary_crossentropy'
    """

    def __init__(
        self,
        terms: Sequence[keras.losses.Loss],
        weights: Sequence[float],
        name: str | None = None,
        reduction: str | None = _MEAN,
    ) -> None:
        if not terms or len(terms) != len(weights) or not all(weight > 0 for weight in weights):
            raise ValueError(
                f"WeightedSum needs one weight above 0 per term; got {len(terms)} terms and weights {weights}"
            )
        for term in terms:
            if term.reduction not in (_MEAN, "mean"):
                raise ValueError(f"{term.name} has reduction={term.reduction!r}: pass it to WeightedSum instead")
        super().__init__(name or "_plus_".join(term.name for term in terms), reduction)
        self.terms = list(terms)
        self.weights = [float(weight) for weight in weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one loss per image, float32, (batch,)."""
        # The losses of Keras average over the last axis only, which after flattening is the whole image.
        true, pred = flatten_images(y_true, y_pred)
        return sum(weight * term.call(true, pred) for term, weight in zip(self.terms, self.weights, strict=True))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this loss."""
        return {
            "terms": [keras.saving.serialize_keras_object(term) for term in self.terms],
            "weights": self.weights,
            "name": self.name,
            "reduction": self.reduction,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightedSum:
        """Rebuild a loss from :meth:`get_config`."""
        terms = [keras.saving.deserialize_keras_object(term) for term in config["terms"]]
        return cls(**{**config, "terms": terms})


def _joined(first: keras.losses.Loss, second: keras.losses.Loss) -> WeightedSum:
    terms, weights = _terms(first)
    more_terms, more_weights = _terms(second)
    return WeightedSum(terms + more_terms, weights + more_weights)


def _terms(loss: keras.losses.Loss) -> tuple[list[keras.losses.Loss], list[float]]:
    return (loss.terms, loss.weights) if isinstance(loss, WeightedSum) else ([loss], [1.0])


def _tversky_index(y_true: Any, y_pred: Any, alpha: float, beta: float, smooth: float, per_image: bool) -> Any:
    """Return the soft Tversky index of each image, (batch,); if pooled, all are the same."""
    true, pred = flatten_images(y_true, y_pred)
    axis = -1 if per_image else None
    overlap = ops.sum(true * pred, axis=axis)
    false_positives = ops.sum(pred, axis=axis) - overlap
    false_negatives = ops.sum(true, axis=axis) - overlap
    denominator = 2 * overlap + 2 * alpha * false_positives + 2 * beta * false_negatives + smooth
    return ops.broadcast_to((2 * overlap + smooth) / denominator, ops.shape(pred)[:1])
