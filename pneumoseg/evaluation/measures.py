"""One pass over predicted maps and true masks, after which any rule is scored by arithmetic on small arrays.

Of each image, for each threshold of the mask and each smallest area of a component, two numbers are kept: how many
pixels the mask has, and how many of them are true. Dice, IoU and F-beta follow from these.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from skimage.measure import label

from pneumoseg import rle
from pneumoseg.decision import above, upscale
from pneumoseg.geometry import letterbox, scale_area
from pneumoseg.predictions import Predictions

_AT_ONCE = 32  # images in memory


@dataclass(frozen=True)
class Measures:
    """What is measured of n images at k thresholds and m smallest areas.

    Attributes:
        thresholds: float (k,), ascending: a pixel with a greater probability belongs to the mask.
        areas: float (m,), ascending, the first one 0: a component with fewer pixels is dropped.
        pixels: int32 (n, k, m), the mask's pixels on the image's own grid.
        overlap: int32 (n, k, m), those among them that are true.
        truth: int64 (n,), the true mask's pixels.
        size: int64 (n,), the image's pixels.
        peak: float64 (n,), the greatest probability of a pixel.
    """

    thresholds: np.ndarray
    areas: np.ndarray
    pixels: np.ndarray
    overlap: np.ndarray
    truth: np.ndarray
    size: np.ndarray
    peak: np.ndarray

    def at(self, threshold: float, area: float) -> tuple[np.ndarray, np.ndarray]:
        """The pixels and the overlap, (n,) each, of one mask an image.

        Raises:
            ValueError: If that threshold or that area was not measured.
        """
        row, column = np.flatnonzero(self.thresholds == threshold), np.flatnonzero(self.areas == area)
        if not (row.size and column.size):
            raise ValueError(f"threshold {threshold} with smallest area {area} was not measured")
        return self.pixels[:, row[0], column[0]], self.overlap[:, row[0], column[0]]


def measure(
    predictions: Predictions, thresholds: Sequence[float], areas: Sequence[float], *, grid: int | None = None
) -> Measures:
    """Measure the masks of all images, a few at a time.

    Args:
        predictions: Maps and true masks.
        thresholds: Of the mask.
        areas: Smallest areas of a component; 0 is added.
        grid: On which grid components are found: None for the image's own, as the pipeline does, the areas being pixels
            at 1024 x 1024; or the side of a square in which the map is brought first, the areas being pixels there, and
            the mask enlarged after (table 2).
    """
    thresholds_, areas_ = np.unique(np.asarray(thresholds, float)), np.unique([0.0, *areas])
    manifest = predictions.manifest
    codes, shapes = manifest["rle"].to_numpy(), manifest[["rows", "columns"]].to_numpy()
    count = len(manifest)
    pixels = np.zeros((count, len(thresholds_), len(areas_)), np.int32)
    overlap, truth, peak = np.zeros_like(pixels), np.zeros(count, np.int64), np.zeros(count)

    def one(row: int) -> None:
        true = rle.decode(codes[row], tuple(shapes[row]))
        truth[row] = np.count_nonzero(true)
        prob_map = predictions.prob_map(row)
        if prob_map is None:
            return
        peak[row] = prob_map.max()
        scale = 1.0 if grid else scale_area(1.0, true.size)
        for number, components in _components(prob_map, true, thresholds_, grid):
            pixels[row, number], overlap[row, number] = _left(components, areas_ * scale)

    with ThreadPoolExecutor() as pool:
        for first in range(0, count, _AT_ONCE):
            list(pool.map(one, range(first, min(first + _AT_ONCE, count))))
    return Measures(thresholds_, areas_, pixels, overlap, truth, shapes.prod(axis=1).astype(np.int64), peak)


def _components(
    prob_map: np.ndarray, true: np.ndarray, thresholds: np.ndarray, grid: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Of each threshold with a mask, its number and the mask's components.

    Yields:
        int64 (3, components): pixels on the grid, pixels on the image, and those among the latter that are true.
    """
    rows, columns = true.shape
    upscaled = upscale(prob_map, *((rows, columns) if grid is None else letterbox(rows, columns, grid)[:2]))
    # What no threshold reaches is most of nearly every image.
    reached = above(upscaled, thresholds[0])
    box = _box(reached) if grid is None else np.s_[:, :]
    inside, true = upscaled[box], true[box]
    for number, threshold in enumerate(thresholds):
        mask = above(inside, threshold)
        if not mask.any():
            return
        labels = label(mask, connectivity=2)
        count = labels.max() + 1
        shown = labels if grid is None else _enlarged(labels, true.shape)
        found = [labels[mask], shown[shown > 0], shown[true & (shown > 0)]]
        yield number, np.stack([np.bincount(chosen, minlength=count)[1:] for chosen in found])


def _left(components: np.ndarray, smallest: np.ndarray) -> np.ndarray:
    """Pixels and overlap, (2, m), of the components that have as many pixels as each of these areas."""
    area, *counted = components[:, np.argsort(components[0])]
    dropped = np.searchsorted(area, smallest, "left")
    left = np.concatenate([np.cumsum(np.array(counted)[:, ::-1], axis=1)[:, ::-1], np.zeros((2, 1))], axis=1)
    return left[:, dropped]


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns from the first to the last that hold a pixel of the mask."""
    sides = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(side[0], side[-1] + 1) if side.size else slice(0) for side in sides)
    return rows, columns


def _enlarged(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The nearest label of each pixel of a finer grid."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, labels.shape, strict=True))
    return labels[rows[:, None], columns]
