"""Networks whose output can be worked out by hand."""

import keras


def brightest(size=64, scale=1.0):
    """A classifier: the brightest pixel / 255, times a factor."""
    image = keras.Input((size, size, 1))
    return keras.Model(image, keras.layers.GlobalMaxPooling2D()(keras.layers.Rescaling(scale / 255)(image)))


def identity(size=64, scale=1.0):
    """A segmenter: of a pixel its own value / 255, times a factor."""
    image = keras.Input((size, size, 1))
    return keras.Model(image, keras.layers.Rescaling(scale / 255)(image))


def left_half(size=64):
    """A classifier: the brightest pixel of the left half / 255."""
    image = keras.Input((size, size, 1))
    return keras.Model(image, keras.layers.GlobalMaxPooling2D()(image[:, :, : size // 2] / 255))


def weighted(weights):
    """A segmenter: of a pixel its own value / 255, times its column's weight."""
    size = len(weights)
    image = keras.Input((size, size, 1))
    return keras.Model(image, image / 255 * keras.ops.convert_to_tensor(weights, "float32")[None, None, :, None])
