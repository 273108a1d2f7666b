"""Shape checks that losses and metrics share."""

from typing import Any

from keras import ops


def flatten_images(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Return targets and predictions as one row of pixels per image.

    Args:
        y_true: Targets, any dtype; (batch, height, width, 1) or (batch, height, width) for masks, (batch, 1) or
            (batch,) for labels.
        y_pred: Predictions of the same shape, with or without the last axis of 1, any dtype.

    Returns:
        Targets and predictions, float32, (batch, pixels) each.

    Raises:
        ValueError: If the shapes differ in more than a last axis of 1. Broadcasting them would give a wrong number.

    Example:
        >>> true, pred = flatten_images([1, 0], [[0.75], [0.25]])
        >>> tuple(true.shape), tuple(pred.shape)
        ((2, 1), (2, 1))
    """
    y_true, y_pred = (ops.convert_to_tensor(y, dtype="float32") for y in (y_true, y_pred))
    true, pred = (shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape for shape in (y_true.shape, y_pred.shape))
    if len(true) != len(pred) or any(t != p for t, p in zip(true, pred, strict=True) if t and p):
        raise ValueError(
            "y_true and y_pred must have the same shape, except for a last axis of 1; "
            f"got {y_true.shape} and {y_pred.shape}"
        )
    return tuple(ops.reshape(y, (ops.shape(y)[0], -1)) for y in (y_true, y_pred))


def weight_per_image(sample_weight: Any) -> Any:
    """Return sample weights as a vector.

    Args:
        sample_weight: One weight per image, (batch,) or with further axes of size 1, or a scalar, any dtype.

    Returns:
        The weights, float32, (batch,), or (1,) for a scalar.

    Raises:
        ValueError: If there is one weight per pixel.

    Example:
        >>> weight_per_image([[1], [2]]).numpy().tolist()
        [1.0, 2.0]
    """
    weights = ops.convert_to_tensor(sample_weight, dtype="float32")
    if any(size != 1 for size in weights.shape[1:]):
        raise ValueError(f"sample_weight must hold one weight per image, shape (batch,); got shape {weights.shape}")
    return ops.reshape(weights, (-1,))
