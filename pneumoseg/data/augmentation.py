"""Random augmentation of training images (section 4.1.1), the only module that uses albumentations."""

import os
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any

import cv2
import numpy as np

# Read by the import, which would otherwise ask a server for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
from albumentations.augmentations.geometric.functional import get_camera_matrix_distortion_maps

ZOOM = (0.05, 0.10)  # section 4.1.1


class _OpticalDistortion(albumentations.OpticalDistortion):
    """The distortion of albumentations at less than half its cost.

    The source of each pixel is a linear function of the strength, whose coefficients are computed once per shape.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        strength = self.py_random.uniform(*self.distort_limit)
        unchanged, shifts = _distortion(*params["shape"][:2])
        x, y = (cv2.scaleAdd(shift, strength, source) for source, shift in zip(unchanged, shifts, strict=True))
        return {"map_x": x, "map_y": y}

    def apply(self, img: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, **params: Any) -> np.ndarray:
        return np.reshape(cv2.remap(img, map_x, map_y, cv2.INTER_LINEAR), img.shape)

    def apply_to_mask(self, mask: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, **params: Any) -> np.ndarray:
        return np.reshape(cv2.remap(mask, map_x, map_y, cv2.INTER_NEAREST), mask.shape)


@lru_cache(maxsize=2)  # 16 MiB for an image of 1024 x 1024
def _distortion(rows: int, columns: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the sources of the pixels at strength 0, and how far strength 1 shifts them; x and y, float32 (H, W)."""
    unchanged, full = (get_camera_matrix_distortion_maps((rows, columns), strength) for strength in (0, 1))
    return list(unchanged), [shifted - source for shifted, source in zip(full, unchanged, strict=True)]


class _Zoom(albumentations.Affine):
    """The scaling of albumentations at a third of its cost, with the size rounded to whole pixels."""

    def apply(self, img: np.ndarray, scale: dict[str, float], **params: Any) -> np.ndarray:
        return _zoomed(img, scale["x"], cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, scale: dict[str, float], **params: Any) -> np.ndarray:
        return _zoomed(mask, scale["x"], cv2.INTER_NEAREST_EXACT)


def _zoomed(image: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    rows, columns = image.shape[:2]
    smaller = min(scale, 1 / scale)
    height, width = max(1, round(smaller * rows)), max(1, round(smaller * columns))
    top, left = (rows - height) // 2, (columns - width) // 2
    middle = slice(top, top + height), slice(left, left + width)
    if scale > 1:
        return np.reshape(cv2.resize(image[middle], (columns, rows), interpolation=interpolation), image.shape)
    zoomed = np.zeros_like(image)
    reduced = cv2.resize(image, (width, height), interpolation=interpolation)
    zoomed[middle] = np.reshape(reduced, (height, width, *image.shape[2:]))
    return zoomed


# Functions of the probability, the zoom, and the image side as a fraction of 1024 pixels.
_MAKERS: dict[str, Callable[[float, tuple[float, float], float], albumentations.BasicTransform]] = {
    # The four of the paper. It does not state the strength of the first two, so we chose it.
    "clahe": lambda p, zoom, fraction: albumentations.CLAHE(clip_limit=(1, 4), tile_grid_size=(8, 8), p=p),
    "optical_distortion": lambda p, zoom, fraction: _OpticalDistortion(distort_limit=0.3, p=p),
    "zoom_in": lambda p, zoom, fraction: _zoom(1 + zoom[0], 1 + zoom[1], p),
    "zoom_out": lambda p, zoom, fraction: _zoom(1 - zoom[1], 1 - zoom[0], p),
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
    - "zoom_in", "zoom_out": enlargement or reduction about the centre. The change of size is uniform in `zoom`, up to
      rounding to whole pixels.
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


def _zoom(smallest: float, largest: float, probability: float) -> albumentations.Affine:
    # Without keep_ratio, height and width would be scaled by different factors.
    return _Zoom(scale=(smallest, largest), keep_ratio=True, p=probability)


def _elastic(smoothness: float, shift: float, probability: float) -> albumentations.ElasticTransform:
    # Smoothing white noise with a standard deviation of sigma pixels divides it by about sigma.
    return albumentations.ElasticTransform(alpha=shift * smoothness, sigma=smoothness, p=probability)
