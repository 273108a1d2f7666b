"""The square grid that everything is painted on, and the strokes and fields to paint with.

Shapes are given in chest coordinates: x to the viewer's right and y down, both -1 to 1 across a chest of average size.
A `View` places them in the image (shift, rotation, magnification), so the same chest can be exposed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Field = NDArray[Any]
"""Square array, float32, usually (GRID, GRID)."""
Points = NDArray[np.float64]

GRID = 512
"""Rows and columns of the painting: fine enough for a pleural line, a quarter of the work of 1024."""

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class View:
    """Placement of the chest in the image: `image = magnification * rotation * chest + shift`.

    Image coordinates range from -1 to 1 in x and y, so their unit is half the image's side.

    Attributes:
        angle: Rotation, in radians.
        magnification: Size of the chest relative to the average.
        shift: Shift in x and y, in image coordinates.
    """

    angle: float
    magnification: float
    shift: tuple[float, float]

    def to_pixels(self, points: Points) -> Points:
        """Return grid positions (column, row), (n, 2), of points in chest coordinates, (n, 2)."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turned = points @ np.array([[cosine, sine], [-sine, cosine]])
        return (turned * self.magnification + self.shift + 1) * (GRID / 2)

    def coordinates(self) -> tuple[Field, Field]:
        """Return the chest coordinates x and y of every grid pixel, each (GRID, GRID) float32."""
        axis = (np.arange(GRID) + 0.5) * (2 / GRID) - 1
        column = (axis[None, :] - self.shift[0]) / self.magnification
        row = (axis[:, None] - self.shift[1]) / self.magnification
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        return (cosine * column + sine * row).astype(np.float32), (cosine * row - sine * column).astype(np.float32)


def fill(view: View, outlines: Sequence[Points]) -> Field:
    """Paint filled polygons, anti-aliased: 1 inside, 0 outside.

    Args:
        view: Placement of the chest in the image.
        outlines: Polygons, each (n, 2) in chest coordinates.

    Returns:
        The painting, (GRID, GRID) float32, 0 to 1.
    """
    image = Image.new("L", (GRID * _SUPERSAMPLING, GRID * _SUPERSAMPLING))
    pen = ImageDraw.Draw(image)
    for outline in outlines:
        pen.polygon((view.to_pixels(outline) * _SUPERSAMPLING).ravel().tolist(), fill=255)
    return _to_field(image)


def stroke(view: View, lines: Sequence[Points], widths: Sequence[float], strengths: Sequence[float]) -> Field:
    """Paint polylines, anti-aliased; later lines cover earlier ones.

    Args:
        view: Placement of the chest in the image.
        lines: Polylines, each (n, 2) in chest coordinates.
        widths: Widths of the lines, in chest coordinates.
        strengths: Values of the lines, 0 to 1.

    Returns:
        The painting, (GRID, GRID) float32, 0 to 1.
    """
    image = Image.new("L", (GRID * _SUPERSAMPLING, GRID * _SUPERSAMPLING))
    if not lines:
        return _to_field(image)
    pen = ImageDraw.Draw(image)
    unit = view.magnification * GRID / 2 * _SUPERSAMPLING
    # All lines are transformed at once: there are a thousand vessels.
    pixels = np.split(view.to_pixels(np.concatenate(lines)) * _SUPERSAMPLING, np.cumsum([len(i) for i in lines])[:-1])
    for line, width, strength in zip(pixels, widths, strengths, strict=True):
        joint = "curve" if len(line) > 2 else None
        pen.line(line.ravel().tolist(), fill=round(255 * strength), width=max(1, round(width * unit)), joint=joint)
    return _to_field(image)


def _to_field(image: Image.Image) -> Field:
    return np.asarray(image.reduce(_SUPERSAMPLING), np.float32) / 255


def blur(field: Field, sigma: float) -> Field:
    """Apply a Gaussian blur; broad ones are computed on a coarser grid, which loses nothing visible.

    Args:
        field: Field, (GRID, GRID) float32.
        sigma: Standard deviation, in units of half the image's side.

    Returns:
        The blurred field, (GRID, GRID) float32.
    """
    pixels = sigma * GRID / 2
    step = max(1, 2 ** int(np.log2(max(pixels / 1.5, 1))))
    if step == 1:
        return ndimage.gaussian_filter(field, pixels, mode="nearest", truncate=3)
    coarse = Image.fromarray(field).reduce(step)
    return resize(ndimage.gaussian_filter(np.asarray(coarse), pixels / step, mode="nearest", truncate=3), GRID)


def resize(field: Field, size: int) -> Field:
    """Return a square field resampled to (size, size). Reductions average, so thin lines fade instead of breaking."""
    if field.shape == (size, size):
        return field
    filter_ = Image.Resampling.BICUBIC if size > len(field) else Image.Resampling.BOX
    return np.asarray(Image.fromarray(field).resize((size, size), filter_))


def clouds(rng: np.random.Generator, cells: int) -> Field:
    """Return smooth noise of about unit variance, (GRID, GRID) float32.

    Args:
        rng: Source of randomness.
        cells: Number of independent values along each side.
    """
    return resize(rng.standard_normal((cells, cells), dtype=np.float32), GRID) * np.float32(1.3)


def step(field: Field, start: float, stop: float) -> Field:
    """Return a smooth step of a field: 0 at `start`, 1 at `stop`. It falls if `stop` is below `start`."""
    ramp = np.clip((field - np.float32(start)) / np.float32(stop - start), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)
