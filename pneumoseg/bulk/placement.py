"""The workers of a run: how many, and the CPUs and GPUs of each, so that all find room on the nodes of Ray."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pneumoseg.cluster import LOCAL
from pneumoseg.processor import usable_cores

if TYPE_CHECKING:
    from types import ModuleType

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """The workers of a run.

    Attributes:
        address: Address of Ray, see `cluster.connect`.
        number: Number of workers; None for one per GPU, or without GPUs one per CPU.
        gpus: GPUs per worker, such as 0.5; None for 1 if Ray has GPUs and Keras computes, otherwise 0.
    """

    address: str | None = None
    number: int | None = None
    gpus: float | None = None


def local_cpus(workers: Workers) -> int:
    """Return the number of CPUs that a Ray of its own is told to have: workers may share one.

    Args:
        workers: The workers that are asked for.
    """
    return max(usable_cores(), workers.number or 0)


def find_room(ray: "ModuleType", workers: Workers, engine: str) -> tuple[int, dict[str, float]]:
    """Return the number of workers, and the CPUs and GPUs of each: the most CPUs with which all find room on the nodes.

    Args:
        ray: The module, connected.
        workers: The workers that are asked for.
        engine: Engine of the networks; only Keras computes on GPUs.

    Raises:
        ValueError: If this machine has no room for them; or a cluster has none yet, and their number or their GPUs are
            not given.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, devices = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    gpus = workers.gpus if workers.gpus is not None else float(devices > 0 and engine == "keras")
    most = _room(nodes, 1, gpus)
    number = workers.number or most
    if not number or number > most:
        text = f"Ray has {cpus:g} CPUs and {devices:g} GPUs, where {most} workers with {gpus:g} GPUs each find room"
        if workers.address in (None, LOCAL):
            raise ValueError(f"{text}: take a smaller --gpus-per-worker or fewer --workers, or name a cluster")
        # Machines that join later may have GPUs.
        may_choose = workers.gpus is None and engine == "keras" and not devices
        wanted = {"--workers": not number, "--gpus-per-worker (0 for CPUs)": may_choose}
        if missing := " and ".join(filter(wanted.get, wanted)):
            raise ValueError(f"{text} now: name {missing}, since nothing is known of machines that join later")
        _log.warning(f"{text} now, of {number}: the others wait until machines join the cluster")
    largest = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    share = next((share for share in range(largest, 1, -1) if _room(nodes, share, gpus) >= number), 1)
    _log.info(f"Ray has {cpus:g} CPUs and {devices:g} GPUs; {number} workers with {share} CPUs and {gpus:g} GPUs each")
    return number, {"num_cpus": share, "num_gpus": gpus}


def _room(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """Return the number of workers for which the nodes have room."""
    room = 0
    for node in nodes:
        by_cpus = int(node.get("CPU", 0) // cpus)
        by_gpus = int(node.get("GPU", 0) / gpus + 1e-6) if gpus else by_cpus  # 1 / 0.1 is 10, though 1 // 0.1 is 9
        room += min(by_cpus, by_gpus)
    return room
