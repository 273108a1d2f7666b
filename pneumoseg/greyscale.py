"""Grey values of images that are stored in colour but show grey."""

import numpy as np
from numpy.typing import NDArray

from pneumoseg.image_errors import UnsupportedError

TOLERANCE = 2
"""Largest difference between the channels of a grey pixel, in grey levels of 255: rounding in JPEG's colour model."""
_LUMA = (0.299, 0.587, 0.114)
_REMEDY = "Export it as a greyscale image, without coloured marks or overlays"


def grey_of(path: str, rgb: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Return the grey values of an image with equal channels.

    Args:
        path: Path of the file, for messages.
        rgb: Image, uint8 or uint16, (rows, columns, 3).

    Returns:
        The grey values, of the same dtype, (rows, columns). Channels that differ by rounding give their luma (ITU-R
        BT.601).

    Raises:
        UnsupportedError: If a pixel has colour: its channels differ by more than `TOLERANCE`, or at all with 16 bits.

    Example:
        >>> grey_of("chest.png", np.array([[[7, 7, 7], [9, 8, 8]]], np.uint8))
        array([[7, 8]], dtype=uint8)
    """
    red, green, blue = (rgb[..., channel] for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    require_grey(path, spread)
    if not spread.any():
        return np.ascontiguousarray(green)
    luma = 299 * red.astype(np.uint32) + 587 * green.astype(np.uint32) + 114 * blue.astype(np.uint32)
    return ((luma + 500) // 1000).astype(rgb.dtype)


def grey_of_palette(path: str, palette: NDArray[np.uint8], indices: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """Return the grey values of an image with a palette.

    Args:
        path: Path of the file, for messages.
        palette: Colour of each index, uint8, (n, 3).
        indices: Indices of the pixels, integer, (rows, columns).

    Returns:
        The grey values, uint8, (rows, columns): the luma of the colours, see `grey_of`.

    Raises:
        UnsupportedError: If a pixel has colour. Colours that no pixel uses do not count.

    Example:
        >>> palette = np.array([[7, 7, 7], [255, 0, 0], [9, 9, 9]], np.uint8)
        >>> grey_of_palette("chest.png", palette, np.array([[0, 2]], np.uint8))
        array([[7, 9]], dtype=uint8)
    """
    require_grey(path, np.ptp(palette, axis=1)[indices])
    return np.rint(palette @ _LUMA).astype(np.uint8)[indices]


def require_grey(path: str, spread: NDArray[np.unsignedinteger]) -> None:
    """Check that an image shows grey.

    Args:
        path: Path of the file, for messages.
        spread: Difference between the largest and the smallest channel of each pixel, uint8 or uint16.

    Raises:
        UnsupportedError: If a pixel has colour. The message says how many pixels do, and how much.
    """
    deep = spread.dtype.itemsize > 1
    coloured = np.count_nonzero(spread > (0 if deep else TOLERANCE))
    if coloured:
        levels = f"{int(spread.max())} of {65535 if deep else 255} grey levels"
        share = f"{coloured} of its {spread.size} pixels ({coloured / spread.size:.1%}) have colour"
        raise UnsupportedError(path, f"is a colour image: {share}, with channels up to {levels} apart", _REMEDY)
