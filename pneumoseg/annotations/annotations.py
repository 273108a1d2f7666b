"""Annotations of a data set, whatever their format."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumoseg.identifiers import is_hidden

PNEUMOTHORAX = "pneumothorax"
"""Default category of the formats that may hold several."""


class Stray(NamedTuple):
    """An annotation that belongs to no image: the id and the file that it names, '' if none, and the reason."""

    image_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Unusable:
    """An annotation of an image that gives neither a mask nor a label, with the reason."""

    reason: str


@dataclass(frozen=True)
class Found:
    """The annotations of some images, before any pixel is read.

    Attributes:
        entries: For each image id or SOP Instance UID whatever the format needs to make the mask or the label.
        files: Files that hold these annotations, with links resolved, so that they are not taken for images in the same
            folder.
        strays: Annotations that cannot be assigned to an image, however it is named.
    """

    entries: Mapping[str, Any]
    files: frozenset[Path] = frozenset()
    strays: list[Stray] = field(default_factory=list)


class Annotations(ABC):
    """Annotations of a data set: for each image a mask, made when it is asked for, or a label alone.

    Attributes:
        path: File or folder that they were read from.
        format: Name of the format, one of `FORMATS`.
        absence: Reason for leaving out an image that has no annotation.

    Example:
        >>> annotations = read_annotations("masks")  # doctest: +SKIP
        >>> manifest = index_dataset("images", annotations)  # doctest: +SKIP
    """

    format: ClassVar[str]
    absence: ClassVar[str] = "no annotation"

    def __init__(self, path: str | os.PathLike[str], found: Found | None = None) -> None:
        """Keep the annotations.

        Args:
            path: File or folder that they were read from.
            found: All annotations, for formats that name images by id.
        """
        self.path = Path(path)
        self._found = found or Found({})

    def find(self, image_ids: Collection[str], images: Collection[Path] = ()) -> Found:
        """Return the annotations of a data set.

        Args:
            image_ids: Ids of all images of the data set, see `identifiers.image_id_of`.
            images: Their files, with links resolved, some of which may be annotations; for formats whose annotations
                look like images.

        Returns:
            The annotations, also those of images that are not in the data set.
        """
        return self._found

    def read(self, entry: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | bool:
        """Return the mask of an image, or a label alone.

        Args:
            entry: Entry of `Found.entries`.
            shape: (H, W) of the image, in pixels.

        Returns:
            The mask, bool, (H, W); or, if only a label is known, whether the image shows a pneumothorax.

        Raises:
            ValueError: If the annotation is malformed, or the mask has another size than the image.
        """
        if isinstance(entry, Unusable):
            raise ValueError(entry.reason)
        return self._read(entry, shape)

    @abstractmethod
    def _read(self, entry: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | bool: ...

    def negative(self, shape: tuple[int, int]) -> NDArray[np.bool_] | bool:
        """Return the annotation of an image without a pneumothorax: an empty mask, or False if only labels are known.

        Args:
            shape: (H, W) of the image, in pixels.
        """
        return np.zeros(shape, bool)

    def place(self, entry: Any) -> str:
        """Return the file that holds an annotation, '' if it is one for all images."""
        return ""

    def hint(self) -> str:
        """Return advice for the case that no annotation belongs to an image, '' if there is none."""
        return ""

    def doubts(self, seen: Iterable[tuple[Any, tuple[int, int]]]) -> list[str]:
        """Return sentences about masks that look wrong.

        Args:
            seen: Entry, none of them `Unusable`, and (H, W) of each annotated image that was read, be its mask
                malformed or not.
        """
        return []


def files_below(folder: Path) -> list[Path]:
    """List the files in a folder, at any depth, sorted by path.

    Hidden files and folders are skipped. Links to folders are followed, and each real folder is listed once.
    """
    paths: list[Path] = []
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        paths += [Path(parent, name) for name in names if not is_hidden(name)]
    return sorted(paths)


def examples(names: Iterable[str], most: int = 5) -> str:
    """Return some names for a message, in order, and the number of the others.

    Example:
        >>> examples("cab", 2)
        "'a', 'b' and 1 more"
    """
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(map(repr, ordered[:most])) + more
