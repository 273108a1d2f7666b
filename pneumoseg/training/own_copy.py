"""The folder in which each of several processes runs the same training.

All processes compute the same, and whatever writes files writes the same in each. So only process 0 works in the run's
folder; each other process does so in a copy of its own, which is thrown away. No writer needs to know.
"""

import hashlib
import shutil
from pathlib import Path

from pneumoseg.checksums import file_sha256
from pneumoseg.hosts import Hosts
from pneumoseg.training.run import Run

_NOT_READ = ("epochs", "tensorboard", ".*")
_STATE = ("checkpoint.npz", "history.csv", "metrics.json", "split.csv")


def own_copy(run: Run, hosts: Hosts) -> Run:
    """Return the run in which this process trains: the given one in process 0, a copy of it in each other.

    All processes must call it; none goes on before each has read what an earlier process left.

    Args:
        run: Run whose folder all processes see.
        hosts: Processes that train together.

    Returns:
        A run in the same state.

    Raises:
        ValueError: If the processes see the folder in different states, or only some are to resume it.

    Example:
        >>> with joined_hosts(place) as hosts:  # doctest: +SKIP
        ...     train(task, manifest, own_copy(Run("/shared/runs/classifier"), hosts))
    """
    hosts.require_same("--resume", str(run.resume), "give it to all processes or to none")
    hosts.require_same(
        f"what {run.folder} holds",
        _state(run.folder),
        "name a folder on a file system that all hosts share, and wait until no process writes to it",
    )
    if hosts.place.writes:
        own = run
    else:
        own = Run(hosts.scratch / run.folder.name, run.cache_dir, resume=run.resume)
        if run.folder.exists():
            shutil.copytree(run.folder, own.folder, ignore=shutil.ignore_patterns(*_NOT_READ))
    hosts.meet("copy of the run")
    return own


def _state(folder: Path) -> str:
    files = sorted(path for name in _STATE for path in folder.rglob(name))
    texts = [f"{path.relative_to(folder)} {file_sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
