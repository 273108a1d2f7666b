"""From a network's probabilities to the final mask: back to the image's own grid, then without the small regions."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage.measure import label

REFERENCE_PIXELS = 1024 * 1024


class Fit(NamedTuple):
    """Where an image lies in the square that a network sees: its size there and its upper left corner, in pixels."""

    height: int
    width: int
    top: int
    left: int


def fit_square(rows: int, columns: int, size: int) -> Fit:
    """Place an image in a square, as large as it goes, centred, its aspect ratio kept.

    Args:
        rows: The image's height in pixels.
        columns: The image's width in pixels.
        size: The square's side in pixels.

    Returns:
        The image's place in the square; what the image does not cover is padding.
    """
    longest = max(rows, columns)
    # Integer arithmetic, rounding half up, so that the loader's graph computes the very same numbers.
    height, width = (max(1, (2 * side * size + longest) // (2 * longest)) for side in (rows, columns))
    return Fit(height, width, (size - height) // 2, (size - width) // 2)


def restore(probability: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bring a network's square map back to the image's own grid: the padding cut off, then bilinear (section 3.1).

    The inverse of the geometry of `fit_square`.

    Args:
        probability: float, (size, size).
        rows: The image's height in pixels.
        columns: The image's width in pixels.

    Returns:
        float32, (rows, columns), within the range of the input.
    """
    height, width, top, left = fit_square(rows, columns, probability.shape[0])
    inside = np.ascontiguousarray(probability[top : top + height, left : left + width], dtype=np.float32)
    if inside.shape == (rows, columns):
        return inside
    return np.asarray(Image.fromarray(inside).resize((columns, rows), Image.Resampling.BILINEAR))


def remove_small_components(mask: np.ndarray, minimum_area: float = 3500) -> np.ndarray:
    """Drop the regions that are too small to be a pneumothorax (section 3.3, table 2).

    Args:
        mask: bool, (H, W).
        minimum_area: An 8-connected component with fewer pixels than this, on a 1024 x 1024 grid, goes; one with as
            many stays. On another grid the number is scaled by area.

    Returns:
        bool, (H, W). An empty mask stays empty.
    """
    if not mask.any():
        return mask.copy()
    labels = label(mask, connectivity=2)
    areas = np.bincount(labels.ravel())
    keep = areas >= minimum_area * mask.size / REFERENCE_PIXELS
    keep[0] = False
    return keep[labels]
