"""Thumbnails of a page: small pictures of images, and the outlines of masks over them."""

import base64
import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from pneumoseg.geometry import bounding_box, square_shape

SIDE = 208
"""Pixels of a picture's longer side: sharp enough for outlines, small enough for hundreds on a page."""
_QUALITY = 70
_MOST_OUTLINES = 40  # per mask, the longest ones; all outlines of a speckled mask would fill the page


def make_ahead(make: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Make something of each item in threads, a few items ahead of the caller, in order.

    Args:
        make: Function of one item, which threads may call at the same time.
        items: The items; only a few are taken ahead.

    Example:
        >>> list(make_ahead(abs, [-1, 2]))
        [1, 2]
    """
    remaining, pending = iter(items), deque[Future[Any]]()
    with ThreadPoolExecutor() as pool:
        for item in itertools.islice(remaining, 4 * (os.cpu_count() or 1)):
            pending.append(pool.submit(make, item))
        while pending:
            made = pending.popleft().result()
            pending.extend(pool.submit(make, item) for item in itertools.islice(remaining, 1))
            yield made


def picture_scale(shape: tuple[int, int], pixel_aspect: float) -> np.ndarray:
    """Return the pixels of an image's picture per pixel of its rows and of its columns, float64, (2,).

    Args:
        shape: (H, W) of the image, in pixels.
        pixel_aspect: Height of a pixel divided by its width; the picture's pixels are square.
    """
    square = square_shape(shape, pixel_aspect)
    return SIDE / max(square) * np.divide(square, shape)


def picture_size(shape: tuple[int, int], scale: np.ndarray) -> tuple[int, int]:
    """Return the (width, height) of the picture of an image, in pixels.

    Args:
        shape: (H, W) of the image, in pixels.
        scale: The picture's scale, see `picture_scale`.
    """
    height, width = (max(1, round(side)) for side in (scale * shape).tolist())
    return width, height


def picture_of(image: np.ndarray, size: tuple[int, int]) -> str:
    """Return a small picture of an image as a JPEG in a data URI.

    Args:
        image: Image, uint8, (H, W).
        size: (width, height) of the picture, see `picture_size`.
    """
    file = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.BOX).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def outline_path(mask: np.ndarray, scale: np.ndarray) -> str:
    """Return the longest outlines of a mask as an SVG path, simplified to half a pixel of the picture.

    Args:
        mask: bool, (H, W).
        scale: Pixels of the picture per pixel of the mask's rows and columns, see `picture_scale`.

    Returns:
        The `d` of an SVG path in the picture's pixels; empty for an empty mask.
    """
    if not mask.any():
        return ""
    from skimage.measure import approximate_polygon, find_contours

    rows, columns = box = bounding_box(mask)
    inside = mask[box]
    parts = []
    contours = find_contours(np.pad(inside, 1).astype(np.uint8), 0.5)
    for contour in sorted(contours, key=len, reverse=True)[:_MOST_OUTLINES]:
        # The padding shifted everything by a pixel, and the centre of a pixel lies half a pixel from its edge.
        corner = np.array([rows.start - 0.5, columns.start - 0.5])
        points = (approximate_polygon(contour, 0.5 / np.max(scale)) + corner) * scale
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for y, x in points[:-1]) + "Z")
    return "".join(parts)
