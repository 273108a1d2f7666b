"""The image files of a data set: finding them, and choosing one per image id."""

import logging
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumoseg.dicom.recognition import is_directory, name_non_image
from pneumoseg.identifiers import has_image_suffix, image_id_of, is_hidden, is_utf8, printable
from pneumoseg.image_errors import DamagedError, ImageError
from pneumoseg.images import read_image
from pneumoseg.images.formats import HEAD_BYTES, name_other, recognize

_log = logging.getLogger(__name__)
STATE_COLUMNS = ("file_bytes", "file_modified")
"""Columns of a manifest for the result of `file_state`; a manifest made by hand may lack them."""
JOURNAL = ".progress.jsonl"
"""File that marks a folder of results, whose pictures are not X-rays."""
IN_RESULTS = "is in a folder of results"
"""Reason to skip the pictures in such a folder."""
UNLISTED = "cannot be listed"
"""Beginning of the reason to skip a folder that cannot be listed."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files that were found.

    Attributes:
        paths: Absolute paths, sorted. Links are not resolved, because their names may be the image ids (as with
            git-annex).
        skipped: Files and folders that were skipped, sorted, each with the reason, such as `is hidden`.
    """

    paths: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def unlisted(self) -> list[tuple[Path, str]]:
        """Skipped folders that cannot be listed, so that images in them may be missing."""
        return [(path, reason) for path, reason in self.skipped if reason.startswith(UNLISTED)]


def find_images(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> ImageFiles:
    """Find image files: those that are named, and those in folders, at any depth.

    A file in a folder is an image file if its content is that of a DICOM, PNG, JPEG or TIFF file, whatever its name.
    It is one too if it cannot be opened, or if its name ends like that of an image, such as `.dcm` or `.png`, but its
    content is not an image, so that a broken file is reported and not overlooked. All other files are skipped, and
    counted in the log: hidden files and folders, such as `._ID.dcm` and `__MACOSX` of macOS, folders that cannot be
    listed, directories of DICOM media (DICOMDIR), and other DICOM objects that are not images, such as reports. A file
    that is named itself is not skipped.

    Folders of results are skipped, because the pictures in them are not X-rays. They are recognized by their journal
    (`JOURNAL`), also if a link leads into them. A file in such a folder is skipped even if it is named itself.

    Links to folders are followed, and each real folder is visited once: by its own path if it lies under one of the
    folders, otherwise by the first link. No file is listed twice, even if the inputs overlap.

    Args:
        inputs: File or folder, or several of them.

    Returns:
        The image files, at least one, and those that were skipped.

    Raises:
        FileNotFoundError: If an input does not exist, or there is no image file.

    Warns:
        UserWarning: If folders cannot be listed.

    Example:
        >>> found = find_images(["ward/", "chest.png"])  # doctest: +SKIP
        >>> len(found.paths), found.skipped  # doctest: +SKIP
        (41, [(PosixPath('/data/ward/notes.txt'), 'is not an image')])
    """
    given = [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(each) for each in inputs]
    found = search_images(given)
    _report(found, given)
    return found


def search_images(inputs: Iterable[Path]) -> ImageFiles:
    """Find image files as `find_images` does, without naming any in the log; there may be none.

    Args:
        inputs: Files and folders.

    Returns:
        The image files, and those that were skipped.

    Raises:
        FileNotFoundError: If an input does not exist.

    Warns:
        UserWarning: If folders cannot be listed.
    """
    given = list(inputs)
    for path in given:
        if not os.path.lexists(path):
            raise FileNotFoundError(f"{printable(path)}: no such folder or file, expected images or a folder of images")
    folders = [absolute(path) for path in given if path.is_dir()]
    files = {_place(path): path for path in (absolute(path) for path in given if not path.is_dir())}
    paths = _outside_results(list(files.values()))
    skipped = [(path, IN_RESULTS) for path in set(files.values()).difference(paths)]
    for path, reason in _search(folders):
        if files and _place(path) in files:
            continue
        if reason:
            skipped.append((path, reason))
        else:
            paths.append(path)
    return ImageFiles(sorted(paths), sorted(skipped))


def choose_one_per_id(paths: Iterable[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Choose one file per image id: the first one that can be read, or the first one if none can be read.

    Args:
        paths: Image files.

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


def size_changed(row: Any, shape: tuple[int, int], pixel_aspect: float | None = None) -> DamagedError | None:
    """Return an error if the size of an image has changed since it was indexed, so that its mask does not fit.

    Args:
        row: Row of a manifest, as yielded by `itertuples`.
        shape: Current (H, W) of the image, in pixels.
        pixel_aspect: Current height of a pixel divided by its width; None not to compare it.
    """
    indexed = getattr(row, "pixel_aspect", 1.0)
    if shape != (row.rows, row.columns):
        reason = f"is {shape[0]} x {shape[1]} pixels and was {row.rows} x {row.columns} when it was indexed"
    elif pixel_aspect not in (None, indexed):
        reason = f"has pixels {pixel_aspect:g} times as high as wide, its row in the manifest says {indexed:g}"
    else:
        return None
    return DamagedError(row.path, reason, "Index the data set again")


def absolute(path: str | Path) -> Path:
    """Make a path absolute, resolving only the links before a `..`, which leads out of their target."""
    parts = Path(path).absolute().parts
    last = max((number for number, part in enumerate(parts) if part == ".."), default=-1)
    return Path(*parts[: last + 1]).resolve().joinpath(*parts[last + 1 :]) if last >= 0 else Path(*parts)


def _place(path: Path) -> Path:
    """Return a path with the links to its folder resolved, which is the same for a file found in two ways."""
    return Path(os.path.realpath(path.parent), path.name)


def _outside_results(paths: list[Path]) -> list[Path]:
    """Return the files that are in no folder of results, neither by their own path nor by the target of a link."""
    homes = {path: {path.parent, Path(os.path.realpath(path)).parent} for path in paths}
    results = {home for home in set[Path]().union(*homes.values()) if _is_in_results(home)}
    return [path for path in paths if results.isdisjoint(homes[path])]


def _is_in_results(folder: str | Path) -> bool:
    """Return whether a folder, or one that it lies in, is a folder of results."""
    real = Path(os.path.realpath(folder))
    return any(os.path.isfile(each / JOURNAL) for each in (real, *real.parents))


def _search(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each file below some folders and each folder to skip, with the reason to skip it; '' for an image."""
    for parent, names, skipped in _walk(folders):
        yield from skipped
        yield from ((Path(parent, name), _reason_to_skip(parent, name)) for name in names)


def reason_by_name(name: str) -> str:
    """Return why a file in a folder is skipped whatever it holds; '' if its content decides.

    Example:
        >>> reason_by_name("._chest.dcm"), reason_by_name("chest.dcm")
        ('is hidden', '')
    """
    if is_hidden(name):
        return "is hidden"
    return "is a DICOMDIR" if name.upper() == "DICOMDIR" else ""


def reason_by_head(name: str, head: bytes | None) -> str:
    """Return why a file in a folder is skipped; '' if it is an image.

    Args:
        name: Name of the file, without folders.
        head: Its first bytes, `HEAD_BYTES` or more if it has as many; None if it is a pipe, a socket or a device.

    Example:
        >>> reason_by_head("notes.txt", b"hello"), reason_by_head("chest.png", b"broken")
        ('is not an image', '')
    """
    kind = recognize(head or b"")
    if kind == "DICOM" and is_directory(head or b""):
        return "is a DICOMDIR"
    if kind == "DICOM" and (other := name_non_image(head or b"")):
        return f"is not an image ({other})"
    if kind or has_image_suffix(name):
        return ""
    if head is None:
        return "is not a regular file"
    other = name_other(head)
    return f"is a {other} file" if other else "is not an image"


def _reason_to_skip(folder: str, name: str) -> str:
    if reason := reason_by_name(name):
        return reason
    path = os.path.join(folder, name)
    if os.path.islink(path) and _is_in_results(os.path.dirname(os.path.realpath(path))):
        return IN_RESULTS
    try:
        return reason_by_head(name, _read_head(path))
    except OSError:  # a row with this error is better than an image that is overlooked
        return ""


def _read_head(path: str) -> bytes | None:
    """Return the first bytes of a file; None if it is a pipe, a socket or a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def _report(found: ImageFiles, given: list[Path]) -> None:
    """Log how many files were skipped; raise an error if nothing was found."""
    summary = ""
    if found.skipped:
        counts = Counter(reason for _, reason in found.skipped)
        reasons = ", ".join(f"{reason!r}: {count}" for reason, count in counts.most_common())
        first = printable(found.skipped[0][0])
        summary = f"{len(found.skipped)} files and folders skipped ({reasons}), the first: {first}"
        _log.info(summary)
    if not found.paths:
        where = ", ".join(map(printable, given)) or "no input"
        ending = f"; {summary}" if summary else ""
        raise FileNotFoundError(f"{where}: no DICOM, PNG, JPEG or TIFF file in it or below it{ending}")


def _walk(folders: list[Path]) -> Iterator[tuple[str, list[str], list[tuple[Path, str]]]]:
    """Yield each real folder once, with the names of its files and the folders to skip; targets of links come last.

    Warns about folders that cannot be listed.
    """
    visited: set[tuple[int, int]] = set()
    waiting, errors = list(map(str, folders)), list[OSError]()
    while waiting:
        start = waiting.pop(0)
        if _is_in_results(start):
            yield start, [], [(Path(start), IN_RESULTS)]
            continue
        for parent, inside, names in os.walk(start, onerror=errors.append):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in visited:
                inside.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            if JOURNAL in names:
                inside.clear()
                yield parent, [], [(Path(parent), IN_RESULTS)]
                continue
            hidden = [name for name in inside if is_hidden(name)]
            inside[:] = sorted(set(inside) - set(hidden))
            waiting += [path for name in inside if os.path.islink(path := os.path.join(parent, name))]
            yield parent, names, [(Path(parent, name), "is a hidden folder") for name in hidden]
    if errors:
        yield "", [], [(Path(error.filename), f"{UNLISTED} ({error.strerror})") for error in errors]
        first = printable(str(errors[0].filename))
        warnings.warn(f"{len(errors)} folders cannot be read, the first: {first} ({errors[0].strerror})", stacklevel=3)


def _is_readable(path: Path) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True
