"""The decision on one image: from the probabilities of both networks to the final mask on the image's own grid."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pneumoseg.geometry import bounding_box, scale_area, unletterbox_above

# Probability maps are rounded to multiples of 1/255 before anything is decided.
_STEPS = 255


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """The numbers that turn probabilities into a mask.

    An image is segmented if the classifier's probability is above `classifier_threshold`. Its mask consists of the
    pixels above `mask_threshold`, provided that at least `top_area` pixels are above `top_threshold`: the triplet rule
    of the competition's first place (section 4.2), which the defaults switch off. Components smaller than
    `minimum_area` are removed.

    Areas are in pixels on a 1024 x 1024 grid. On another grid they are scaled.

    Attributes:
        classifier_threshold: Probability in [0, 1].
        mask_threshold: Probability in [0, 1].
        minimum_area: Area in pixels, 0 or more (table 2).
        top_threshold: Probability in [0, 1].
        top_area: Area in pixels, 0 or more; 0 switches the triplet rule off.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> rule = DecisionRule(classifier_threshold=0.4, minimum_area=1750)
        >>> rule.mask_threshold, rule.minimum_area
        (0.5, 1750)
    """

    classifier_threshold: float = 0.5
    mask_threshold: float = 0.5
    minimum_area: float = 3500
    top_threshold: float = 0.5
    top_area: float = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in dataclasses.asdict(self).items():
            limit = 1.0 if name.endswith("threshold") else sys.float_info.max
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= limit:
                expected = "an int or float from 0 to 1" if limit == 1 else "a finite int or float, 0 or more"
                raise ValueError(f"{name} is {value!r}, expected {expected}")

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> "DecisionRule":
        """Create a rule from the numbers in a file.

        Args:
            numbers: All attributes by name.

        Raises:
            ValueError: If a number is missing, unknown or out of its range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(numbers, Mapping) or numbers.keys() != set(names):
            raise ValueError(f"expected the numbers {', '.join(names)}")
        return cls(**numbers)

    def gates_in(self, probability: ArrayLike) -> np.ndarray:
        """Tell which images the classifier passes on to the segmenter.

        Args:
            probability: The classifier's probability of one image or of many, float; NaN does not pass.

        Returns:
            bool, of the same shape.
        """
        return np.asarray(probability) > self.classifier_threshold


class Decision(NamedTuple):
    """The decision on one image.

    Attributes:
        raw_mask: bool, (H, W), the pixels above the mask threshold, before any post-processing.
        mask: bool, (H, W), the final mask.
        stage: The stage that decided: "classifier" (not above its threshold), "segmenter" (the raw mask is empty),
            "triplet" (too few pixels above the top threshold), "elimination" (only small components), or "mask" (a
            mask is left).
    """

    raw_mask: np.ndarray
    mask: np.ndarray
    stage: str


def decide(
    prob_map: np.ndarray,
    shape: tuple[int, int],
    rule: DecisionRule,
    *,
    gated_in: bool = True,
    pixel_aspect: float = 1.0,
) -> Decision:
    """Decide on one image.

    The map is rounded to multiples of 1/255 first. So the decision is the same for a map that comes from a network and
    for one that was cached.

    Args:
        prob_map: float, (size, size), the segmenter's probabilities in [0, 1]; NaN counts as 0.
        shape: (H, W) of the image.
        rule: The thresholds and areas.
        gated_in: Whether the classifier passed the image on, see `DecisionRule.gates_in`.
        pixel_aspect: Height of a pixel of the image divided by its width.

    Returns:
        The masks on the image's own grid, and the stage that decided.

    Example:
        >>> prob_map = np.zeros((8, 8))
        >>> prob_map[2:6, 2:6] = 0.9
        >>> decision = decide(prob_map, (8, 8), DecisionRule(minimum_area=0))
        >>> int(decision.mask.sum()), decision.stage
        (16, 'mask')
    """
    lowest = min(rule.mask_threshold, rule.top_threshold)
    upscaled = UpscaledMap(prob_map, shape, pixel_aspect, lowest=lowest)
    raw, nothing = upscaled.above(rule.mask_threshold), np.zeros(shape, bool)
    raw_mask = upscaled.whole(raw)
    if not gated_in:
        return Decision(raw_mask, nothing, "classifier")
    if not raw.any():
        return Decision(raw_mask, nothing, "segmenter")
    if np.count_nonzero(upscaled.above(rule.top_threshold)) < scale_area(rule.top_area, raw_mask.size):
        return Decision(raw_mask, nothing, "triplet")
    kept = _large_components(raw, scale_area(rule.minimum_area, raw_mask.size))
    return Decision(raw_mask, upscaled.whole(kept), "mask" if kept.any() else "elimination")


def remove_small_components(mask: np.ndarray, minimum_area: float = 3500) -> np.ndarray:
    """Remove the components that are too small to be a pneumothorax (section 3.3, table 2).

    Args:
        mask: bool, (H, W).
        minimum_area: Area in pixels on a 1024 x 1024 grid; on another grid it is scaled. An 8-connected component with
            fewer pixels is removed.

    Returns:
        bool, (H, W). An empty mask stays empty.

    Example:
        >>> mask = np.zeros((512, 512), bool)
        >>> mask[:30, :30] = True  # 900 pixels, which are 3600 at 1024 x 1024
        >>> mask[100, 100] = True
        >>> int(remove_small_components(mask).sum())
        900
    """
    kept, box = np.zeros(mask.shape, bool), bounding_box(mask)
    kept[box] = _large_components(mask[box], scale_area(minimum_area, mask.size))
    return kept


def _large_components(mask: np.ndarray, least: np.ndarray) -> np.ndarray:
    from scipy import ndimage  # images without a mask do not need it

    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    keep = np.bincount(labels.ravel(), minlength=1) >= least
    keep[0] = False
    return keep[labels]


def quantize(prob_map: np.ndarray) -> np.ndarray:
    """Round probabilities to multiples of 1/255.

    Args:
        prob_map: float, probabilities in [0, 1], of any shape; NaN becomes 0.

    Returns:
        uint8, of the same shape: the multiples.

    Example:
        >>> quantize(np.array([0.0, 0.2, 1.0]))
        array([  0,  51, 255], dtype=uint8)
    """
    return np.round(np.nan_to_num(np.asarray(prob_map, np.float32)) * _STEPS).astype(np.uint8)


def dequantize(prob_map_u8: np.ndarray) -> np.ndarray:
    """Convert multiples of 1/255 back to probabilities; `quantize` is the exact inverse.

    Args:
        prob_map_u8: uint8, of any shape, see `quantize`.

    Returns:
        float64 in [0, 1], of the same shape.

    Example:
        >>> dequantize(np.array([0, 51, 255], np.uint8))
        array([0. , 0.2, 1. ])
    """
    return prob_map_u8 / _STEPS


class UpscaledMap:
    """A probability map on an image's own grid, which compares exactly with thresholds.

    The map is rounded to multiples of 1/255 first, and values and thresholds are compared as float32 whatever kind of
    float they are. A map from a network and the same map from the cache therefore give the same masks.

    Only the part of the grid that holds all pixels above the lowest threshold is computed, see `unletterbox_above`.

    Args:
        prob_map: float, (size, size), probabilities in [0, 1]; NaN counts as 0.
        shape: (H, W) of the grid, see `unletterbox`.
        pixel_aspect: Height of a pixel of the grid divided by its width.
        lowest: The lowest threshold that the map will be compared with, in [0, 1].

    Attributes:
        shape: (H, W) of the grid.
        box: The part, slices of rows and columns. No pixel outside of it is above `lowest`.

    Example:
        >>> int(UpscaledMap(np.full((4, 4), 0.6), (8, 8)).above(0.5).sum())
        64
    """

    def __init__(
        self, prob_map: np.ndarray, shape: tuple[int, int], pixel_aspect: float = 1.0, *, lowest: float = 0.0
    ) -> None:
        self.shape = shape
        # Whole numbers up to 255 are exact in float32, and multiples of 1/255 are not. Interpolating between the whole
        # numbers, a map and a threshold that are equal stay equal.
        multiples = quantize(prob_map)
        self._multiples, self.box = unletterbox_above(multiples, *shape, lowest * _STEPS, pixel_aspect)

    def above(self, threshold: float) -> np.ndarray:
        """Return the pixels of the box with a probability above a threshold.

        Args:
            threshold: Probability from `lowest` to 1.

        Returns:
            bool, of the shape of the box.
        """
        return self._multiples > np.float32(threshold * _STEPS)

    def whole(self, part: np.ndarray) -> np.ndarray:
        """Return the mask of the whole grid of which the box holds a part and the rest is empty.

        Args:
            part: bool, of the shape of the box.

        Returns:
            bool, (H, W).
        """
        mask = np.zeros(self.shape, bool)
        mask[self.box] = part
        return mask
