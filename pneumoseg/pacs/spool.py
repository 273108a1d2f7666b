"""Queue of images and their results: folders that survive a kill, a power cut and a full disk."""

import contextlib
import enum
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset

from pneumoseg.atomic_write import flush
from pneumoseg.folder_lock import locked_folder
from pneumoseg.pacs.pixel_digest import pixel_digest

RESERVED_BYTES = 128 * 2**20
"""Free space below which no image is accepted, so that the disk holds the results of those that are in the queue; on a
disk of less than 512 MiB a quarter of it."""
_KEY = re.compile(r"[0-9a-f]{32}")
_STATES = "new", "out", "done", "failed"
_IMAGE, _DIGEST, _REASON = "image.dcm", "digest", "reason.json"
_MARKER = "pneumoseg-queue"
_FOREIGN_AT_MOUNT = "lost+found"


class Added(enum.Enum):
    """Outcome of `Spool.add`."""

    NEW = "new"
    DUPLICATE = "duplicate"
    OTHER_PIXELS = "other pixels"


class Failure(NamedTuple):
    """An image without results, or results that the receiver refused.

    Attributes:
        key: Key of the image in the queue.
        reason: Why it failed, without patient data.
    """

    key: str
    reason: str


class Status(NamedTuple):
    """Numbers of images by state.

    Attributes:
        new: Images that wait for the networks.
        out: Images whose results wait to be sent.
        done: Images whose results were sent, as far as their markers are kept.
        failures: The failed images, the latest last.
        oldest_s: Age of the longest waiting image or result, in seconds; 0 if none waits.
    """

    new: int
    out: int
    done: int
    failures: list[Failure]
    oldest_s: float


def key_of(sop_instance_uid: str) -> str:
    """Return the key of an image: 32 hexadecimal digits, from which its UID cannot be read.

    Example:
        >>> key_of("1.2.3")
        'c47f5b18b8a430e698b9fe15e51f6119'
    """
    return hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]


class Spool:
    """Queue in a folder. Each image has one key and moves through these folders, each time by one rename.

    - `tmp`: files that are being received or written, emptied by `recover`;
    - `new/KEY`: an image that waits for the networks; `new/KEY.attempts` has one byte per attempt;
    - `out/KEY/`: the results of an image, which wait to be sent, and the digest of its pixels;
    - `done/KEY`: the digest of the pixels of an image whose results were all delivered;
    - `failed/KEY/`: the image or the results that were refused, and `reason.json`.

    An empty file, `pneumoseg-queue`, marks the folder as a queue.

    Files are flushed to the disk before they are moved, so that no image or result is lost by a power cut. A process
    that ends in the middle may leave an image in two of them; `recover` keeps the later one.

    A marker in `done` takes one block of the disk, mostly 4 KiB: a million images take 4 GB. `prune` removes old ones.

    Methods may be called from several threads, and `status` and `retry` also from other processes; a lock on `new`
    keeps their moves apart. Otherwise one process at a time may work on the folder.

    Args:
        folder: Folder of the queue. Only the user of the process that makes it may read it.
        make: Whether missing parts of the queue are made; otherwise nothing is changed.

    Attributes:
        folder: The folder.
        temporary: Folder in it for incoming files.

    Raises:
        ValueError: If the folder holds other files and is not a queue.
        FileNotFoundError: If something is missing that is not to be made.
        OSError: If the folder cannot be made or written to.

    Example:
        >>> spool = Spool("/var/lib/pneumoseg")  # doctest: +SKIP
        >>> spool.add(spool.temporary / "incoming", "1.2.3")  # doctest: +SKIP
        <Added.NEW: 'new'>
    """

    def __init__(self, folder: str | Path, *, make: bool = True) -> None:
        """Make the folders that are missing, or check that none is."""
        self.folder = Path(folder)
        self.temporary = self.folder / "tmp"
        self._new, self._out, self._done, self._failed = (self.folder / state for state in _STATES)
        if make:
            self._make()
        else:
            self._require()

    def add(self, file: Path, sop_instance_uid: str) -> Added:
        """Take over a received file. After `Added.NEW` the image survives a power cut.

        Args:
            file: A complete DICOM file in `temporary`; it is gone afterwards, whatever the outcome.
            sop_instance_uid: SOP Instance UID of the image.

        Returns:
            Whether the image is new. If its UID is known, the first image stays, whatever became of it.

        Raises:
            OSError: If the image cannot be stored, because the disk is broken or less than `RESERVED_BYTES` are free.
        """
        key = key_of(sop_instance_uid)
        try:
            with self._changing():
                known = self._known_digest(key)
                if known is None:
                    if not self.has_space():
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    file.chmod(0o600)
                    flush(file)
                    self._move(file, self._new / key)
                    return Added.NEW
            return Added.DUPLICATE if pixel_digest(file) == known else Added.OTHER_PIXELS
        finally:
            file.unlink(missing_ok=True)

    def has_space(self) -> bool:
        """Return whether the disk has room for more images, see `RESERVED_BYTES`."""
        disk = shutil.disk_usage(self.folder)
        return disk.free >= min(RESERVED_BYTES, disk.total // 4)

    def waiting(self) -> list[str]:
        """Return the keys of the images that wait for the networks, in the order of their arrival.

        Those that were begun more often come later, so that they do not keep the others from their turn.
        """
        begun = dict[str, int]()
        for path in self._new.glob("*.attempts"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                begun[path.stem] = path.stat().st_size
        return sorted(_by_age(self._new), key=lambda key: begun.get(key, 0))

    def unsent(self) -> list[str]:
        """Return the keys of the images whose results wait to be sent, the oldest first."""
        return _by_age(self._out)

    def image(self, key: str) -> Path:
        """Return the path of an image that waits for the networks."""
        return self._new / key

    def results(self, key: str) -> list[Path]:
        """Return the paths of the results of an image that wait to be sent."""
        return sorted((self._out / key).glob("*.dcm"))

    def begin(self, key: str) -> int:
        """Record durably that work on an image begins, and return how often it began.

        `keep_results` and `fail` end the record. It stays if the process ends before.

        Raises:
            OSError: If the attempt cannot be recorded; it does not count then.
        """
        with open(self._attempts(key), "ab", buffering=0) as file:
            before = file.tell()
            try:
                file.write(b"x")
                os.fsync(file.fileno())
                flush(self._new)
            except BaseException:
                file.truncate(before)
                raise
            return before + 1

    def withdraw(self, key: str) -> None:
        """Take back the last attempt at an image, which ended through no fault of the image."""
        with contextlib.suppress(FileNotFoundError):
            path = self._attempts(key)
            os.truncate(path, max(0, path.stat().st_size - 1))

    def keep_results(self, key: str, objects: Mapping[str, Dataset]) -> None:
        """Store the results of an image durably, all or none, and remove the image.

        Args:
            key: Key of an image that waits for the networks.
            objects: Objects by kind, see `make_objects`.

        Raises:
            OSError: If they cannot be stored; the image then still waits.
        """
        if _has_results(self._out / key):  # by a process that ended before it removed the image
            self._remove_image(key)
            return
        self._remove(self._out / key)
        with self._prepared() as prepared:
            for kind, dataset in objects.items():
                dataset.save_as(prepared / f"{kind}.dcm", enforce_file_format=True)
            (prepared / _DIGEST).write_text(pixel_digest(self._new / key))
            for path in prepared.iterdir():
                flush(path)
            flush(prepared)
            self._move(prepared, self._out / key)
        self._remove_image(key)

    def finish(self, key: str) -> None:
        """Mark an image as done and remove its folder; all its results were delivered.

        Raises:
            OSError: If the marker cannot be written; the image then stays where it is.
        """
        marker = self.temporary / f"{key}.{secrets.token_hex(4)}"
        try:
            marker.write_text(_read(self._out / key / _DIGEST))
            flush(marker)
            self._move(marker, self._done / key)
        finally:
            marker.unlink(missing_ok=True)
        self._remove(self._out / key)

    def fail(self, key: str, reason: str) -> None:
        """Put an image without results, or the results that are left of it, aside.

        Args:
            key: Key of an image that waits for the networks, or whose results wait to be sent.
            reason: Why it failed, without patient data.

        Raises:
            OSError: If the reason cannot be written; the image or the results then still wait.
        """
        folder, image = self._failed / key, self._new / key
        with self._changing(), self._prepared() as prepared:
            (prepared / _REASON).write_text(json.dumps({"reason": reason}))
            flush(prepared / _REASON)
            if _has_results(self._out / key):
                (prepared / _REASON).replace(self._out / key / _REASON)
                flush(self._out / key)
                self._remove(folder)
                self._move(self._out / key, folder)
                self._remove_image(key)
            else:
                self._remove(folder)
                flush(prepared)
                self._move(prepared, folder)
                self._move(image, folder / _IMAGE)
                self._attempts(key).unlink(missing_ok=True)

    def retry(self, key: str) -> None:
        """Put a failed image, or the results of it that were not delivered, back into the queue, at its end.

        Raises:
            ValueError: If no failed image has this key.
            OSError: If it cannot be moved.
        """
        folder = self._failed / key
        with self._changing():
            if _KEY.fullmatch(key) and _has_results(folder):
                os.utime(folder)
                self._move(folder, self._out / key)
            elif _KEY.fullmatch(key) and (folder / _IMAGE).exists():
                self._attempts(key).unlink(missing_ok=True)
                os.utime(folder / _IMAGE)
                self._move(folder / _IMAGE, self._new / key)
                self._remove(folder)
            elif _KEY.fullmatch(key) and folder.is_dir() and (self._new / key).exists():
                self._remove(folder)  # by a process that ended before the image was there
            else:
                raise ValueError(f"no failed image has the key {key!r}: `pneumoseg queue` lists them")

    def recover(self) -> int:
        """Remove what the end of a process left behind. No other process may serve the folder.

        Returns:
            Number of images that were found in two folders.
        """
        with self._changing():
            _empty(self.temporary)
            twice = [key for key in _by_age(self._new) if self._is_past(key)]
            for key in twice:
                self._remove_image(key)
            for key in _by_age(self._failed):
                if {path.name for path in (self._failed / key).iterdir()} <= {_REASON}:
                    self._remove(self._failed / key)
            for path in self._new.glob("*.attempts"):
                if not path.with_suffix("").exists():
                    path.unlink()
        return len(twice)

    def prune(self, days: float) -> int:
        """Remove the markers of images that were done long ago, and return their number.

        If such an image is sent once more, it is worked on once more; its results have the same UIDs as before.

        Args:
            days: Age in days from which markers are removed.
        """
        oldest = time.time() - days * 86400
        with os.scandir(self._done) as entries:
            old = [entry.path for entry in entries if entry.stat().st_mtime < oldest]
        for path in old:
            Path(path).unlink(missing_ok=True)
        return len(old)

    def status(self) -> Status:
        """Count the images by state; works while another process serves the folder."""
        new, out = _moved_at(self._new), _moved_at(self._out)
        oldest_s = max((time.time() - moved_at / 1e9 for moved_at in [*new.values(), *out.values()]), default=0.0)
        done = sum(1 for name in os.listdir(self._done) if _KEY.fullmatch(name))
        failures = [Failure(key, self._reason(key)) for key in _by_age(self._failed)]
        return Status(len(new), len(out), done, failures, max(0.0, oldest_s))

    def _make(self) -> None:
        _refuse_other_folders(self.folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / _MARKER).touch(0o600)
        for path in (self.temporary, self._new, self._out, self._done, self._failed):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)
        flush(self.folder)

    def _require(self) -> None:
        if not (self.folder / _MARKER).exists():
            raise FileNotFoundError(
                f"{self.folder} holds no queue: name the folder that `pneumoseg listen --spool` was given"
            )
        missing = [name for name in ("tmp", *_STATES) if not (self.folder / name).is_dir()]
        if missing:
            raise FileNotFoundError(
                f"{self.folder} lacks {', '.join(missing)}: start `pneumoseg listen` again, which makes them"
            )

    def _changing(self) -> contextlib.AbstractContextManager[None]:
        """Keep other threads and processes from moving images that are known, while the context lasts."""
        return locked_folder(self._new, "changed", wait=True)

    def _is_past(self, key: str) -> bool:
        """Return whether a later state holds the image or its results as a whole."""
        failed = self._failed / key
        return _has_results(self._out / key) or _has_results(failed) or (failed / _IMAGE).exists()

    def _reason(self, key: str) -> str:
        try:
            return str(json.loads(_read(self._failed / key / _REASON))["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"

    def _attempts(self, key: str) -> Path:
        return self._new / f"{key}.attempts"

    def _known_digest(self, key: str) -> str | None:
        """Return the digest of the pixels of an image in any state, or None if its key is not known.

        The places are in the order in which an image passes them, so that one which moves meanwhile is not missed.
        """
        places: list[tuple[Path, Callable[[Path], str]]] = [
            (self._new / key, pixel_digest),
            (self._out / key / _DIGEST, _read),
            (self._done / key, _read),
            (self._failed / key / _IMAGE, pixel_digest),
            (self._failed / key / _DIGEST, _read),
        ]
        for path, digest_of in places:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return digest_of(path)
        return None

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[Path]:
        """Yield a folder for files that will be moved together; it is removed if it is not moved."""
        prepared = self.temporary / secrets.token_hex(8)
        prepared.mkdir(mode=0o700)
        try:
            yield prepared
        finally:
            shutil.rmtree(prepared, ignore_errors=True)

    def _move(self, source: Path, target: Path) -> None:
        source.replace(target)
        flush(target.parent)
        if source.parent != self.temporary:
            flush(source.parent)

    def _remove_image(self, key: str) -> None:
        self._remove(self._new / key)
        self._attempts(key).unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        """Remove a file, or a folder so that it is gone as a whole."""
        doomed = self.temporary / secrets.token_hex(8)
        with contextlib.suppress(FileNotFoundError):
            path.replace(doomed)
            flush(path.parent)
            _delete(doomed)


def _refuse_other_folders(folder: Path) -> None:
    """Refuse a folder that is not a queue, since the content of its `tmp` would be deleted."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {_FOREIGN_AT_MOUNT} and _MARKER not in names:
        raise ValueError(f"{folder} holds other files: name an empty folder, or the folder of a queue")


def _moved_at(folder: Path) -> dict[str, int]:
    """Return the modification time in ns of each image in a folder, by key."""
    times = dict[str, int]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if _KEY.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):  # moved meanwhile
                    times[entry.name] = entry.stat().st_mtime_ns
    return times


def _by_age(folder: Path) -> list[str]:
    times = _moved_at(folder)
    return sorted(times, key=lambda key: (times[key], key))


def _has_results(folder: Path) -> bool:
    return (folder / _DIGEST).exists()


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
