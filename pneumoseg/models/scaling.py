"""Scaling of grey images in [0, 255] to the three channels that an ImageNet backbone was trained on.

Each group of ImageNet weights was trained with its own scaling. With weights="imagenet" a wrong scaling costs accuracy
and raises no error. The scaling is therefore a layer of the network, so that callers cannot get it wrong.
"""

import keras

_MEAN = (0.485, 0.456, 0.406)
_STANDARD_DEVIATION = (0.229, 0.224, 0.225)

# Scale and offset of each channel: scaled = grey * scale + offset. The names are those of `keras.applications`. "caffe"
# also swaps red and blue. With three equal channels only its means, in blue-green-red order, make a difference.
CONVENTIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "tf": ((1 / 127.5,) * 3, (-1.0,) * 3),
    "torch": (
        tuple(1 / (255 * deviation) for deviation in _STANDARD_DEVIATION),
        tuple(-mean / deviation for mean, deviation in zip(_MEAN, _STANDARD_DEVIATION, strict=True)),
    ),
    "caffe": ((1.0,) * 3, (-103.939, -116.779, -123.68)),
    "raw": ((1.0,) * 3, (0.0,) * 3),
}


def check_image_size(image_size: int) -> None:
    """Check that an image size is a whole number of pixels from 1 to 16384.

    Args:
        image_size: Height and width in pixels.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 1 <= image_size <= 16384:
        raise ValueError(f"image_size={image_size!r}: expected a whole number of pixels from 1 to 16384")


def scaled_input(image_size: int, convention: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the input of a network, and that input repeated to three channels and scaled.

    Both are float32 whatever the precision policy, because float16 would round grey levels before the first
    convolution.

    Args:
        image_size: Height and width in pixels.
        convention: A key of `CONVENTIONS`.

    Returns:
        The input, float32, (batch, size, size, 1) in [0, 255]; Keras casts uint8 images to it. The scaled tensor,
        float32, (batch, size, size, 3).
    """
    image = keras.Input((image_size, image_size, 1), dtype="float32", name="image")
    three_channels = keras.layers.Concatenate(dtype="float32", name="three_channels")([image] * 3)
    scale, offset = CONVENTIONS[convention]
    scaled = keras.layers.Rescaling(list(scale), list(offset), dtype="float32", name="scaling")(three_channels)
    return image, scaled
