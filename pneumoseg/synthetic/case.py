"""One synthetic radiograph: a chest, devices and lung changes, an optional pneumothorax, and the exposure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pneumoseg.synthetic.anatomy import paint_anatomy
from pneumoseg.synthetic.canvas import GRID, Field, resize, step
from pneumoseg.synthetic.chest import Chest, sample_chest, sample_view
from pneumoseg.synthetic.distractors import paint_devices, paint_lung_changes, paint_marker
from pneumoseg.synthetic.pneumothorax import (
    paint_pneumothorax,
    sample_annotation_style,
    sample_area,
    sample_pockets,
    split_annotation,
)

SMALLEST_SIZE = 32


@dataclass(frozen=True)
class SyntheticCase:
    """Synthetic chest radiograph and its ground truth.

    Attributes:
        image: Image, uint8, (size, size); dense tissue is white.
        mask: Pneumothorax, bool, (size, size); all False in a negative image.
        components: Annotation rows whose union is `mask`, each bool, (size, size). They may overlap. Empty in a
            negative image.

    Example:
        >>> case = generate_case(np.random.default_rng(0), size=64, positive=False)  # doctest: +SKIP
        >>> case.image.shape, case.mask.any(), case.components  # doctest: +SKIP
        ((64, 64), False, [])
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    components: list[NDArray[np.bool_]]


def generate_case(rng: np.random.Generator, size: int = 1024, positive: bool = True) -> SyntheticCase:
    """Generate a schematic chest radiograph, with or without a pneumothorax.

    The same state of `rng` gives the same chest whether `positive` or not, and the same image, except for its grain, at
    every `size`.

    Args:
        rng: Source of randomness. It advances by the same amount for all other arguments.
        size: Rows and columns of the image, 32 or more. The chest is painted at 512 and resampled.
        positive: Whether the image shows a pneumothorax.

    Returns:
        The image and its ground truth.

    Raises:
        ValueError: If `size` is below 32.

    Example:
        >>> case = generate_case(np.random.default_rng(0), size=64)  # doctest: +SKIP
        >>> case.image.dtype, case.mask.any()  # doctest: +SKIP
        (dtype('uint8'), True)
    """
    check_size(size)
    seeds = rng.integers(2**63, size=2)
    return render_case(sample_chest(np.random.default_rng(seeds[0])), int(seeds[1]), size, positive)


def check_size(size: int) -> None:
    """Raise ValueError unless images of this size can be generated."""
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size}, expected {SMALLEST_SIZE} or more: a smaller image shows no chest")


def render_case(chest: Chest, seed: int, size: int, positive: bool, style: str | None = None) -> SyntheticCase:
    """Generate an image of one patient.

    Args:
        chest: Geometry of the patient.
        seed: Seed of everything else in the image.
        size: Rows and columns of the image, 32 or more.
        positive: Whether the image shows a pneumothorax.
        style: Annotation style (see `sample_annotation_style`); sampled if None.

    Returns:
        The image and its ground truth.
    """
    # Separate random streams, so that a pneumothorax leaves everything else in the image unchanged.
    scene_rng, pocket_rng, grain_rng = (np.random.default_rng([seed, stream]) for stream in range(3))
    view = sample_view(scene_rng)
    polars = [lung.polar(*view.coordinates()) for lung in chest.lungs]
    depth = np.maximum(polars[0].depth, polars[1].depth)
    anatomy = paint_anatomy(scene_rng, chest, view, depth)
    density, thinning = paint_lung_changes(scene_rng, chest, view, depth)
    air, markings, level_sets = anatomy.air, anatomy.markings, []
    if positive:
        style = style or sample_annotation_style(pocket_rng)
        pockets = sample_pockets(pocket_rng, polars, sample_area(pocket_rng), style)
        air, markings = paint_pneumothorax(pocket_rng, anatomy, pockets)
        level_sets = [level_set for pocket in pockets for level_set in split_annotation(pocket, style)]
    density = density + anatomy.solid - air + markings * (1 - thinning) + paint_devices(scene_rng, view)
    components = [_to_mask(resize(level_set, size)) for level_set in level_sets]
    mask = np.any(components, axis=0) if components else np.zeros((size, size), bool)
    return SyntheticCase(_expose(scene_rng, grain_rng, density, size), mask, components)


def _to_mask(level_set: Field) -> NDArray[np.bool_]:
    """Return where a level set is positive, or its highest pixel if the image is so small that none is."""
    return level_set > 0 if level_set.max() > 0 else level_set == level_set.max()


def _expose(rng: np.random.Generator, grain_rng: np.random.Generator, density: Field, size: int) -> NDArray[np.uint8]:
    """Return grey levels of densities: contrast, shading of the beam, collimator, marker, sharpness and grain."""
    brightness, contrast, bend = rng.uniform(-0.02, 0.1), rng.uniform(0.75, 1.05), rng.uniform(0.85, 1.25)
    axis = np.linspace(-1, 1, GRID, dtype=np.float32)
    tilt = rng.normal(0, 0.04, 2).astype(np.float32)
    shading = tilt[0] * axis[None, :] + tilt[1] * axis[:, None]
    tone = np.clip((density * (1 + shading) - 0.02) * contrast + brightness * step(density, 0.03, 0.15), 0, 1)
    exposed = np.maximum((tone**bend) * _collimator(rng, axis), 0.9 * paint_marker(rng))
    exposed = resize(ndimage.gaussian_filter(exposed, rng.uniform(0, 0.6)), size)
    return _add_grain(rng.uniform(2, 5), grain_rng, exposed)


def _collimator(rng: np.random.Generator, axis: Field) -> Field:
    """Return the transmission of the collimator, which in a third of the images leaves a tilted black margin."""
    if rng.random() > 0.35:
        return np.ones((GRID, GRID), np.float32)
    left, right, top, bottom = rng.uniform(0.88, 1.02, 4)
    skew = np.float32(rng.normal(0, 0.015))
    column, row = axis[None, :] + skew * axis[:, None], axis[:, None] - skew * axis[None, :]
    edges = step(column, -left - 0.01, -left) * step(column, right + 0.01, right)
    return edges * step(row, -top - 0.01, -top) * step(row, bottom + 0.01, bottom)


def _add_grain(sigma: float, rng: np.random.Generator, exposed: Field) -> NDArray[np.uint8]:
    """Return an image with noise of `sigma` grey levels at size 1024, and less at smaller sizes, which average it."""
    size = len(exposed)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    # Fewer quanta arrive behind denser tissue, so the image is grainier there.
    scale = np.float32(sigma * np.sqrt(min(size, 1024) / 1024)) * np.sqrt(np.clip(exposed, 0.03, 1))
    return np.clip(np.rint(exposed * 255 + grain * scale), 0, 255).astype(np.uint8)
