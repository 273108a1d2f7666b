"""The classifier: does this image show a pneumothorax? (paper, section 3.1)."""

from typing import Any

import keras

from pneumoseg.models.compact import COMPACT, compact_encoder
from pneumoseg.models.scaling import check_image_size, scaled_input
from pneumoseg.models.weights import Weights, check_weights, weights_errors

# The first three are the paper's (section 3.1.2). Name: (keras.applications builder, its arguments).
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
    """Build a backbone, global average pooling and one new dense layer, named "head" (sections 3.1.2 and 4.1.1).

    Args:
        backbone: One of `CLASSIFIER_BACKBONES`. "compact" is a plain network of six convolutions that learns from a
            few hundred images without pretraining; the others are `keras.applications`.
        image_size: Height and width in pixels; at least 71 for xception, 75 for inceptionresnetv2, 32 for the others.
        weights: Of the backbone: "imagenet" (downloaded by Keras), None (random), or the path of a Keras
            `*_notop.h5` or `*.weights.h5` file.

    Returns:
        A network from uint8 or float images, (batch, size, size, 1) in [0, 255], to the probability of a
        pneumothorax, float32, (batch, 1). It is not compiled, and XLA is off.

    Raises:
        ValueError: An unknown backbone, too small a size, a missing weights file or one of another architecture.
        WeightsUnavailableError: The ImageNet weights could not be downloaded.

    Example:
        >>> model = build_classifier("mobilenetv2", image_size=256, weights=None)
    """
    if backbone not in CLASSIFIER_BACKBONES:
        raise ValueError(f"Unknown classifier backbone {backbone!r}. Choose from {', '.join(CLASSIFIER_BACKBONES)}.")
    check_image_size(image_size)
    check_weights(weights)
    if backbone == COMPACT and weights == "imagenet":
        raise ValueError("There are no ImageNet weights of compact. Pass weights=None to train from scratch.")
    encoder = _encoder(backbone, image_size, weights)
    image, scaled = scaled_input(image_size, "torch" if backbone == "efficientnetb0" else "tf")
    features = keras.layers.GlobalAveragePooling2D(name="pooling")(encoder(scaled))
    probability = keras.layers.Dense(1, activation="sigmoid", dtype="float32", name=HEAD)(features)
    model = keras.Model(image, probability, name=f"classifier_{backbone}")
    model.jit_compile = False  # Keras' "auto" means XLA where there is a GPU: minutes for each shape of a batch
    return model


def _encoder(backbone: str, image_size: int, weights: Weights) -> keras.Model:
    if backbone == COMPACT:
        return _compact(image_size, weights)
    application, arguments = _APPLICATIONS[backbone]
    build = getattr(keras.applications, application)
    arguments = {"include_top": False, "input_shape": (image_size, image_size, 3), **arguments}
    if weights == "imagenet":
        with weights_errors(weights, backbone):
            encoder = build(weights=weights, **arguments)
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
    """Cut off the scaling that Keras builds into EfficientNet.

    It has one layer more with weights="imagenet" than with None, so a network trained from the former and rebuilt
    with the latter, as a bundle is, would see other inputs.
    """
    return keras.Model(efficientnet.get_layer("stem_conv_pad").input, efficientnet.output, name=efficientnet.name)
