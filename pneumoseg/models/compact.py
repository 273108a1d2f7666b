"""A small encoder, and a U-Net built on it, for demonstrations, tests and first experiments.

They learn from a few hundred images without pretrained weights. The encoders of the paper need ImageNet weights, or
days of training.
"""

import keras

COMPACT = "compact"
_FILTERS = (24, 48, 96)


def compact_encoder(image: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Encode images with six convolutions.

    Args:
        image: Scaled images, (batch, H, W, C).

    Returns:
        Features at 1/2 (24 channels), 1/4 (48 channels) and 1/8 (96 channels) of the size.
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
    """Build a U-Net (Ronneberger et al. 2015) with the compact encoder and a linear output.

    Args:
        image_size: Height and width in pixels, a multiple of 8.

    Returns:
        A network from scaled images, (batch, size, size, 3), to logits, (batch, size, size, 1).
    """
    image = keras.Input((image_size, image_size, 3))
    *skips, features = compact_encoder(image)
    for skip, filters in zip([*reversed(skips), image], (48, 24, 16), strict=True):
        features = keras.layers.UpSampling2D(interpolation="bilinear")(features)
        features = _convolution(keras.layers.Concatenate()([features, skip]), filters)
    return keras.Model(image, keras.layers.Conv2D(1, 1)(features), name="unet_compact")


def _convolution(features: keras.KerasTensor, filters: int, size: int = 3, strides: int = 1) -> keras.KerasTensor:
    features = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(features)
    # With Keras' default momentum of 0.99 the statistics do not settle in a training of a few hundred steps.
    features = keras.layers.BatchNormalization(momentum=0.9)(features)
    return keras.layers.ReLU()(features)
