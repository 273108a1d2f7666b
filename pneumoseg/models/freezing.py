"""Freezing of layers in the phases of a training (sections 4.1.1 and 4.1.2 of the paper)."""

from collections.abc import Iterator

import keras

from pneumoseg.models.classifier import HEAD

PARTS = ("all", "head", "second_half")


def set_trainable(model: keras.Model, part: str) -> None:
    """Make one part of a network trainable and freeze the rest, regardless of earlier calls.

    - "all": every layer.
    - "head": only the dense layer that the classifier adds to its backbone (section 4.1.1).
    - "second_half": all but the first half of the layers with trainable weights, counted in topological order and
      including the layers of nested networks (section 4.1.2). If their number is odd, the middle layer is trainable.

    A frozen `BatchNormalization` runs in inference mode: it normalizes with its moving statistics and does not update
    them. A network with random weights should therefore start with "all". Compile the model again afterwards, because
    Keras ignores the change until then.

    Args:
        model: Network built by `build_classifier` or `build_segmenter`.
        part: One of `PARTS`.

    Raises:
        ValueError: If the part is unknown, or "head" is requested and the network has no head.

    Example:
        >>> from pneumoseg.models.classifier import build_classifier  # doctest: +SKIP
        >>> model = build_classifier("compact", image_size=64, weights=None)  # doctest: +SKIP
        >>> set_trainable(model, "head")  # doctest: +SKIP
        >>> [tuple(weight.shape) for weight in model.trainable_weights]  # doctest: +SKIP
        [(96, 1), (1,)]
    """
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}, expected one of {', '.join(PARTS)}")
    if part == "head" and not any(layer.name == HEAD for layer in model.layers):
        raise ValueError(f"{model.name} has no layer named {HEAD!r}: choose another part, only a classifier has a head")
    _unfreeze(model)
    learning = [layer for layer in flat_layers(model) if layer.trainable_weights]
    if part == "head":
        frozen = [layer for layer in learning if layer.name != HEAD]
    else:
        frozen = learning[: len(learning) // 2] if part == "second_half" else []
    for layer in frozen:
        layer.trainable = False


def _unfreeze(model: keras.Model) -> None:
    # On TensorFlow, `model.trainable = True` has no effect, not even on its layers, if the flag is already True.
    model.trainable = True
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _unfreeze(layer)
        else:
            layer.trainable = True


def flat_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a network in topological order, replacing nested networks by their layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        else:
            yield layer
