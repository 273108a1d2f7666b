"""A temporary folder of one process, which does not outlive it for long, however the process ends."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from pneumoseg.folder_lock import locked_folder


class OwnTemporaryFolder:
    """A temporary folder that one process uses.

    A process that is killed cannot remove its folder. The next one that makes a folder on this machine, as the same
    user, removes those that no process uses any more.

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
        parent = Path(tempfile.gettempdir(), f"pneumoseg-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
        parent.mkdir(mode=0o700, exist_ok=True)
        self._lock = contextlib.ExitStack()
        with locked_folder(parent, "cleared", wait=True):
            for folder in parent.iterdir():
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
