"""A temporary folder of one process, which does not outlive it for long, however the process ends."""

import contextlib
import os
import shutil
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path

from pneumoseg.folder_lock import locked_folder


class OwnTemporaryFolder:
    """A temporary folder that one process uses.

    A process that is killed cannot remove its folder. The next one that makes a folder on this machine, as the same
    user, removes those that no process uses any more; not on Windows, where nothing tells which these are.

    Attributes:
        path: The folder.

    Example:
        >>> folder = OwnTemporaryFolder()
        >>> folder.path.is_dir()
        True
        >>> folder.remove()
        >>> folder.path.exists()
        False
    """

    def __init__(self) -> None:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        # On file systems that machines share, the lock of a folder may be seen by its own machine alone.
        parent = Path(tempfile.gettempdir(), f"pneumoseg-{user}-{socket.gethostname()}")
        parent.mkdir(mode=0o700, exist_ok=True)
        self._lock = contextlib.ExitStack()
        with locked_folder(parent, "cleared", wait=True):
            for folder in parent.iterdir() if find_spec("fcntl") else ():
                _remove_if_unused(folder)
            self.path = Path(tempfile.mkdtemp(dir=parent))
            self._lock.enter_context(locked_folder(self.path, "used"))

    def remove(self) -> None:
        """Remove the folder with its content; a second time does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_if_unused(folder: Path) -> None:
    with contextlib.suppress(OSError), locked_folder(folder, "used"):
        shutil.rmtree(folder)
