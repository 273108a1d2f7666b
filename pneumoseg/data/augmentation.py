"""Random changes of training images (section 4.1.1); the one module that knows albumentations."""

import os
import random
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import numpy as np

# Read at the import, which would otherwise ask a server for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations

ZOOM = (0.05, 0.10)  # section 4.1.1
# From the probability, the zoom, and the image's side as a share of 1024 pixels.
_MAKERS: dict[str, Callable[[float, tuple[float, float], float], albumentations.BasicTransform]] = {
    # The paper's four. It does not tell the strength of the first two, which is chosen.
    "clahe": lambda p, zoom, share: albumentations.CLAHE(clip_limit=(1, 4), tile_grid_size=(8, 8), p=p),
    "optical_distortion": lambda p, zoom, share: albumentations.OpticalDistortion(distort_limit=0.3, p=p),
    "zoom_in": lambda p, zoom, share: _affine(1 + zoom[0], 1 + zoom[1], p),
    "zoom_out": lambda p, zoom, share: _affine(1 - zoom[1], 1 - zoom[0], p),
    # The first place's (section 4.2); the strength is chosen.
    "elastic_transform": lambda p, zoom, share: _elastic(max(1.0, 6 * share), 20 * share, p),
    "grid_distortion": lambda p, zoom, share: albumentations.GridDistortion(distort_limit=0.3, p=p),
}
TRANSFORMS = tuple(_MAKERS)


class Augmentation:
    """Change images, and masks with them, by transforms in a fixed order, each with the same probability.

    - "clahe": contrast limited adaptive histogram equalization, clip limit 1 to 4, 8 x 8 tiles. Masks stay.
    - "optical_distortion": barrel or pincushion distortion of a lens.
    - "zoom_in", "zoom_out": larger or smaller about the centre by a factor uniform in `zoom`; what a smaller image
      leaves uncovered is 0, as is what lies outside a distorted one.
    - "elastic_transform" (Simard et al. 2003), "grid_distortion": local shifts.

    Masks are resampled by nearest neighbour. The same seed gives the same change, in whatever thread.

    Args:
        transforms: Names from `TRANSFORMS`.
        probability: Of each, in (0, 1].
        zoom: Least and greatest change of size.

    Raises:
        ValueError: An unknown transform, or numbers out of range.
    """

    def __init__(self, transforms: Sequence[str], probability: float = 0.5, zoom: Sequence[float] = ZOOM) -> None:
        if not transforms or not set(transforms) <= set(TRANSFORMS):
            raise ValueError(f"transforms={list(transforms)}: expected some of {', '.join(TRANSFORMS)}.")
        if not 0 < probability <= 1:
            raise ValueError(f"probability={probability}: expected above 0 and at most 1.")
        if len(zoom) != 2 or not 0 <= zoom[0] <= zoom[1] < 1:
            raise ValueError(f"zoom={list(zoom)}: expected the least and the greatest change, from 0 to below 1.")
        self.transforms, self.probability, self.zoom = tuple(transforms), probability, (zoom[0], zoom[1])
        # A Compose keeps its random state in itself, so that no two calls may use one at the same time. A thread cannot
        # keep one of its own: to Python each call from tf.data is a new thread.
        self._idle: dict[int, SimpleQueue[albumentations.Compose]] = {}

    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None, *, seed: int) -> dict[str, np.ndarray]:
        """Change an image, and its mask likewise.

        Args:
            image: uint8, (H, W) or (H, W, 1).
            mask: Of the same height and width, uint8 or bool, or None.
            seed: 0 or more.

        Returns:
            `image`, and `mask` if there is one, of the same shape and dtype.
        """
        side = max(image.shape[:2])
        idle = self._idle.setdefault(side, SimpleQueue())
        try:
            compose = idle.get_nowait()
        except Empty:
            transforms = [_MAKERS[name](self.probability, self.zoom, side / 1024) for name in self.transforms]
            compose = albumentations.Compose(transforms)
        # Its set_random_seed would give every transform the same random numbers: all would be applied, or none.
        compose.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
        targets = {"image": image} if mask is None else {"image": image, "mask": mask.astype(np.uint8)}
        changed = compose(**targets)
        idle.put(compose)
        return changed if mask is None else changed | {"mask": changed["mask"].astype(mask.dtype)}


def _affine(smallest: float, largest: float, probability: float) -> albumentations.Affine:
    # Without keep_ratio height and width would be scaled by different factors.
    return albumentations.Affine(scale=(smallest, largest), keep_ratio=True, p=probability)


def _elastic(smoothness: float, shift: float, probability: float) -> albumentations.ElasticTransform:
    # Smoothing white noise over sigma pixels divides it by about as much.
    return albumentations.ElasticTransform(alpha=shift * smoothness, sigma=smoothness, p=probability)
