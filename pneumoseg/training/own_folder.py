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


def own_folder(folder: Path, hosts: Hosts) -> Path:
    """Return the folder in which this process trains: the given one in process 0, a copy of it in each other.

    All processes must call it; none goes on before each has read what an earlier process left.

    Args:
        folder: The run's folder, on a file system that all processes share.
        hosts: Processes that train together.

    Returns:
        A folder in the same state.

    Raises:
        ValueError: If the processes see the folder in different states.

    Example:
        >>> with joined_hosts(place) as hosts:  # doctest: +SKIP
        ...     train(task, manifest, Run(own_folder(Path("/shared/runs/classifier"), hosts)))
    """
    hosts.require_same(
        f"what {folder} holds",
        _state(folder),
        "name a folder on a file system that all hosts share, and wait until no process writes to it",
    )
    own = folder if hosts.place.writes else hosts.scratch / "run"
    if own != folder and folder.exists():
        run = Run(folder)
        of_no_use = (run.epoch_weights.name, run.tensorboard.name, ".*")  # and large
        shutil.copytree(folder, own, ignore=shutil.ignore_patterns(*of_no_use))
    hosts.meet()
    return own


def _state(folder: Path) -> str:
    files = sorted(path for file in Run(folder).state_files for path in folder.rglob(file.name))
    texts = [f"{path.relative_to(folder)} {file_sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
