"""Images to predict, on disks and behind URLs, listed in memory that grows by little more than their paths."""

import hashlib
import logging
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pneumoseg.data.files import IN_RESULTS, JOURNAL, UNLISTED, reason_by_head, reason_by_name, search_images
from pneumoseg.identifiers import is_hidden, is_utf8, printable
from pneumoseg.images.formats import HEAD_BYTES
from pneumoseg.remote_files import errors_of, is_remote, open_file_system

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_log = logging.getLogger(__name__)
_HEADS_AT_ONCE = 512
# What file systems call the version of a file, or the time when it was written.
_VERSIONS = ("ETag", "etag", "md5Hash", "md5", "LastModified", "mtime", "updated", "created")
_Entry = dict[str, Any]  # what a file system tells about a file or folder
_Found = tuple[str, int, str]  # path or URL, state, reason to skip it ('' for an image)


@dataclass(frozen=True)
class Listing:
    """Images that were found.

    Attributes:
        images: One row per image, in the order of `sort_by_path`: `path`, str; `state`, int64, which is another one
            after the file was changed.
        unnamed: Local files whose names are not UTF-8, which no table can hold.
        skipped: Number of other files and folders in the folders.
        unlisted: Whether any folder could not be listed, so that images in it may be missing.
    """

    images: pa.Table
    unnamed: Sequence[Path]
    skipped: int
    unlisted: bool


def list_images(inputs: Iterable[str], *, known: Container[str] = frozenset(), own: str = "") -> Listing:
    """List images by the rules of `data.files.find_images`, in local and in remote folders.

    The first bytes of each file decide whether it is an image, so each remote file in a folder costs a small request,
    of which many are made at the same time. A remote file that is named itself, or by a glob, costs none.

    Args:
        inputs: Files and folders, local or remote, and globs of remote ones.
        known: URLs that are known to be images, whose first bytes are not read again.
        own: Folder of the results, whose files are not counted as skipped.

    Raises:
        FileNotFoundError: If an input does not exist, or none is an image.

    Example:
        >>> list_images(["s3://hospital/2023", "/data/chest.png"]).images.num_rows  # doctest: +SKIP
        1201
    """
    given = list(inputs)
    paths, states, unnamed, skipped, unlisted = list[str](), list[int](), list[Path](), 0, False
    for path, state, reason in _search(given, known):
        if reason:
            skipped += not _is_below(path, own)
            unlisted |= reason.startswith(UNLISTED)
        elif is_utf8(path):
            paths.append(path)
            states.append(state)
        else:
            unnamed.append(Path(path))
    if not paths and not unnamed:
        where = ", ".join(map(printable, given))
        raise FileNotFoundError(f"{where}: no DICOM, PNG, JPEG or TIFF file in it or below it; {skipped} files skipped")
    images = pa.table({"path": pa.array(paths, pa.large_string()), "state": pa.array(states, pa.int64())})
    if skipped:
        _log.info(f"{skipped} files and folders skipped: not images, or hidden")
    return Listing(_without_doubles(images), unnamed, skipped, unlisted)


def sort_by_path(table: pa.Table) -> pa.Table:
    """Return the rows of a table in the order in which a run of one process has them: folder by folder."""
    keys = pc.replace_substring(table["path"], "/", "\0")
    return table.take(pc.sort_indices(keys))


def _search(given: Sequence[str], known: Container[str]) -> Iterator[_Found]:
    local = [Path(place) for place in given if not is_remote(place)]
    found = search_images(local)
    yield from ((str(path), _local_state(path), "") for path in found.paths)
    yield from ((str(path), 0, reason) for path, reason in found.skipped)
    del found
    for place in filter(is_remote, given):
        yield from _search_remote(place, known)


def _search_remote(url: str, known: Container[str]) -> Iterator[_Found]:
    """Yield the files at a URL: of a file, a folder or a glob."""
    system, path = open_file_system(url)
    try:
        with errors_of(url):
            if _has_magic(path) and not system.exists(path):
                places = _expand(system, path)
            else:
                places = {path: system.info(path)}
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{url}: cannot be listed ({error}): check its name and your credentials") from error
    if not places:
        raise FileNotFoundError(f"{url}: no such file or folder, expected images or a folder of images")
    for place, information in places.items():
        if information["type"] == "directory":
            yield from _judge(system, _walk(system, place), known)
        else:
            yield _url(system, place), _remote_state(information), ""


def _expand(system: "AbstractFileSystem", pattern: str) -> dict[str, _Entry]:
    """Return what a glob stands for; as in a shell, no hidden names that it does not spell."""
    spelled, found = set(pattern.split("/")), system.glob(pattern, detail=True)
    return {path: found[path] for path in found if not any(map(is_hidden, set(path.split("/")) - spelled))}


def _walk(system: "AbstractFileSystem", start: str) -> Iterator[tuple[str, _Entry, str]]:
    """Yield the name and the entry of each file below a remote folder, a folder at a time, and the reason to skip it.

    An object store can hold a file and a folder of the same name.
    """
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        try:
            with errors_of(_url(system, folder)):
                entries = system.ls(folder, detail=True)
        except OSError as error:
            yield "", {"name": folder}, f"{UNLISTED} ({error})"
            continue
        named = [(entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in entries]
        if any(name == JOURNAL for name, _ in named):
            yield "", {"name": folder}, IN_RESULTS
            continue
        for name, entry in sorted(named, key=itemgetter(0), reverse=True):
            if entry["type"] != "directory":
                if name:
                    yield name, entry, reason_by_name(name)
            elif is_hidden(name):
                yield name, entry, "is a hidden folder"
            elif name and entry["name"].rstrip("/") != folder.rstrip("/"):
                waiting.append(entry["name"])


def _judge(
    system: "AbstractFileSystem", found: Iterable[tuple[str, _Entry, str]], known: Container[str]
) -> Iterator[_Found]:
    """Yield remote files, each with the reason to skip it; the first bytes of many are read at once."""
    unknown = list[tuple[str, _Entry]]()
    for name, entry, reason in found:
        url = _url(system, entry["name"])
        if reason or url in known:
            yield url, _remote_state(entry), reason
            continue
        unknown.append((name, entry))
        if len(unknown) == _HEADS_AT_ONCE:
            yield from _judge_by_heads(system, unknown)
            unknown.clear()
    yield from _judge_by_heads(system, unknown)


def _judge_by_heads(system: "AbstractFileSystem", files: Sequence[tuple[str, _Entry]]) -> Iterator[_Found]:
    heads = _read_heads(system, [entry for _, entry in files])
    for (name, entry), head in zip(files, heads, strict=True):
        # A row with an error is better than an image that is overlooked.
        reason = reason_by_head(name, head) if isinstance(head, bytes) else ""
        yield _url(system, entry["name"]), _remote_state(entry), reason


def _read_heads(system: "AbstractFileSystem", entries: Sequence[_Entry]) -> list[Any]:
    """Return the first bytes of each file; an error in place of those that cannot be read."""
    sizes = [entry.get("size") or 0 for entry in entries]
    filled = [number for number, size in enumerate(sizes) if size]  # no range of an empty object can be asked for
    ends = [min(sizes[number], HEAD_BYTES) for number in filled]
    names = [entries[number]["name"] for number in filled]
    heads: list[Any] = [b""] * len(entries)
    if names:
        read = system.cat_ranges(names, [0] * len(names), ends, on_error="return")
        for number, head in zip(filled, read, strict=True):
            heads[number] = head
    return heads


def _without_doubles(images: pa.Table) -> pa.Table:
    """Sort images, and keep one row of those that several inputs lead to."""
    images = sort_by_path(images)
    if len(images) < 2:
        return images
    path = images["path"].combine_chunks()
    is_new = pc.not_equal(path[1:], path[:-1])
    return images.filter(pa.concat_arrays([pa.array([True]), is_new]))


def _url(system: "AbstractFileSystem", name: str) -> str:
    return str(system.unstrip_protocol(name))


def _local_state(path: Path) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return _digest(f"{status.st_size} {status.st_mtime_ns}")


def _remote_state(information: _Entry) -> int:
    version = next((information[name] for name in _VERSIONS if information.get(name)), "")
    return _digest(f"{information.get('size')} {version}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _has_magic(path: str) -> bool:
    return any(character in path for character in "*?[")


def _is_below(path: str, folder: str) -> bool:
    return bool(folder) and (path == folder or path.startswith(folder.rstrip("/") + "/"))
