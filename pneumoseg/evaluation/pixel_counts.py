"""Pixel counts of all masks in one pass over the maps, from which any decision rule is scored by arithmetic.

Two numbers are kept per image, mask threshold and minimum area of a component: the pixels of the mask, and how many of
them are true. Dice, IoU and F-beta follow from these.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from skimage.measure import label

from pneumoseg import rle
from pneumoseg.data.masks import require_masks
from pneumoseg.data.pixel_aspect import pixel_aspects
from pneumoseg.decision import UpscaledMap
from pneumoseg.geometry import letterbox, scale_area
from pneumoseg.predictions import Predictions

_AT_ONCE = 32  # images in memory


@dataclass(frozen=True)
class PixelCounts:
    """Pixel counts of n images at k mask thresholds and m minimum areas.

    Attributes:
        thresholds: float (k,), ascending. Pixels with a greater probability belong to the mask.
        areas: float (m,), ascending, the first one 0. Components with fewer pixels are removed.
        pixels: int32 (n, k, m), pixels of the mask on the image's own grid.
        overlap: int32 (n, k, m), pixels of the mask that are true.
        truth: int64 (n,), pixels of the true mask.
        size: int64 (n,), pixels of the image.
        max_probability: float64 (n,), greatest probability of a pixel.
    """

    thresholds: np.ndarray
    areas: np.ndarray
    pixels: np.ndarray
    overlap: np.ndarray
    truth: np.ndarray
    size: np.ndarray
    max_probability: np.ndarray

    def at(self, threshold: float, area: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels and the overlap of each image's mask at one threshold and one minimum area, (n,) each.

        Raises:
            ValueError: If the threshold or the area was not counted.
        """
        row, column = np.flatnonzero(self.thresholds == threshold), np.flatnonzero(self.areas == area)
        if not (row.size and column.size):
            raise ValueError(f"threshold {threshold} with minimum area {area} was not counted")
        return self.pixels[:, row[0], column[0]], self.overlap[:, row[0], column[0]]


def count_pixels(
    predictions: Predictions, thresholds: Sequence[float], areas: Sequence[float], *, grid: int | None = None
) -> PixelCounts:
    """Count the pixels of the masks of all images, a few images at a time.

    Args:
        predictions: Probability maps and true masks.
        thresholds: Mask thresholds in [0, 1].
        areas: Minimum areas of a component; 0 is added.
        grid: Grid on which components are found. None is the image's own grid, as in the pipeline, with areas in pixels
            at 1024 x 1024. Otherwise it is the side of a square in pixels: the map is resized to that square first,
            areas are pixels there, and the mask is enlarged afterwards (table 2).

    Raises:
        ValueError: If the mask of an image is not known, or the file of a map is missing or damaged.

    Example:
        >>> counts = count_pixels(predictions, [0.4, 0.5], [3500])  # doctest: +SKIP
        >>> pixels, overlap = counts.at(0.5, 3500)  # doctest: +SKIP
    """
    require_masks(predictions.manifest)
    thresholds_, areas_ = np.unique(np.asarray(thresholds, float)), np.unique([0.0, *areas])
    manifest = predictions.manifest
    codes, shapes = manifest["rle"].to_numpy(), manifest[["rows", "columns"]].to_numpy()
    aspects = pixel_aspects(manifest).tolist()
    count = len(manifest)
    pixels = np.zeros((count, len(thresholds_), len(areas_)), np.int32)
    overlap, truth, max_probability = np.zeros_like(pixels), np.zeros(count, np.int64), np.zeros(count)

    def count_one(row: int) -> None:
        true = rle.decode(codes[row], tuple(shapes[row]))
        truth[row] = np.count_nonzero(true)
        prob_map = predictions.prob_map(row)
        if prob_map is None:
            return
        max_probability[row] = prob_map.max()
        scale = 1.0 if grid else scale_area(1.0, true.size)
        upscaled = _upscaled(prob_map, true.shape, aspects[row], grid, lowest=thresholds_[0])
        for number, components in _components(upscaled, true, thresholds_, enlarge=grid is not None):
            pixels[row, number], overlap[row, number] = _remaining(components, areas_ * scale)

    with ThreadPoolExecutor() as pool:
        for first in range(0, count, _AT_ONCE):
            list(pool.map(count_one, range(first, min(first + _AT_ONCE, count))))
    size = shapes.prod(axis=1).astype(np.int64)
    return PixelCounts(thresholds_, areas_, pixels, overlap, truth, size, max_probability)


def _upscaled(
    prob_map: np.ndarray, shape: tuple[int, ...], pixel_aspect: float, grid: int | None, *, lowest: float
) -> UpscaledMap:
    rows, columns = shape
    if grid is None:
        return UpscaledMap(prob_map, (rows, columns), pixel_aspect, lowest=lowest)
    # The pixels of the grid are square, whatever those of the image are.
    return UpscaledMap(prob_map, letterbox(rows, columns, grid, pixel_aspect)[:2], lowest=lowest)


def _components(
    upscaled: UpscaledMap, true: np.ndarray, thresholds: np.ndarray, *, enlarge: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Find the components of the mask at each threshold, as long as there is a mask.

    Yields:
        The threshold's number, and int64 (3, components): the pixels of each component on the grid, its pixels on the
        image, and how many of the latter are true.
    """
    true = true if enlarge else true[upscaled.box]
    for number, threshold in enumerate(thresholds):
        above = upscaled.above(threshold)
        mask = upscaled.whole(above) if enlarge else above
        if not mask.any():
            return
        labels = label(mask, connectivity=2)
        count = labels.max() + 1
        enlarged = _enlarged(labels, true.shape) if enlarge else labels
        found = [labels[mask], enlarged[enlarged > 0], enlarged[true & (enlarged > 0)]]
        yield number, np.stack([np.bincount(chosen, minlength=count)[1:] for chosen in found])


def _remaining(components: np.ndarray, minimum_areas: np.ndarray) -> np.ndarray:
    """Return the pixels and the overlap, (2, m), of the components that have at least each of these areas."""
    area, *counted = components[:, np.argsort(components[0])]
    removed = np.searchsorted(area, minimum_areas, "left")
    remaining = np.concatenate([np.cumsum(np.array(counted)[:, ::-1], axis=1)[:, ::-1], np.zeros((2, 1))], axis=1)
    return remaining[:, removed]


def _enlarged(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the nearest label of each pixel of a finer grid."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, labels.shape, strict=True))
    return labels[rows[:, None], columns]
