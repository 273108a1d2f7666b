"""Trainings as jobs: each in a process of its own, with a log of its own, and a reason if it fails."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from pneumoseg.backend_errors import one_line

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A training that can be carried out in another process.

    Attributes:
        name: Name for messages.
        log: File that gets all that the training prints; a job that is repeated appends to it.
        work: Trains; a training that was stopped goes on where it stopped.
        folder: Folder that relative paths start from.

    Example:
        >>> Job("fold_1", Path("runs/folds/fold_1/log.txt"), print).name
        'fold_1'
    """

    name: str
    log: Path
    work: Callable[[], object]
    folder: str = field(default_factory=os.getcwd)


# Carries out jobs, and returns the reason of each that failed, by name.
RunJobs = Callable[[Sequence[Job]], dict[str, str]]


def here(jobs: Sequence[Job]) -> dict[str, str]:
    """Do the work of all jobs in this process, without logs; the first error ends them.

    Example:
        >>> here([Job("fold_1", Path("log.txt"), lambda: print("trained"))])
        trained
        {}
    """
    for job in jobs:
        job.work()
    return {}


def in_turn(jobs: Sequence[Job]) -> dict[str, str]:
    """Carry out jobs one after the other, each in a new process, which frees its memory and its GPU when it ends.

    A job ends with this process, however that ends.

    Args:
        jobs: Jobs whose work can be pickled.

    Returns:
        The reason of each job that failed, by name.

    Example:
        >>> in_turn([Job("a", Path("runs/a/log.txt"), train_a)])  # doctest: +SKIP
        {'a': 'its process was killed by SIGKILL, which is often for want of memory'}
    """
    failures = {}
    for number, job in enumerate(jobs, start=1):
        _log.info(f"{job.name}: started, {number} of {len(jobs)}, log in {job.log}")
        reason = _in_own_process(job)
        tell_end(job, reason)
        if reason is not None:
            failures[job.name] = reason
    return failures


def tell_end(job: Job, reason: str | None) -> None:
    """Log that a job has ended.

    Args:
        job: The job.
        reason: Why it failed; None if it did not.
    """
    if reason is None:
        _log.info(f"{job.name}: finished")
    else:
        _log.warning(f"{job.name}: FAILED: {reason}")


def carry_out(job: Job) -> str | None:
    """Do the work of a job in this process, which must be its own: all that is printed meanwhile goes to the log.

    Returns:
        Why it failed; None if it did not.

    Raises:
        OSError: If the log cannot be written.
    """
    if not Path(job.folder).is_dir():
        return f"{socket.gethostname()} has no folder {job.folder}, which all machines must see at the same path"
    os.chdir(job.folder)
    socket.setdefaulttimeout(20.0)  # for downloads, see `cli.app.main`
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with _output_to(job.log):
        try:
            job.work()
        except Exception as error:
            traceback.print_exc()
            return _reason(error)
    return None


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        log = stack.enter_context(open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace"))
        for descriptor in (1, 2):  # TensorFlow writes from C++
            before = os.dup(descriptor)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, descriptor)
            os.dup2(log.fileno(), descriptor)
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=log, force=True)
        logging.getLogger("pneumoseg").setLevel(logging.INFO)
        yield
        logging.basicConfig(force=True)


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError | OSError):  # ours are complete
        return str(error)
    return one_line(error)


def _in_own_process(job: Job) -> str | None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, job))
    process.start()
    sender.close()
    try:
        reason: str | None = receiver.recv()
    except EOFError:
        process.join()
        return _death(process.exitcode or 0)
    except BaseException:
        process.kill()
        raise
    process.join()
    return reason


def _report(sender: Connection, job: Job) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send(carry_out(job))
    except OSError as error:  # of the log
        sender.send(str(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _death(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    name = signal.Signals(-status).name
    return f"its process was killed by {name}" + (", which is often for want of memory" if name == "SIGKILL" else "")
