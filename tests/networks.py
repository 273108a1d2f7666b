"""Networks with outputs that can be computed by hand."""

import keras

from pneumoseg.engines.keras_network import KerasNetwork


def brightest(size=64, scale=1.0):
    """Return a classifier whose output is the brightest pixel / 255, times a factor."""
    image = keras.Input((size, size, 1))
    return KerasNetwork(
        keras.Model(image, keras.layers.GlobalMaxPooling2D()(keras.layers.Rescaling(scale / 255)(image)))
    )


def identity(size=64, scale=1.0):
    """Return a segmenter whose output for a pixel is its value / 255, times a factor."""
    image = keras.Input((size, size, 1))
    return KerasNetwork(keras.Model(image, keras.layers.Rescaling(scale / 255)(image)))


def left_half(size=64):
    """Return a classifier whose output is the brightest pixel of the left half / 255."""
    image = keras.Input((size, size, 1))
    return KerasNetwork(keras.Model(image, keras.layers.GlobalMaxPooling2D()(image[:, :, : size // 2] / 255)))


def weighted(weights):
    """Return a segmenter whose output for a pixel is its value / 255, times the weight of its column."""
    size = len(weights)
    image = keras.Input((size, size, 1))
    return KerasNetwork(
        keras.Model(image, image / 255 * keras.ops.convert_to_tensor(weights, "float32")[None, None, :, None])
    )
