"""One generated film: a chest, what lies on it, and the exposure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pneumoseg.synthetic.anatomy import paint_anatomy
from pneumoseg.synthetic.canvas import GRID, Field, resize, step
from pneumoseg.synthetic.chest import Chest, draw_chest, draw_view
from pneumoseg.synthetic.distractors import paint_devices, paint_lung_changes, paint_marker
from pneumoseg.synthetic.pneumothorax import draw_area, draw_pockets, draw_rows, paint_pneumothorax, split_rows

SMALLEST_SIZE = 32


@dataclass(frozen=True)
class SyntheticCase:
    """A generated chest film and its truth.

    Attributes:
        image: uint8, (size, size), white is dense.
        mask: bool, (size, size), the pneumothorax; all False in a negative.
        components: the annotation rows before they are OR-ed, each bool (size, size); they may overlap. Empty in a
            negative.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    components: list[NDArray[np.bool_]]


def draw_case(rng: np.random.Generator, size: int = 1024, positive: bool = True) -> SyntheticCase:
    """Draw a schematic chest film, with or without a pneumothorax.

    The same state of `rng` gives the same chest whether `positive` or not, and the same picture, but for its grain,
    at every `size`.

    Args:
        rng: Source of randomness; advanced by the same amount whatever the other arguments.
        size: Rows and columns of the film, 32 or more. The chest is painted at 512 and resampled.
        positive: Whether to let air between lung and chest wall.

    Raises:
        ValueError: If `size` is under 32.
    """
    check_size(size)
    seeds = rng.integers(2**63, size=2)
    return compose_case(draw_chest(np.random.default_rng(seeds[0])), int(seeds[1]), size, positive)


def check_size(size: int) -> None:
    """Raise ValueError unless films of this size can be drawn."""
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size}, expected {SMALLEST_SIZE} or more: a smaller film shows no chest")


def compose_case(chest: Chest, seed: int, size: int, positive: bool, rows: str | None = None) -> SyntheticCase:
    """Take a film of one patient; `rows`, if given, says how the mask is annotated (see `draw_rows`)."""
    # Separate streams, so that a pneumothorax leaves everything else on the film as it would be without.
    scene_rng, pocket_rng, grain_rng = (np.random.default_rng([seed, stream]) for stream in range(3))
    view = draw_view(scene_rng)
    polars = [lung.polar(*view.coordinates()) for lung in chest.lungs]
    depth = np.maximum(polars[0].depth, polars[1].depth)
    anatomy = paint_anatomy(scene_rng, chest, view, depth)
    density, thinning = paint_lung_changes(scene_rng, chest, view, depth)
    air, markings, levels = anatomy.air, anatomy.markings, []
    if positive:
        rows = rows or draw_rows(pocket_rng)
        pockets = draw_pockets(pocket_rng, polars, draw_area(pocket_rng), rows)
        air, markings = paint_pneumothorax(pocket_rng, anatomy, pockets)
        levels = [level for pocket in pockets for level in split_rows(pocket, rows)]
    density = density + anatomy.solid - air + markings * (1 - thinning) + paint_devices(scene_rng, view)
    components = [_to_mask(resize(level, size)) for level in levels]
    mask = np.any(components, axis=0) if components else np.zeros((size, size), bool)
    return SyntheticCase(_expose(scene_rng, grain_rng, density, size), mask, components)


def _to_mask(level: Field) -> NDArray[np.bool_]:
    """Where the level is above 0; on a film so small that it is nowhere, the pixel where it is highest."""
    return level > 0 if level.max() > 0 else level == level.max()


def _expose(rng: np.random.Generator, grain_rng: np.random.Generator, density: Field, size: int) -> NDArray[np.uint8]:
    """Density to grey levels: contrast, shading of the beam, collimator, marker, sharpness and grain."""
    brightness, contrast, bend = rng.uniform(-0.02, 0.1), rng.uniform(0.75, 1.05), rng.uniform(0.85, 1.25)
    axis = np.linspace(-1, 1, GRID, dtype=np.float32)
    tilt = rng.normal(0, 0.04, 2).astype(np.float32)
    shading = tilt[0] * axis[None, :] + tilt[1] * axis[:, None]
    tone = np.clip((density * (1 + shading) - 0.02) * contrast + brightness * step(density, 0.03, 0.15), 0, 1)
    film = np.maximum((tone**bend) * _collimator(rng, axis), 0.9 * paint_marker(rng))
    film = resize(ndimage.gaussian_filter(film, rng.uniform(0, 0.6)), size)
    return _add_grain(rng.uniform(2, 5), grain_rng, film)


def _collimator(rng: np.random.Generator, axis: Field) -> Field:
    """The shutters: in every third film they leave a black margin, a little askew."""
    if rng.random() > 0.35:
        return np.ones((GRID, GRID), np.float32)
    left, right, top, bottom = rng.uniform(0.88, 1.02, 4)
    skew = np.float32(rng.normal(0, 0.015))
    column, row = axis[None, :] + skew * axis[:, None], axis[:, None] - skew * axis[None, :]
    edges = step(column, -left - 0.01, -left) * step(column, right + 0.01, right)
    return edges * step(row, -top - 0.01, -top) * step(row, bottom + 0.01, bottom)


def _add_grain(sigma: float, rng: np.random.Generator, film: Field) -> NDArray[np.uint8]:
    """Noise of `sigma` grey levels at 1024, less where a smaller size averages it."""
    size = len(film)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    # Behind denser tissue fewer quanta arrive, so there the picture is grainier.
    scale = np.float32(sigma * np.sqrt(min(size, 1024) / 1024)) * np.sqrt(np.clip(film, 0.03, 1))
    return np.clip(np.rint(film * 255 + grain * scale), 0, 255).astype(np.uint8)
