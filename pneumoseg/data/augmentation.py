"""Random augmentation of training images (section 4.1.1), the only module that uses albumentations."""

import os
import random
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import numpy as np

# Read by the import, which would otherwise ask a server for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations

ZOOM = (0.05, 0.10)  # section 4.1.1
# Functions of the probability, the zoom, and the image side as a fraction of 1024 pixels.
_MAKERS: dict[str, Callable[[float, tuple[float, float], float], albumentations.BasicTransform]] = {
    # The four of the paper. It does not state the strength of the first two, so we chose it.
    "clahe": lambda p, zoom, fraction: albumentations.CLAHE(clip_limit=(1, 4), tile_grid_size=(8, 8), p=p),
    "optical_distortion": lambda p, zoom, fraction: albumentations.OpticalDistortion(distort_limit=0.3, p=p),
    "zoom_in": lambda p, zoom, fraction: _affine(1 + zoom[0], 1 + zoom[1], p),
    "zoom_out": lambda p, zoom, fraction: _affine(1 - zoom[1], 1 - zoom[0], p),
    # Those of the first place (section 4.2); we chose the strength.
    "elastic_transform": lambda p, zoom, fraction: _elastic(max(1.0, 6 * fraction), 20 * fraction, p),
    "grid_distortion": lambda p, zoom, fraction: albumentations.GridDistortion(distort_limit=0.3, p=p),
}
TRANSFORMS = tuple(_MAKERS)


class Augmentation:
    """Random changes of images and their masks: transforms in a fixed order, each with the same probability.

    - "clahe": contrast limited adaptive histogram equalization with clip limit 1 to 4 and 8 x 8 tiles. Masks do not
      change.
    - "optical_distortion": barrel or pincushion distortion, as by a lens.
    - "zoom_in", "zoom_out": enlargement or reduction about the centre. The change of size is uniform in `zoom`.
    - "elastic_transform" (Simard et al. 2003), "grid_distortion": local shifts.

    Pixels that come from outside the image are 0. Masks are resampled by nearest neighbour. The same seed gives the
    same change in every thread.

    Args:
        transforms: Names of transforms from `TRANSFORMS`, in the order in which they are applied.
        probability: Probability of each transform, in (0, 1].
        zoom: Smallest and largest change of size, as fractions of the side, from 0 to below 1.

    Raises:
        ValueError: If a transform is unknown or a number is out of range.

    Example:
        >>> image = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
        >>> augment = Augmentation(["zoom_in"], probability=1)
        >>> changed = augment(image, image > 31, seed=0)
        >>> changed["image"].shape, changed["mask"].dtype
        ((64, 64), dtype('bool'))
    """

    def __init__(self, transforms: Sequence[str], probability: float = 0.5, zoom: Sequence[float] = ZOOM) -> None:
        if not transforms or not set(transforms) <= set(TRANSFORMS):
            raise ValueError(f"transforms={list(transforms)}: expected some of {', '.join(TRANSFORMS)}")
        if not 0 < probability <= 1:
            raise ValueError(f"probability={probability}: expected above 0 and at most 1")
        if len(zoom) != 2 or not 0 <= zoom[0] <= zoom[1] < 1:
            raise ValueError(f"zoom={list(zoom)}: expected the smallest and the largest change, from 0 to below 1")
        self.transforms, self.probability, self.zoom = tuple(transforms), probability, (zoom[0], zoom[1])
        # A Compose stores its random state, so two calls must not use the same one at the same time. A Compose per
        # thread does not help, because Python sees each call from tf.data as a new thread.
        self._idle: dict[int, SimpleQueue[albumentations.Compose]] = {}

    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None, *, seed: int) -> dict[str, np.ndarray]:
        """Apply the transforms to an image and to its mask.

        Args:
            image: uint8, (H, W) or (H, W, 1).
            mask: uint8 or bool, of the same height and width, or None.
            seed: Seed of the random choices, 0 or more.

        Returns:
            The changed `image`, and the changed `mask` if there is one, each with the same shape and dtype as before.
        """
        side = max(image.shape[:2])
        idle = self._idle.setdefault(side, SimpleQueue())
        try:
            compose = idle.get_nowait()
        except Empty:
            transforms = [_MAKERS[name](self.probability, self.zoom, side / 1024) for name in self.transforms]
            compose = albumentations.Compose(transforms)
        # `set_random_seed` would give every transform the same random numbers, so all would be applied or none.
        compose.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
        targets = {"image": image} if mask is None else {"image": image, "mask": mask.astype(np.uint8)}
        changed = compose(**targets)
        idle.put(compose)
        return changed if mask is None else changed | {"mask": changed["mask"].astype(mask.dtype)}


def _affine(smallest: float, largest: float, probability: float) -> albumentations.Affine:
    # Without keep_ratio, height and width would be scaled by different factors.
    return albumentations.Affine(scale=(smallest, largest), keep_ratio=True, p=probability)


def _elastic(smoothness: float, shift: float, probability: float) -> albumentations.ElasticTransform:
    # Smoothing white noise with a standard deviation of sigma pixels divides it by about sigma.
    return albumentations.ElasticTransform(alpha=shift * smoothness, sigma=smoothness, p=probability)
