"""Atomic writing: files that appear whole or not at all."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` at the end of the block.

    Until then readers find the old file, or none. The same holds after a crash or a power cut. After an error the
    temporary file is removed.

    Args:
        path: File to write; its folder is created if it does not exist.

    Yields:
        A path in the same folder.

    Example:
        >>> with atomic_write("notes.txt") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("whole")  # doctest: +SKIP
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")  # for threads that write one file
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: str | Path) -> None:
    """Remove the temporary files in a folder that `atomic_write` could not remove, because its process was killed.

    No other process may be writing to the folder.

    Args:
        folder: Folder to clean, without the folders in it; nothing happens if it does not exist.
    """
    folder = Path(folder)
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to the disk; does nothing for folders on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
