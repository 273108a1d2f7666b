"""Lines that TensorFlow writes to stderr from C++ while it starts: kept from the user, and logged.

TensorFlow writes about oneDNN, CUDA and instruction sets before any setting reaches it, so file descriptor 2 leads
through `stderr_filter` while it is imported, lists devices and takes hold of them. All else that is written meanwhile
appears as always. The filter is a process of its own, because no thread runs while C++ code is loaded or crashes.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pneumoseg.import_hook import import_within

_STDERR = 2
_lock = threading.RLock()  # one thread at a time redirects
_FILTER = Path(__file__).with_name("stderr_filter.py")
# Where TensorFlow reaches for its devices; a function that another version lacks is left out, and its lines appear.
_FIRST_USES = ("TF_ListPhysicalDevices", "TFE_NewContext")


def keep_from_stderr() -> None:
    """Keep the lines from stderr if TensorFlow is imported from now on, by whomever; without effect if it already is.

    TensorFlow then also leaves out later messages below errors, unless `TF_CPP_MIN_LOG_LEVEL` is in the environment.
    """
    import_within("tensorflow", _quiet_import)


@contextmanager
def _quiet_import() -> Iterator[None]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with log_lines_kept():
        yield
    wrapper = import_module("tensorflow.python.pywrap_tfe")
    for name in _FIRST_USES:
        if hasattr(wrapper, name):
            setattr(wrapper, name, _quiet_once(wrapper, name))


def _quiet_once(module: ModuleType, name: str) -> Callable[..., Any]:
    function = getattr(module, name)

    @wraps(function)
    def quiet(*args: Any) -> Any:
        setattr(module, name, function)
        with log_lines_kept():
            return function(*args)

    return quiet


@contextmanager
def log_lines_kept() -> Iterator[None]:
    """Keep TensorFlow's log lines from stderr while the context lasts; log them at its end, at level DEBUG.

    It does nothing where there is no stderr or no process can be started.

    Example:
        >>> with log_lines_kept():
        ...     pass
    """
    end = os.urandom(16).hex()
    with _lock:
        process = _start_filter(end)
        if process is None:
            yield
            return
        stderr = os.dup(_STDERR)
        os.dup2(process.stdin.fileno(), _STDERR)  # type: ignore[union-attr]
        try:
            yield
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            _log(_stop_filter(process, end))


def _start_filter(end: str) -> subprocess.Popen[bytes] | None:
    """Return the running filter; None if stderr is closed or `sys.executable` is not Python."""
    # Where Python is a part of another program, the executable may be that program.
    if not Path(sys.executable or "").name.lower().startswith(("python", "pypy")) or not _is_open(_STDERR):
        return None
    command = [sys.executable, "-I", "-S", str(_FILTER), end]
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows
    pipe = subprocess.PIPE
    try:  # in a session of its own, because it has to outlive Ctrl-C
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True, creationflags=flags)
    except OSError:
        return None
    if process.stdout.readline() != b"ready\n":  # type: ignore[union-attr]
        process.kill()
        process.communicate()
        return None
    return process


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _stop_filter(process: subprocess.Popen[bytes], end: str) -> list[str]:
    """Return the lines that were kept, after all others have been written."""
    with suppress(OSError):
        process.stdin.write(end.encode())  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    kept = process.stdout.read()  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]
    with suppress(subprocess.TimeoutExpired):  # it serves processes that were started meanwhile as long as they run
        process.wait(timeout=1)
    return kept.decode("utf-8", "replace").splitlines()


def _log(lines: list[str]) -> None:
    import logging

    for line in lines:
        logging.getLogger(__name__).debug("TensorFlow: %s", line)
