"""The DICOM files of a data set: finding them, and choosing one per image id."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pneumoseg.identifiers import image_id_of, is_hidden, is_utf8, printable
from pneumoseg.image_errors import DamagedError, ImageError
from pneumoseg.images import read_image

_log = logging.getLogger(__name__)
STATE_COLUMNS = ("file_bytes", "file_modified")
"""Columns of a manifest for the result of `file_state`; a manifest made by hand may lack them."""


def find_dicoms(folder: str | Path) -> list[Path]:
    """List all `.dcm` files under a folder, at any depth, sorted by path.

    Links to folders are followed, and each real folder is visited once: by its own path if it lies under `folder`,
    otherwise by the first link. Hidden files and folders, such as `._ID.dcm` and `__MACOSX` of macOS, are skipped, and
    their number is logged.

    Args:
        folder: Folder to search.

    Returns:
        Absolute paths. Links are not resolved, because their names may be the image ids (as with git-annex).

    Raises:
        FileNotFoundError: If the folder does not exist or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{printable(folder)}: no such folder, expected one with .dcm files")
    paths: list[Path] = []
    skipped: list[Path] = []
    for parent, names, hidden in _walk(absolute(folder)):
        dicoms = [Path(parent, name) for name in names if name.lower().endswith(".dcm")]
        paths += [path for path in dicoms if not is_hidden(path.name)]
        skipped += [path for path in dicoms if is_hidden(path.name)] + [Path(parent, name) for name in hidden]
    if skipped:
        _log.info(f"{len(skipped)} hidden files and folders skipped, the first: {printable(min(skipped))}")
    if not paths:
        raise FileNotFoundError(f"{printable(folder)}: no .dcm file in it or below it")
    return sorted(paths)


def choose_one_per_id(paths: Iterable[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Choose one file per image id: the first one that can be read, or the first one if none can be read.

    Args:
        paths: DICOM files.

    Returns:
        The chosen files, in the order of `paths`. For every other file, its id and a sentence with its name and the
        reason. Files with a name that is not UTF-8 are not chosen either, because no table could hold their ids.
    """
    by_id: dict[str, list[Path]] = {}
    for path in paths:
        by_id.setdefault(image_id_of(path), []).append(path)
    chosen, left_out = [], []
    for image_id, several in by_id.items():
        if not is_utf8(image_id):
            left_out += [
                (printable(image_id), f"{printable(path)}: its name is not UTF-8, rename it") for path in several
            ]
            continue
        kept = several[0] if len(several) == 1 else next(filter(_is_readable, several), several[0])
        chosen.append(kept)
        others = [path for path in several if path != kept]
        left_out += [(image_id, f"{printable(path)}: same name as {printable(kept)}") for path in others]
    return chosen, left_out


def file_state(path: str | Path) -> tuple[int, int]:
    """Return the size of a file, in bytes, and its modification time, in nanoseconds since 1970.

    Together they tell whether a file was changed.

    Raises:
        ImageError: If there is no such file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError(str(path), f"cannot be opened ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


def size_changed(row: Any, shape: tuple[int, int]) -> DamagedError | None:
    """Return an error if the size of an image has changed since it was indexed, so that its mask does not fit.

    Args:
        row: Row of a manifest, as yielded by `itertuples`.
        shape: Current (H, W) of the image, in pixels.
    """
    if shape == (row.rows, row.columns):
        return None
    reason = f"is {shape[0]} x {shape[1]} pixels and was {row.rows} x {row.columns} when it was indexed"
    return DamagedError(row.path, reason, "Index the data set again")


def absolute(path: str | Path) -> Path:
    """Make a path absolute, resolving only the links before a `..`, which leads out of their target."""
    parts = Path(path).absolute().parts
    last = max((number for number, part in enumerate(parts) if part == ".."), default=-1)
    return Path(*parts[: last + 1]).resolve().joinpath(*parts[last + 1 :]) if last >= 0 else Path(*parts)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each real folder once, with the names of its files and of its hidden folders; targets of links come last.

    Warns about folders that cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    waiting, errors = [str(folder)], list[OSError]()
    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=errors.append):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            hidden = [name for name in folders if is_hidden(name)]
            folders[:] = sorted(set(folders) - set(hidden))
            waiting += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
            yield parent, names, hidden
    if errors:
        first = printable(str(errors[0].filename))
        warnings.warn(f"{len(errors)} folders cannot be read, the first: {first} ({errors[0].strerror})", stacklevel=3)


def _is_readable(path: Path) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True
