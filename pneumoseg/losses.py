"""Losses on probabilities, which add up: ``FocalLoss() + DiceLoss()``.

Targets and predictions have the same shape: (batch, height, width, 1), or without the last axis, for masks; (batch, 1)
or (batch,) for the classifier. Targets are 0 or 1 in any dtype, predictions are probabilities in [0, 1] in any float
dtype. Whatever the precision policy, everything is computed in float32. Each loss has one value an image, so a sample
weight is one number an image; the reduction is as in Keras. A NaN prediction makes the loss NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

_MEAN = "sum_over_batch_size"
# Logarithms and powers stay finite, and so do their gradients, for probabilities this far from 0 and 1.
_EPSILON = 1e-7


class _ImageLoss(keras.losses.Loss):
    """A float32 loss with one value an image, which can be added to other losses and scaled."""

    def __init__(self, name: str, reduction: str | None) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if sample_weight is not None:
            sample_weight = _one_weight_an_image(sample_weight)
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
    """Binary focal cross-entropy, the mean over an image's pixels (Lin et al. 2017, arXiv:1708.02002, equation 5).

    A pixel costs ``-alpha (1 - p)^gamma log(p)`` where the target is 1 and ``-(1 - alpha) p^gamma log(1 - p)`` where
    it is 0. Probabilities are clipped to [1e-7, 1 - 1e-7] first.

    Args:
        alpha: Weight of the positives, in [0, 1]; the background weighs ``1 - alpha``.
        gamma: Focusing power, at least 0; 0 leaves the weighted cross-entropy.
        name: Name of the loss.
        reduction: Over images, as in Keras.

    Raises:
        ValueError: If ``alpha`` or ``gamma`` is out of range.
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
        """Return the (batch,) float32 losses."""
        true, pred = _flattened(y_true, y_pred)
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

    Here ``t`` is the target, ``p`` the probability and ``tp`` their product at a pixel. An image that is empty in both
    loses 0; one that is empty only in the target still has a gradient, thanks to ``smooth``.

    Args:
        smooth: Added to both sides of the ratio, in pixels, above 0.
        per_image: Whether each image has its own ratio, of which the mean is taken. Otherwise one ratio is pooled over
            the batch and stands for every image in it.
        name: Name of the loss.
        reduction: Over images, as in Keras.

    Raises:
        ValueError: If ``smooth`` is not above 0.
    """

    def __init__(
        self, smooth: float = 1.0, per_image: bool = True, name: str = "dice", reduction: str | None = _MEAN
    ) -> None:
        if not smooth > 0:
            raise ValueError(f"DiceLoss needs smooth > 0, or an empty image divides by zero; got {smooth}")
        super().__init__(name, reduction)
        self.smooth = smooth
        self.per_image = per_image

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the (batch,) float32 losses."""
        return 1 - _tversky_index(y_true, y_pred, 0.5, 0.5, self.smooth, self.per_image)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this loss."""
        return {"smooth": self.smooth, "per_image": self.per_image, "name": self.name, "reduction": self.reduction}


@keras.saving.register_keras_serializable("pneumoseg")
class TverskyLoss(_ImageLoss):
    """One minus the soft Tversky index (Salehi et al. 2017, arXiv:1706.05721).

    ``1 - (2 tp + smooth) / (2 tp + 2 alpha fp + 2 beta fn + smooth)``: the factors of 2 make ``alpha = beta = 0.5``
    the same as :class:`DiceLoss`, with the same ``smooth``. A ``beta`` above ``alpha`` favours recall.

    Args:
        alpha: Weight of the false positives, at least 0.
        beta: Weight of the false negatives, at least 0.
        smooth: Added to both sides of the ratio, in pixels, above 0.
        per_image: As in :class:`DiceLoss`.
        name: Name of the loss.
        reduction: Over images, as in Keras.

    Raises:
        ValueError: If ``alpha`` or ``beta`` is negative, or ``smooth`` is not above 0.
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
        """Return the (batch,) float32 losses."""
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
    """A weighted sum of losses, what ``2.0 * FocalLoss() + DiceLoss()`` builds.

    Written out it takes a Keras loss with a weight as well:
    ``WeightedSum([DiceLoss(), FocalLoss(), keras.losses.BinaryCrossentropy()], [1, 4, 3])``.

    Args:
        terms: The losses, Keras' own or those above. Each must have the default reduction, since only the sum reduces.
        weights: One number above 0 a term.
        name: Name of the loss; by default the terms' names, as in "focal_plus_dice".
        reduction: Over images, as in Keras.

    Raises:
        ValueError: If there is no term, the lengths differ, a weight is not above 0 or a term has its own reduction.
    """

    def __init__(
        self,
        terms: Sequence[keras.losses.Loss],
        weights: Sequence[float],
        name: str | None = None,
        reduction: str | None = _MEAN,
    ) -> None:
        if not terms or len(terms) != len(weights) or not all(weight > 0 for weight in weights):
            raise ValueError(f"WeightedSum needs one weight above 0 a term; got {len(terms)} terms, weights {weights}")
        for term in terms:
            if term.reduction not in (_MEAN, "mean"):
                raise ValueError(f"{term.name} has reduction={term.reduction!r}: give it to the WeightedSum instead")
        super().__init__(name or "_plus_".join(term.name for term in terms), reduction)
        self.terms = list(terms)
        self.weights = [float(weight) for weight in weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the (batch,) float32 losses."""
        # Keras' losses average the last axis alone: flattened, that is the whole image.
        true, pred = _flattened(y_true, y_pred)
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
    """Return the (batch,) soft Tversky indices, all the same if pooled."""
    true, pred = _flattened(y_true, y_pred)
    axis = -1 if per_image else None
    overlap = ops.sum(true * pred, axis=axis)
    false_positives = ops.sum(pred, axis=axis) - overlap
    false_negatives = ops.sum(true, axis=axis) - overlap
    denominator = 2 * overlap + 2 * alpha * false_positives + 2 * beta * false_negatives + smooth
    return ops.broadcast_to((2 * overlap + smooth) / denominator, ops.shape(pred)[:1])


def _flattened(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Return float32 targets and predictions as (batch, pixels), or refuse shapes that would give a wrong number."""
    y_true, y_pred = (ops.convert_to_tensor(y, dtype="float32") for y in (y_true, y_pred))
    true, pred = (shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape for shape in (y_true.shape, y_pred.shape))
    if len(true) != len(pred) or any(t != p for t, p in zip(true, pred, strict=True) if t and p):
        raise ValueError(
            f"y_true and y_pred must have the same shape, but for a last axis of 1; got {y_true.shape}, {y_pred.shape}"
        )
    return tuple(ops.reshape(y, (ops.shape(y)[0], -1)) for y in (y_true, y_pred))


def _one_weight_an_image(sample_weight: Any) -> Any:
    """Return the weights as (batch,) or (1,), or refuse weights of pixels."""
    weights = ops.convert_to_tensor(sample_weight, dtype="float32")
    if any(size != 1 for size in weights.shape[1:]):
        raise ValueError(f"sample_weight must hold one weight an image, shape (batch,); got shape {weights.shape}")
    return ops.reshape(weights, (-1,))
