"""The segmenter, which decides which pixels show a pneumothorax (paper, section 3.2)."""

import contextlib
import io
import os
from functools import partial
from types import ModuleType
from typing import Any

import keras

from pneumoseg.models.compact import COMPACT, compact_unet
from pneumoseg.models.scaling import check_image_size, scaled_input
from pneumoseg.models.weights import Weights, build_pretrained, check_weights
from pneumoseg.xla import uses_xla

# Keys of `scaling.CONVENTIONS`, chosen as in `get_preprocessing` of segmentation-models. The "raw" backbones begin with
# their own batch normalization.
_CONVENTIONS = {
    "tf": "mobilenet mobilenetv2 inceptionv3 inceptionresnetv2",
    "caffe": "vgg16 vgg19",
    "torch": "seresnet50 seresnet101 seresnet152 seresnext50 seresnext101 senet154 efficientnetb0 efficientnetb1 "
    "efficientnetb2 efficientnetb3 efficientnetb4 efficientnetb5 efficientnetb6 efficientnetb7",
    "raw": "resnet18 resnet34 resnet50 resnet101 resnet152 seresnet18 seresnet34 resnext50 resnext101",
}
_CONVENTION = {backbone: convention for convention, names in _CONVENTIONS.items() for backbone in names.split()}
SEGMENTER_BACKBONES = (*_CONVENTION, COMPACT)
# Name: divisor of height and width. PSPNet pools features of 1/8 of the size into 6 x 6 bins.
_SIZE_STEP = {"fpn": 32, "unet": 32, "linknet": 32, "pspnet": 48}
ARCHITECTURES = tuple(_SIZE_STEP)


def build_segmenter(
    architecture: str = "fpn",
    backbone: str = "inceptionresnetv2",
    image_size: int = 512,
    weights: Weights = "imagenet",
    decoder_filters: int | None = None,
) -> keras.Model:
    """Build the segmenter: scaling, a network of segmentation-models and a float32 sigmoid (section 3.2.2).

    Args:
        architecture: One of `ARCHITECTURES`.
        backbone: One of `SEGMENTER_BACKBONES`, spelled as in segmentation-models. "compact" is a small network for
            architecture "unet", which learns from a few hundred images without pretraining.
        image_size: Height and width in pixels; a multiple of 48 for pspnet, of 32 for the others.
        weights: Weights of the backbone: "imagenet" (downloaded), None (random), or the path of a `*_notop.h5` or
            `*.weights.h5` file.
        decoder_filters: Number of filters of the widest decoder layer, a multiple of 16 up to 1024. The other layers
            are scaled in proportion. None keeps the default of the library: 512 for pspnet, 256 for the others. For
            linknet it sets the last block only; the other blocks have as many filters as the backbone.

    Returns:
        A network from images, uint8 or float, (batch, size, size, 1) in [0, 255], to the probability of pneumothorax of
        each pixel, float32, (batch, size, size, 1). It is not compiled, and XLA is off.

    Raises:
        ValueError: If a name is unknown, a number is out of range, or the weights file is missing or belongs to another
            architecture.
        WeightsUnavailableError: If the ImageNet weights cannot be downloaded.

    Example:
        >>> model = build_segmenter("unet", "compact", image_size=64, weights=None)  # doctest: +SKIP
        >>> model.input_shape, model.output_shape  # doctest: +SKIP
        ((None, 64, 64, 1), (None, 64, 64, 1))
    """
    check_segmenter(architecture, backbone, image_size, weights, decoder_filters)
    if backbone == COMPACT:
        network = compact_unet(image_size)
    else:
        network = _network(architecture, backbone, image_size, weights, decoder_filters)
    image, scaled = scaled_input(image_size, _CONVENTION.get(backbone, "tf"))
    # The sigmoid of the library has the dtype of the policy, and Dice overflows in float16.
    probability = keras.layers.Activation("sigmoid", dtype="float32", name="probability")(network(scaled))
    model = keras.Model(image, probability, name=f"segmenter_{architecture}_{backbone}")
    model.jit_compile = uses_xla(False)  # with a GPU, the "auto" of Keras means XLA: minutes for each shape of a batch
    return model


def check_segmenter(
    architecture: str, backbone: str, image_size: int, weights: Weights, decoder_filters: int | None
) -> None:
    """Check the arguments of `build_segmenter` without building or downloading anything.

    Args:
        architecture: Architecture, as passed to `build_segmenter`.
        backbone: Backbone.
        image_size: Height and width in pixels.
        weights: Weights of the backbone.
        decoder_filters: Number of filters of the widest decoder layer.

    Raises:
        ValueError: If a name is unknown, a number is out of range, or there is no such weights file.
    """
    if architecture not in _SIZE_STEP:
        raise ValueError(f"unknown architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
    if backbone.startswith("densenet"):
        raise ValueError(f"{backbone} of segmentation-models cannot be built with Keras 3: choose another backbone")
    if backbone not in SEGMENTER_BACKBONES:
        raise ValueError(f"unknown segmenter backbone {backbone!r}, expected one of {', '.join(SEGMENTER_BACKBONES)}")
    check_image_size(image_size)
    step = _SIZE_STEP[architecture]
    if image_size < step or image_size % step:
        raise ValueError(f"image_size={image_size}: {architecture} needs a positive multiple of {step}")
    if decoder_filters is not None and (decoder_filters % 16 or not 16 <= decoder_filters <= 1024):
        raise ValueError(f"decoder_filters={decoder_filters}: expected a multiple of 16 from 16 to 1024, or None")
    check_weights(weights)
    if backbone == COMPACT and (architecture, weights, decoder_filters) != ("unet", None, None):
        raise ValueError("compact needs architecture='unet', weights=None and decoder_filters=None")


def _network(
    architecture: str, backbone: str, image_size: int, weights: Weights, decoder_filters: int | None
) -> keras.Model:
    library = _segmentation_models()
    builders = {"fpn": library.FPN, "unet": library.Unet, "linknet": library.Linknet, "pspnet": library.PSPNet}
    build = partial(
        builders[architecture],
        backbone,
        input_shape=(image_size, image_size, 3),
        classes=1,
        activation="linear",
        encoder_weights=weights if weights is None else str(weights),
        **({} if decoder_filters is None else _decoder_arguments(architecture, decoder_filters)),
    )
    return build_pretrained(build, weights, backbone)


def _decoder_arguments(architecture: str, filters: int) -> dict[str, Any]:
    arguments: dict[str, dict[str, Any]] = {
        "fpn": {"pyramid_block_filters": filters},
        "unet": {"decoder_filters": tuple(filters // 2**block for block in range(5))},
        "linknet": {"decoder_filters": (None, None, None, None, filters // 16)},
        "pspnet": {"psp_conv_filters": filters},
    }
    return arguments[architecture]


def _segmentation_models() -> ModuleType:
    """Import segmentation-models on first use, because it is slow, prints a line and reads the environment."""
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    with contextlib.redirect_stdout(io.StringIO()):
        import segmentation_models
    return segmentation_models
