"""Choice of the images that an export is calibrated and compared on."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pneumoseg.inference.comparison import ComparedImages, generate_images
from pneumoseg.inference.pipeline import Source

_log = logging.getLogger(__name__)
_MOST = 300
# Larger than the networks of the paper's segmenter; generated chests are painted at this size.
_GENERATED_SIZE = 512
_SEED_OF_CALIBRATION = 1


class ExportImages(NamedTuple):
    """Images for an export.

    Attributes:
        calibration: Images that show the ranges of the activations; empty if none are needed.
        calibrated_on: Their origin in words.
        compared: Images to compare the export with Keras on.
    """

    calibration: Sequence[Source]
    calibrated_on: str
    compared: ComparedImages


def choose_images(
    size: int, *, calibrated: bool, calibration: pd.DataFrame | None, images: pd.DataFrame | None
) -> ExportImages:
    """Choose the images to calibrate and to compare on, and log which ones they are.

    At most 300 images are used to calibrate, chosen evenly from the manifest, half of them positive if there are
    enough. Without `images`, half of the manifest is left for the comparison, which gets at most 300 of them.

    Args:
        size: Largest image size of the networks, in pixels.
        calibrated: Whether the precision needs calibration images.
        calibration: Manifest of images to choose from; None for generated ones.
        images: Manifest of the images to compare on, all of them; None to choose them.

    Raises:
        ValueError: If no file of a manifest exists.
    """
    named = None if images is None else ComparedImages.of(images, f"{len(images)} images of --images")
    size = max(size, _GENERATED_SIZE)
    if not calibrated:
        return ExportImages((), "", named or generate_images(size))
    if calibration is None:
        generated = generate_images(size, seed=_SEED_OF_CALIBRATION)
        _log.warning(
            f"CALIBRATED ON {generated.origin.upper()}: name real images with --calibrate before the export is used on "
            "real ones"
        )
        return ExportImages(generated.sources, generated.origin, named or generate_images(size))
    present = _present(calibration)
    # Every second image of each kind is left for the comparison.
    left = (present.groupby("has_pneumothorax").cumcount() % 2 == 1) & (named is None)
    chosen, others = choose_evenly(present[~left], _MOST), choose_evenly(present[left], _MOST)
    origin = f"{len(chosen)} images of --calibrate, {chosen['has_pneumothorax'].sum()} positive"
    _log.info(f"calibrated on {origin}")
    if len(others):
        named = ComparedImages.of(others, f"{len(others)} other images of --calibrate")
    return ExportImages(chosen["path"].tolist(), origin, named or generate_images(size))


def choose_evenly(manifest: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return some rows of a manifest at even distances, half of them positive if there are enough.

    Args:
        manifest: One row per image, see `index_dataset`.
        count: Largest number of rows.

    Example:
        >>> table = pd.DataFrame({"has_pneumothorax": [False] * 8 + [True] * 2})
        >>> choose_evenly(table, 4).index.tolist()
        [0, 7, 8, 9]
    """
    positive = manifest["has_pneumothorax"].to_numpy()
    kinds = np.flatnonzero(positive), np.flatnonzero(~positive)
    positives = min(len(kinds[0]), max(count // 2, count - len(kinds[1])))
    counts = positives, min(len(kinds[1]), count - positives)
    places = [
        kind[np.linspace(0, len(kind) - 1, number).astype(int)] for kind, number in zip(kinds, counts, strict=True)
    ]
    return manifest.iloc[np.sort(np.concatenate(places))]


def _present(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose files exist, and log how many do not."""
    exists = np.array([Path(path).is_file() for path in manifest["path"]], bool)
    if not exists.any():
        raise ValueError(f"none of the {len(manifest)} images of the manifest for calibration exists: index them again")
    if not exists.all():
        first = manifest["path"].to_numpy()[~exists][0]
        _log.warning(f"{(~exists).sum()} of {len(manifest)} images to calibrate on do not exist, the first: {first}")
    return manifest[exists]
