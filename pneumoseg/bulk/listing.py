"""Images to predict, on disks and behind URLs, listed in memory that grows by little more than their paths."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pneumoseg.data.files import IN_RESULTS, JOURNAL, UNLISTED, reason_by_head, reason_by_name, search_images
from pneumoseg.identifiers import is_hidden, is_utf8, printable
from pneumoseg.images.formats import HEAD_BYTES
from pneumoseg.remote_files import (
    CONNECTIONS,
    errors_of,
    is_remote,
    is_s3,
    open_file_system,
    without_file_protocol,
)

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_log = logging.getLogger(__name__)
_HEADS_AT_ONCE = 512
# What file systems call the version of a file, or the time when it was written.
_VERSIONS = ("ETag", "etag", "md5Hash", "md5", "LastModified", "mtime", "updated", "created")
_Entry = dict[str, Any]  # what a file system tells about a file or folder
_Named = tuple[str, _Entry]
_FOLDER: _Entry = {"type": "directory"}
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
    of which many are made at the same time. A remote file that is named itself, or by a glob, costs none, and is never
    counted as skipped.

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
    given = [without_file_protocol(place) for place in inputs]
    paths, states, unnamed, skipped, unlisted = list[str](), list[int](), list[Path](), 0, list[str]()
    for path, state, reason in _search(given, known):
        if reason:
            skipped += not _is_below(path, own)
            unlisted += [f"{printable(path)} {reason}"] if reason.startswith(UNLISTED) else []
        elif is_utf8(path):
            paths.append(path)
            states.append(state)
        else:
            unnamed.append(Path(path))
    if unlisted:
        _log.warning(f"IMAGES MAY BE MISSING: {len(unlisted)} folders cannot be listed, the first: {unlisted[0]}")
    if not paths and not unnamed:
        where = ", ".join(map(printable, given))
        raise FileNotFoundError(f"{where}: no DICOM, PNG, JPEG or TIFF file in it or below it; {skipped} files skipped")
    images = pa.table({"path": pa.array(paths, pa.large_string()), "state": pa.array(states, pa.int64())})
    if skipped:
        _log.info(f"{skipped} files and folders skipped: not images, or hidden")
    return Listing(_without_doubles(images), unnamed, skipped, bool(unlisted))


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
    yield from _search_remote(filter(is_remote, given), known)


def _search_remote(urls: Iterable[str], known: Container[str]) -> Iterator[_Found]:
    """Yield the files at URLs of files, folders and globs, and those below the folders, each once."""
    files, folders = dict[str, int](), defaultdict["AbstractFileSystem", set[str]](set)
    for url in urls:
        system, path = open_file_system(url)
        for name, entry in _look_up(system, path, url):
            if entry["type"] == "directory":
                folders[system].add(name.rstrip("/") or name)
            else:
                files[_url(system, name)] = _remote_state(entry)
    yield from ((url, state, "") for url, state in files.items())
    for system, starts in folders.items():
        walked = (found for found in _walk(system, starts) if _url(system, found[1]["name"]) not in files)
        yield from _judge(system, walked, known)


def _look_up(system: "AbstractFileSystem", path: str, url: str) -> Sequence[_Named]:
    """Return the files and folders that a URL stands for.

    Raises:
        FileNotFoundError: If there are none.
    """
    try:
        with errors_of(url):
            places = _expand(system, path) if _has_magic(path) and not system.exists(path) else _inspect(system, path)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{url}: cannot be listed ({error}): check its name and your credentials") from error
    if not places:
        raise FileNotFoundError(f"{url}: no such file or folder, expected images or a folder of images")
    return places


def _inspect(system: "AbstractFileSystem", path: str) -> Sequence[_Named]:
    """Return a file or folder; both if S3 holds both under this name."""
    entry = system.info(path)
    places = [(path, entry)]
    if is_s3(system) and entry["type"] != "directory":
        with suppress(PermissionError):  # to read a file, the right to list is not needed
            places += [(path, _FOLDER)] if system.isdir(path) else []
    return places


def _expand(system: "AbstractFileSystem", pattern: str) -> Sequence[_Named]:
    """Return what a glob stands for; as in a shell, no hidden names that it does not spell."""
    spelled, found = set(pattern.split("/")), system.glob(pattern, detail=True)
    places = [(path, found[path]) for path in found if not any(map(is_hidden, set(path.split("/")) - spelled))]
    if is_s3(system):  # where a folder hides the file of the same name
        folders = [path for path, entry in places if entry["type"] == "directory"]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            twins = zip(folders, pool.map(system.info, folders), strict=True)
            places += [(path, entry) for path, entry in twins if entry["type"] != "directory"]
    return places


def _walk(system: "AbstractFileSystem", starts: Collection[str]) -> Iterator[tuple[str, _Entry, str]]:
    """Yield the name and the entry of each file below remote folders, a folder at a time, and the reason to skip it.

    An object store can hold a file and a folder of the same name, and names with an empty part, which it cannot list.
    """
    waiting = list(starts)
    for folder, entries in _list_many(system, waiting):
        if isinstance(entries, OSError):
            yield "", {"name": folder}, f"{UNLISTED} ({entries})"
            continue
        named = [(entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in entries]
        if any(name == JOURNAL for name, _ in named):
            yield "", {"name": folder}, IN_RESULTS
            continue
        for name, entry in sorted(named, key=itemgetter(0), reverse=True):
            place = entry["name"].rstrip("/")
            if entry["type"] != "directory":
                if name:
                    yield name, entry, reason_by_name(name)
            elif entry["name"] == f"{folder.rstrip('/')}/":
                yield "", {"name": f"{entry['name']}/"}, f"{UNLISTED} (a folder without a name: rename it)"
            elif is_hidden(name) and place not in starts:
                yield name, entry, "is a hidden folder"
            elif name and place != folder.rstrip("/") and place not in starts:
                waiting.append(entry["name"])


def _list_many(system: "AbstractFileSystem", waiting: list[str]) -> Iterator[tuple[str, list[_Entry] | OSError]]:
    """Yield folders of a list, which may grow meanwhile, with their entries, or with the error that hides these.

    Those of object stores are listed many at a time. The connections of other file systems serve one request at a time.
    """

    def list_one(folder: str) -> tuple[str, list[_Entry] | OSError]:
        try:
            with errors_of(_url(system, folder)):
                return folder, system.ls(folder, detail=True)
        except OSError as error:
            return folder, error

    running = set["Future[tuple[str, list[_Entry] | OSError]]"]()
    with ThreadPoolExecutor(CONNECTIONS if system.async_impl else 1) as pool:
        while waiting or running:
            while waiting and len(running) < CONNECTIONS:
                running.add(pool.submit(list_one, waiting.pop()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


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
