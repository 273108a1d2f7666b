"""From the networks' probabilities to the final mask: the rule that decides, on the image's own grid."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from skimage.measure import label

REFERENCE_PIXELS = 1024 * 1024
# A pixel's probability is kept as a whole number of 1/255.
LEVELS = 255


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """The numbers that turn probabilities into a mask.

    An image is segmented if the classifier's probability is above `classifier_threshold`. Its mask are the pixels above
    `mask_threshold`, if at least `top_area` pixels are above `top_threshold`: the triplet rule of the competition's
    first place (section 4.2), which the defaults leave out. Components smaller than `minimum_area` are dropped.

    Areas are pixels on a 1024 x 1024 grid; on another grid they are scaled.

    Attributes:
        classifier_threshold: In [0, 1].
        mask_threshold: In [0, 1].
        minimum_area: Table 2; 0 or more.
        top_threshold: In [0, 1].
        top_area: 0 or more; with 0 every image has as many.

    Raises:
        ValueError: If a number is out of its range.
    """

    classifier_threshold: float = 0.5
    mask_threshold: float = 0.5
    minimum_area: float = 3500
    top_threshold: float = 0.5
    top_area: float = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in dataclasses.asdict(self).items():
            limit = 1.0 if name.endswith("threshold") else math.inf
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= limit:
                raise ValueError(f"{name} is {value!r}, expected a number from 0 to {limit}")

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> "DecisionRule":
        """Make a rule of what a file holds.

        Raises:
            ValueError: If a number is missing, unknown or out of its range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(numbers, Mapping) or numbers.keys() != set(names):
            raise ValueError(f"expected the numbers {', '.join(names)}")
        return cls(**numbers)


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


def quantize(probability: np.ndarray) -> np.ndarray:
    """Round probabilities, float in [0, 1], to whole numbers of 1/255: uint8, of the same shape; NaN becomes 0.

    The pipeline decides on these as well, so that it decides alike whether they come from a network or from a file.
    """
    return np.round(np.nan_to_num(np.asarray(probability, np.float32)) * LEVELS).astype(np.uint8)


def restore(levels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bring a network's square map back to the image's own grid: the padding cut off, then bilinear (section 3.1).

    The inverse of the geometry of `fit_square`.

    Args:
        levels: (size, size), uint8 as `quantize` gives it, or float.
        rows: The image's height in pixels.
        columns: The image's width in pixels.

    Returns:
        float32, (rows, columns), within the range of the input.
    """
    height, width, top, left = fit_square(rows, columns, levels.shape[0])
    inside = np.ascontiguousarray(levels[top : top + height, left : left + width], dtype=np.float32)
    if inside.shape == (rows, columns):
        return inside
    return np.asarray(Image.fromarray(inside).resize((columns, rows), Image.Resampling.BILINEAR))


def draw_mask(levels: np.ndarray, shape: tuple[int, int], rule: DecisionRule) -> tuple[np.ndarray, str]:
    """Draw the mask of an image that is segmented.

    Args:
        levels: The segmenter's map, uint8 (size, size), see `quantize`.
        shape: (H, W) of the image.
        rule: What decides.

    Returns:
        The mask, bool (H, W), and the stage that decided: "segmenter" (it drew nothing), "triplet" (too few pixels
        above the top threshold), "elimination" (only small components), or "mask" (a mask was left).
    """
    restored = restore(levels, *shape)
    drawn = above(restored, rule.mask_threshold)
    if not drawn.any():
        return drawn, "segmenter"
    if np.count_nonzero(above(restored, rule.top_threshold)) < on_grid(rule.top_area, restored.size):
        return np.zeros_like(drawn), "triplet"
    mask = remove_small_components(drawn, rule.minimum_area)
    return mask, "mask" if mask.any() else "elimination"


def above(levels: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which pixels of a map in 1/255 are above a probability: bool, of the same shape.

    In float32 whatever kind of float the threshold is, so that wherever a map is cut, it is cut alike.
    """
    return levels > np.float32(threshold * LEVELS)


def on_grid(area: ArrayLike, pixels: ArrayLike) -> np.ndarray:
    """Scale areas in pixels at 1024 x 1024 to grids of so many pixels."""
    return np.asarray(area) * np.asarray(pixels) / REFERENCE_PIXELS


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
    keep = areas >= on_grid(minimum_area, mask.size)
    keep[0] = False
    return keep[labels]
