"""The classifier, which decides whether an image shows a pneumothorax (paper, section 3.1)."""

from typing import Any

import keras

from pneumoseg.models.compact import COMPACT, compact_encoder
from pneumoseg.models.scaling import check_image_size, scaled_input
from pneumoseg.models.weights import Weights, build_pretrained, check_weights, weights_errors
from pneumoseg.xla import uses_xla

# Name: (builder in keras.applications, its arguments). The first three are those of the paper (section 3.1.2).
_APPLICATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "xception": ("Xception", {}),
    "nasnetlarge": ("NASNetLarge", {}),
    "inceptionresnetv2": ("InceptionResNetV2", {}),
    "mobilenet_025": ("MobileNet", {"alpha": 0.25}),
    "mobilenetv2": ("MobileNetV2", {}),
    "efficientnetb0": ("EfficientNetB0", {}),
}
CLASSIFIER_BACKBONES = (*_APPLICATIONS, COMPACT)
HEAD = "head"


def build_classifier(backbone: str = "xception", image_size: int = 1024, weights: Weights = "imagenet") -> keras.Model:
    """Build the classifier: a backbone, global average pooling and a dense layer named "head".

    See sections 3.1.2 and 4.1.1 of the paper.

    Args:
        backbone: One of `CLASSIFIER_BACKBONES`. "compact" is a plain network of six convolutions, which learns from a
            few hundred images without pretraining. The others come from `keras.applications`.
        image_size: Height and width in pixels; at least 71 for xception, 75 for inceptionresnetv2, 32 for the others.
        weights: Weights of the backbone: "imagenet" (downloaded by Keras), None (random), or the path of a Keras
            `*_notop.h5` or `*.weights.h5` file.

    Returns:
        A network from images, uint8 or float, (batch, size, size, 1) in [0, 255], to the probability of a pneumothorax,
        float32, (batch, 1). It is not compiled, and XLA is off.

    Raises:
        ValueError: If the backbone is unknown, the size is too small, or the weights file is missing or belongs to
            another architecture.
        WeightsUnavailableError: If the ImageNet weights cannot be downloaded.

    Example:
        >>> model = build_classifier("compact", image_size=64, weights=None)  # doctest: +SKIP
        >>> model.input_shape, model.output_shape  # doctest: +SKIP
        ((None, 64, 64, 1), (None, 1))
    """
    check_classifier(backbone, image_size, weights)
    encoder = _encoder(backbone, image_size, weights)
    image, scaled = scaled_input(image_size, "torch" if backbone == "efficientnetb0" else "tf")
    features = keras.layers.GlobalAveragePooling2D(name="pooling")(encoder(scaled))
    probability = keras.layers.Dense(1, activation="sigmoid", dtype="float32", name=HEAD)(features)
    model = keras.Model(image, probability, name=f"classifier_{backbone}")
    model.jit_compile = uses_xla(False)  # with a GPU, the "auto" of Keras means XLA: minutes for each shape of a batch
    return model


def check_classifier(backbone: str, image_size: int, weights: Weights) -> None:
    """Check the arguments of `build_classifier` without building or downloading anything.

    Args:
        backbone: Backbone, as passed to `build_classifier`.
        image_size: Height and width in pixels.
        weights: Weights of the backbone.

    Raises:
        ValueError: If the backbone is unknown, the size is out of range, or there is no such weights file.
    """
    if backbone not in CLASSIFIER_BACKBONES:
        raise ValueError(f"unknown classifier backbone {backbone!r}, expected one of {', '.join(CLASSIFIER_BACKBONES)}")
    check_image_size(image_size)
    check_weights(weights)
    if backbone == COMPACT and weights == "imagenet":
        raise ValueError("compact has no ImageNet weights: pass weights=None to train from scratch")


def _encoder(backbone: str, image_size: int, weights: Weights) -> keras.Model:
    if backbone == COMPACT:
        return _compact(image_size, weights)
    application, arguments = _APPLICATIONS[backbone]
    build = getattr(keras.applications, application)
    arguments = {"include_top": False, "input_shape": (image_size, image_size, 3), **arguments}
    if weights == "imagenet":
        encoder = build_pretrained(lambda: build(weights=weights, **arguments), weights, backbone)
    else:
        encoder = build(weights=None, **arguments)
    if weights not in (None, "imagenet"):
        with weights_errors(weights, backbone):
            encoder.load_weights(weights)
    return _without_scaling(encoder) if backbone == "efficientnetb0" else encoder


def _compact(image_size: int, weights: Weights) -> keras.Model:
    image = keras.Input((image_size, image_size, 3))
    encoder = keras.Model(image, compact_encoder(image)[-1], name=COMPACT)
    if weights is not None:
        with weights_errors(weights, COMPACT):
            encoder.load_weights(weights)
    return encoder


def _without_scaling(efficientnet: keras.Model) -> keras.Model:
    """Return EfficientNet without the scaling layers that Keras builds into it.

    With weights="imagenet" Keras adds one more scaling layer than with None. A bundle is trained from the former and
    rebuilt with the latter, so its network would get different inputs.
    """
    return keras.Model(efficientnet.get_layer("stem_conv_pad").input, efficientnet.output, name=efficientnet.name)
