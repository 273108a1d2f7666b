"""Lock that keeps two processes from writing the same folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked_folder(folder: str | Path, work: str, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder against other processes and threads while the context lasts; does nothing on Windows.

    The lock leaves no file behind, and it ends with the process, however that ends.

    Args:
        folder: Existing folder.
        work: Participle for the message, such as "trained".
        wait: Whether to wait until the folder is free.

    Raises:
        FileExistsError: If the folder is locked, and `wait` is false.

    Example:
        >>> with locked_folder("results", "written"):  # doctest: +SKIP
        ...     pass  # doctest: +SKIP
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise FileExistsError(f"{folder} is being {work} by another process: wait for it, or stop it") from error
        yield
    finally:
        os.close(descriptor)
