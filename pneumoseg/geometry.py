"""Geometry between an image and the square that a network sees: letterboxing, its inverse, and area scaling."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

if TYPE_CHECKING:
    import tensorflow as tf

REFERENCE_PIXELS = 1024 * 1024
"""Pixels of the grid on which areas are given, the competition's 1024 x 1024."""

SHORTEST_MM, LONGEST_MM = 220, 500
"""Shortest and longest credible side of a radiograph of a chest, in mm. The largest detectors measure 430 mm."""

_LARGEST_FACTOR = 8  # by which images shrink in one pass; twice the sum of the pixels of a block must fit into 16 bits


class Letterbox(NamedTuple):
    """Placement of an image inside the padded square network input, in pixels.

    Attributes:
        height: Height of the resized image.
        width: Width of the resized image.
        top: Rows of padding above the image.
        left: Columns of padding to the left of the image.
    """

    height: int
    width: int
    top: int
    left: int


def square_shape(shape: tuple[int, int], pixel_aspect: float = 1.0) -> tuple[int, int]:
    """Return the shape of an image once its pixels are square.

    The longer side of a pixel is divided, so that the image gains pixels and loses none.

    Args:
        shape: (H, W) of the image, in pixels.
        pixel_aspect: Height of a pixel divided by its width.

    Returns:
        (H, W) of the same area with square pixels.

    Example:
        >>> square_shape((100, 200), 1.5), square_shape((100, 200), 0.5)
        ((150, 200), (100, 400))
    """
    rows, columns = shape
    return round(rows * max(pixel_aspect, 1)), round(columns * max(1 / pixel_aspect, 1))


def pixel_area_mm2(shape: tuple[int, int], pixel_spacing: tuple[float, float] | None) -> float:
    """Return the area of a pixel if the pixel spacing can be believed.

    Spacings often belong to the original of an image that was made smaller, or were filled in as 1. A spacing is
    believed if the longer side of the image, which shows a chest, then measures 220 to 500 mm.

    Args:
        shape: (H, W) of the image, in pixels.
        pixel_spacing: Distance between rows and between columns, in mm; None if unknown.

    Returns:
        The area in mm2; NaN if it is unknown or not believed.

    Example:
        >>> pixel_area_mm2((1024, 1024), (0.25, 0.25)), pixel_area_mm2((1024, 1024), (0.14, 0.14))
        (0.0625, nan)
    """
    if pixel_spacing is None:
        return math.nan
    longest = max(shape[0] * pixel_spacing[0], shape[1] * pixel_spacing[1])
    return pixel_spacing[0] * pixel_spacing[1] if SHORTEST_MM <= longest <= LONGEST_MM else math.nan


def letterbox(rows: int, columns: int, size: int, pixel_aspect: float = 1.0) -> Letterbox:
    """Fit an image into a square: as large as possible, centred, with its aspect ratio kept.

    Pixels that are not square become square, see `square_shape`.

    `letterbox_image` does the same to an image tensor, and `unletterbox` is the inverse.

    Args:
        rows: Height of the image in pixels.
        columns: Width of the image in pixels.
        size: Side of the square in pixels.
        pixel_aspect: Height of a pixel of the image divided by its width.

    Returns:
        The placement of the image in the square. The rest of the square is padding.

    Example:
        >>> letterbox(1024, 512, 256)
        Letterbox(height=256, width=128, top=0, left=64)
    """
    sides = square_shape((rows, columns), pixel_aspect)
    height, width = (max(1, _resized_side(side, max(sides), size)) for side in sides)
    return Letterbox(height, width, (size - height) // 2, (size - width) // 2)


def letterbox_image(image: "tf.Tensor", size: int, square: "tf.Tensor | None" = None) -> "tf.Tensor":
    """Resize and pad an image to a square, inside a TensorFlow graph or outside of it; the geometry is `letterbox`'s.

    Shrinking averages over the area that a new pixel covers, so that thin lines do not alias. Enlarging is bilinear.

    Args:
        image: uint8, (H, W, 1).
        size: Side of the square in pixels.
        square: int32, (2,), the result of `square_shape` for an image whose pixels are not square; None for (H, W).

    Returns:
        uint8, (size, size, 1). The padding is 0.

    Example:
        >>> letterbox_image(np.full((4, 2, 1), 9, np.uint8), 4).numpy()[0, :, 0]  # doctest: +SKIP
        array([0, 9, 9, 0], dtype=uint8)
    """
    import tensorflow as tf

    image = tf.convert_to_tensor(image)
    if square is None and image.shape.is_fully_defined():
        return _letterbox_known(image, size)
    shape = tf.shape(image)[:2]
    sides = shape if square is None else square
    fits = tf.reduce_all(tf.concat([shape, sides], 0) == size)
    resized = tf.cond(fits, lambda: image, lambda: _resize_and_pad(image, sides, size))
    return tf.ensure_shape(resized, (size, size, 1))


def letterbox_array(image: np.ndarray, size: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Resize and pad an image to a square as `letterbox_image` does, without TensorFlow.

    Args:
        image: uint8, (H, W).
        size: Side of the square in pixels.
        pixel_aspect: Height of a pixel of the image divided by its width.

    Returns:
        uint8, (size, size). The padding is 0. Where an average lies close to the middle between two grey levels, it may
        be rounded differently from `letterbox_image`; sides that shrink by a power of two give the same bytes.

    Example:
        >>> letterbox_array(np.full((4, 2), 9, np.uint8), 4)[0]
        array([0, 9, 9, 0], dtype=uint8)
    """
    height, width, top, left = letterbox(image.shape[0], image.shape[1], size, pixel_aspect)
    if (height, width) == (size, size) == image.shape:
        return image
    square = np.zeros((size, size), np.uint8)
    square[top : top + height, left : left + width] = _resized(image, height, width)
    return square


def unletterbox(prob_map: np.ndarray, rows: int, columns: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Bring a square map back to the grid of the image: crop the padding, then resize bilinearly (section 3.1).

    This is the inverse of the geometry of `letterbox`.

    Args:
        prob_map: float, (size, size), the probabilities of a segmenter in [0, 1].
        rows: Height of the image in pixels.
        columns: Width of the image in pixels.
        pixel_aspect: Height of a pixel of the image divided by its width.

    Returns:
        float32, (rows, columns), within the range of the input.

    Example:
        >>> unletterbox(np.array([[0.0, 1.0], [0.0, 1.0]]), 2, 4)
        array([[0.  , 0.25, 0.75, 1.  ],
               [0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    height, width, top, left = letterbox(rows, columns, prob_map.shape[0], pixel_aspect)
    inside = np.ascontiguousarray(prob_map[top : top + height, left : left + width], dtype=np.float32)
    if inside.shape == (rows, columns):
        return inside
    return np.asarray(Image.fromarray(inside).resize((columns, rows), Image.Resampling.BILINEAR))


def unletterbox_above(
    prob_map: np.ndarray, rows: int, columns: int, threshold: float, pixel_aspect: float = 1.0
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Compute the part of `unletterbox`'s result that holds everything above a threshold.

    A pneumothorax covers a small part of an image, and computing only that part is several times as fast.

    Args:
        prob_map: Whole numbers or float, (size, size).
        rows: Height of the image in pixels.
        columns: Width of the image in pixels.
        threshold: Number in the range of the map.
        pixel_aspect: Height of a pixel of the image divided by its width.

    Returns:
        float32, a part of `unletterbox`'s result, the same to the bit; and its place, slices of rows and columns. All
        values elsewhere are at most the threshold. The part is empty if there is none above it.

    Example:
        >>> prob_map = np.zeros((4, 4))
        >>> prob_map[1, 1] = 1.0
        >>> part, place = unletterbox_above(prob_map, 4, 4, 0.5)
        >>> float(part.max()), part.shape, place[0]
        (1.0, (2, 2), slice(0, 2, None))
    """
    height, width, top, left = letterbox(rows, columns, prob_map.shape[0], pixel_aspect)
    inside = prob_map[top : top + height, left : left + width].astype(np.float32)
    if height > rows or width > columns:  # a pixel of the image then covers many of the map
        return unletterbox(prob_map, rows, columns, pixel_aspect), (slice(0, rows), slice(0, columns))
    vertical, horizontal = _neighbours(height, rows), _neighbours(width, columns)
    needed = bounding_box(inside > threshold)
    box = vertical.touching(needed[0]), horizontal.touching(needed[1])
    # Pillow's order: first along the rows, rounded to float32.
    along_rows = horizontal.interpolate(inside.T, box[1]).T
    return vertical.interpolate(along_rows, box[0]), box


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the smallest box that holds all pixels of a mask.

    Args:
        mask: Mask, bool, (H, W).

    Returns:
        Slices of the rows and of the columns; both are empty for an empty mask.

    Example:
        >>> bounding_box(np.array([[False, False, False], [False, True, True]]))
        (slice(1, 2, None), slice(1, 3, None))
    """
    sides = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
    rows, columns = (slice(side[0], side[-1] + 1) if side else slice(0) for side in sides)
    return rows, columns


def scale_area(area: ArrayLike, pixels: ArrayLike) -> np.ndarray:
    """Convert areas given on a 1024 x 1024 grid to grids with another number of pixels.

    Args:
        area: Areas in pixels at 1024 x 1024; a number or an array.
        pixels: Number of pixels of the other grid; a number or an array whose shape broadcasts.

    Returns:
        float64, the areas in pixels of the other grid.

    Example:
        >>> float(scale_area(3500, 512 * 512))
        875.0
    """
    return np.asarray(area) * np.asarray(pixels) / REFERENCE_PIXELS


class _Neighbours(NamedTuple):
    """The two pixels of a line between which each pixel of a longer line lies, and their weights, float64."""

    lower: np.ndarray
    upper: np.ndarray
    lower_weight: np.ndarray
    upper_weight: np.ndarray

    def touching(self, needed: slice) -> slice:
        """Return the pixels of the longer line that any of the needed pixels of the shorter one contributes to."""
        return slice(int(np.searchsorted(self.upper, needed.start or 0)), int(np.searchsorted(self.lower, needed.stop)))

    def interpolate(self, lines: np.ndarray, box: slice) -> np.ndarray:
        """Return rows `box` of the longer grid, float32, computed in float64 as Pillow does."""
        lower, upper, lower_weight, upper_weight = (values[box] for values in self)
        between = lines[lower] * lower_weight[:, None] + lines[upper] * upper_weight[:, None]
        return between.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _neighbours(short: int, long: int) -> _Neighbours:
    centre = (np.arange(long) + 0.5) * (short / long)
    first = (centre - 0.5).astype(int)  # cuts off towards 0
    pixels = first + np.arange(2)[:, None]
    weights = np.where(pixels < short, np.maximum(1 - np.abs(pixels + 0.5 - centre), 0), 0)
    weights /= weights.sum(axis=0)
    return _Neighbours(*np.minimum(pixels, short - 1), *weights)


def _resized_side(side: Any, longest: Any, size: int) -> Any:
    # Integer arithmetic that rounds half up, so that Python and the TensorFlow graph compute the same numbers.
    return (2 * side * size + longest) // (2 * longest)


def _letterbox_known(image: "tf.Tensor", size: int) -> "tf.Tensor":
    """Letterbox an image whose shape the graph knows: without conditions, and by whole factors in one pass."""
    import tensorflow as tf

    rows, columns = image.shape[:2]
    height, width, top, left = letterbox(rows, columns, size)
    factor = max(rows, columns) // size
    is_whole = factor <= _LARGEST_FACTOR and (rows, columns) == (factor * height, factor * width)
    if not is_whole or (factor > 1 and not _has_xla()):
        return tf.ensure_shape(_resize_and_pad(image, tf.constant((rows, columns)), size), (size, size, 1))
    resized = image if factor == 1 else _block_means(factor)(image)
    return resized if height == width else tf.image.pad_to_bounding_box(resized, top, left, size, size)


@functools.cache
def _has_xla() -> bool:
    """Return whether XLA compiles for the CPU, which it does not in every build of TensorFlow."""
    import tensorflow as tf

    with tf.init_scope(), tf.device("CPU"):
        try:
            tf.function(lambda: tf.zeros(()), jit_compile=True, autograph=False)()
        except tf.errors.OpError:
            return False
    return True


@functools.cache
def _block_means(factor: int) -> "Callable[[tf.Tensor], tf.Tensor]":
    """Return the function that averages blocks of `factor` x `factor` pixels and rounds halves to even."""
    import tensorflow as tf

    # XLA makes one pass over the image. Without it, each operation would write its whole result to new memory.
    @tf.function(jit_compile=True, autograph=False)
    def block_means(image: tf.Tensor) -> tf.Tensor:
        offsets, count = itertools.product(range(factor), repeat=2), factor**2
        total = tf.add_n([tf.cast(image[row::factor, column::factor], tf.uint16) for row, column in offsets])
        is_odd = total // count % 2
        return tf.cast((2 * total + count - 1 + is_odd) // (2 * count), tf.uint8)

    return block_means


def _resize_and_pad(image: "tf.Tensor", sides: "tf.Tensor", size: int) -> "tf.Tensor":
    import tensorflow as tf

    new_shape = tf.maximum(1, _resized_side(sides, tf.reduce_max(sides), size))
    # If pixels are not square, one side may shrink while the other grows.
    shrunk_shape = tf.minimum(new_shape, tf.shape(image)[:2])
    resized = _resize_if_needed(_resize_if_needed(image, shrunk_shape, "area"), new_shape, "bilinear")
    top, left = tf.unstack((size - new_shape) // 2)
    return tf.image.pad_to_bounding_box(tf.cast(tf.round(resized), tf.uint8), top, left, size, size)


def _resize_if_needed(image: "tf.Tensor", shape: "tf.Tensor", method: str) -> "tf.Tensor":
    import tensorflow as tf

    needed = tf.reduce_any(tf.shape(image)[:2] != shape)
    return tf.cond(needed, lambda: tf.image.resize(image, shape, method), lambda: tf.cast(image, tf.float32))


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    import cv2

    # If pixels are not square, one side may shrink while the other grows.
    shrunk_shape = min(height, image.shape[0]), min(width, image.shape[1])
    resized: np.ndarray = image.astype(np.float32)
    for rows, columns, method in ((*shrunk_shape, cv2.INTER_AREA), (height, width, cv2.INTER_LINEAR)):
        if resized.shape != (rows, columns):
            resized = cv2.resize(resized, (columns, rows), interpolation=method)
    return np.rint(resized).astype(np.uint8)
