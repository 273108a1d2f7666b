"""Which layers of a network learn: the phases of the paper's training (sections 4.1.1 and 4.1.2)."""

from collections.abc import Iterator

import keras

from pneumoseg.models.classifier import HEAD

PARTS = ("all", "head", "second_half")


def set_trainable(model: keras.Model, part: str) -> None:
    """Make one part of a network trainable and freeze the rest, whatever was frozen before.

    - "all": every layer.
    - "head": the classifier's newly added dense layer alone (section 4.1.1).
    - "second_half": all but the first half of the layers that have trainable weights, nested networks laid out flat
      in topological order; of an odd number the middle one learns (section 4.1.2).

    A frozen `BatchNormalization` also runs in inference mode: it normalises with its moving statistics and leaves them
    as they are. A network with random weights should therefore start with "all". Compile the model again afterwards:
    Keras takes notice of a change only then.

    Args:
        model: A network of `build_classifier` or `build_segmenter`.
        part: One of `PARTS`.

    Raises:
        ValueError: An unknown part, or "head" of a network without one.
    """
    if part not in PARTS:
        raise ValueError(f"Unknown part {part!r}. Choose from {', '.join(PARTS)}.")
    if part == "head" and not any(layer.name == HEAD for layer in model.layers):
        raise ValueError(f"{model.name} has no layer named {HEAD!r}: only a classifier can train its head alone.")
    _unfreeze(model)
    learning = [layer for layer in flat_layers(model) if layer.trainable_weights]
    if part == "head":
        frozen = [layer for layer in learning if layer.name != HEAD]
    else:
        frozen = learning[: len(learning) // 2] if part == "second_half" else []
    for layer in frozen:
        layer.trainable = False


def _unfreeze(model: keras.Model) -> None:
    # On TensorFlow `model.trainable = True` does nothing, to its layers either, where the flag already is True.
    model.trainable = True
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _unfreeze(layer)
        else:
            layer.trainable = True


def flat_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a network in topological order, in place of a nested network its layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        else:
            yield layer
