"""Pictures of a result: its mask, the outline over the image, and the probability map, as PNG files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pneumoseg.atomic_write import atomic_write
from pneumoseg.decision import quantize
from pneumoseg.geometry import unletterbox
from pneumoseg.identifiers import is_hidden
from pneumoseg.image_errors import DamagedError
from pneumoseg.images import read_image
from pneumoseg.inference import Result
from pneumoseg.overlay import draw_over

KINDS = MASKS, OVERLAYS, PROBABILITIES = "masks", "overlays", "probabilities"
"""Folders of the pictures."""


@dataclass(frozen=True)
class Pictures:
    """The pictures that a folder of results holds for each image.

    Attributes:
        folder: Folder of the results.
        overlays: Whether it holds images with the outlines of their masks.
        probabilities: Whether it holds probability maps.
    """

    folder: Path
    overlays: bool = False
    probabilities: bool = False

    def paths(self, image_id: str) -> list[Path]:
        """Return the files of one image."""
        kinds = [MASKS, *([OVERLAYS] if self.overlays else []), *([PROBABILITIES] if self.probabilities else [])]
        return [self._path(kind, image_id) for kind in kinds]

    def write(self, image_id: str, result: Result) -> None:
        """Write the pictures of a result, on the image's own grid.

        Args:
            image_id: Name of the files, without suffix.
            result: Result without an error, with its path as source; with a map if probabilities are wanted.

        Raises:
            ImageError: If the image cannot be read any more, or is another one by now.
        """
        overlay = self._overlay(result) if self.overlays else None  # first, because it may fail
        _save(self._path(MASKS, image_id), result.mask.astype(np.uint8) * 255)
        if overlay is not None:
            _save(self._path(OVERLAYS, image_id), overlay)
        if self.probabilities:
            _save(self._path(PROBABILITIES, image_id), _probabilities(result))

    def remove(self, image_id: str) -> None:
        """Remove the pictures of an image that cannot be read any more."""
        for path in self.paths(image_id):
            path.unlink(missing_ok=True)

    def remove_others(self, image_ids: Iterable[str]) -> None:
        """Remove the pictures of all other images, such as a run left that was stopped.

        Args:
            image_ids: The images that have pictures.
        """
        kept = {path for image_id in image_ids for path in self.paths(image_id)}
        found = {path for folder in {path.parent for path in self.paths("")} for path in folder.glob("*.png")}
        others = [path for path in found - kept if path.is_file() and not is_hidden(path.name)]
        # A file system may return names in another case or Unicode form than they were written in.
        files = {_file_number(path) for path in kept} if others else set()
        for path in others:
            if _file_number(path) not in files:
                path.unlink()

    def _path(self, kind: str, image_id: str) -> Path:
        return self.folder / kind / f"{image_id}.png"

    def _overlay(self, result: Result) -> np.ndarray:
        image = read_image(str(result.source))
        if image.shape != result.shape:
            raise DamagedError(str(result.source), "was replaced while it was read", "Run the command again")
        return draw_over(image, result.mask)


def _file_number(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _probabilities(result: Result) -> np.ndarray:
    if result.prob_map is None:
        raise ValueError("expected a result with a probability map: call predict_many with keep_maps=True")
    return np.round(unletterbox(quantize(result.prob_map), *result.shape, result.pixel_aspect)).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        # A third of the time of the default level, which would take longer than the networks; 20% more bytes.
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)
