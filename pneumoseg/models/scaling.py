"""From a grey image in [0, 255] to the three scaled channels an ImageNet backbone was trained on.

Each group of ImageNet weights was trained on its own scaling. With weights="imagenet" the wrong one costs accuracy
and raises no error, so the scaling is a layer of the network and not a habit of its caller.
"""

import keras

_MEAN = (0.485, 0.456, 0.406)
_STANDARD_DEVIATION = (0.229, 0.224, 0.225)

# Scale and offset a channel: scaled = grey * scale + offset. The names are those of `keras.applications`. "caffe" also
# swaps red and blue, which three equal channels cannot show, so that only its means are in blue-green-red order.
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
    """Refuse what is no size of an image that a network could see.

    Raises:
        ValueError: Not a whole number, or not between 1 and 16384.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not 1 <= image_size <= 16384:
        raise ValueError(f"image_size={image_size!r}: expected a whole number of pixels from 1 to 16384.")


def scaled_input(image_size: int, convention: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Start a network: its input, and that input repeated to three channels and scaled.

    Both are float32 whatever the precision policy: float16 would round grey levels before the first convolution.

    Args:
        image_size: Height and width in pixels.
        convention: A key of `CONVENTIONS`.

    Returns:
        The input, (batch, size, size, 1) in [0, 255], to which Keras casts uint8; and the scaled tensor,
        (batch, size, size, 3).
    """
    image = keras.Input((image_size, image_size, 1), dtype="float32", name="image")
    three_channels = keras.layers.Concatenate(dtype="float32", name="three_channels")([image] * 3)
    scale, offset = CONVENTIONS[convention]
    scaled = keras.layers.Rescaling(list(scale), list(offset), dtype="float32", name="scaling")(three_channels)
    return image, scaled
