"""A small encoder and a U-Net on it, which learn from a few hundred images without pretrained weights.

The encoders of the paper need ImageNet weights or days. This one is for demonstrations, tests and first looks.
"""

import keras

COMPACT = "compact"
_FILTERS = (24, 48, 96)


def compact_encoder(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Encode an image by six convolutions.

    Args:
        image: (batch, H, W, C), scaled.

    Returns:
        Features at a half (24 channels), a quarter (48) and an eighth (96) of the size.
    """
    features, outputs = image, []
    for level, filters in enumerate(_FILTERS):
        if level:
            features = keras.layers.MaxPooling2D()(features)
        features = _convolution(features, filters, *((3, 1) if level else (5, 2)))
        features = _convolution(features, filters)
        outputs.append(features)
    return outputs


def compact_unet(image_size: int) -> keras.Model:
    """Build a U-Net (Ronneberger et al. 2015) on the compact encoder, with a linear output.

    Args:
        image_size: Height and width in pixels, a multiple of 8.

    Returns:
        A network from (batch, size, size, 3) to logits, (batch, size, size, 1).
    """
    image = keras.Input((image_size, image_size, 3))
    *skips, features = compact_encoder(image)
    for skip, filters in zip([*reversed(skips), image], (48, 24, 16), strict=True):
        features = keras.layers.UpSampling2D(interpolation="bilinear")(features)
        features = _convolution(keras.layers.Concatenate()([features, skip]), filters)
    return keras.Model(image, keras.layers.Conv2D(1, 1)(features), name="unet_compact")


def _convolution(features: keras.KerasTensor, filters: int, size: int = 3, strides: int = 1) -> keras.KerasTensor:
    features = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(features)
    # Trainings of a few hundred steps would never see the end of Keras' default momentum of .99.
    features = keras.layers.BatchNormalization(momentum=0.9)(features)
    return keras.layers.ReLU()(features)
