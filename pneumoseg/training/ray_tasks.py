"""Jobs as tasks of Ray: as many at the same time as the machine or the cluster has room for."""

import logging
import os
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from pneumoseg.cluster import LOCAL, connect, keep_to_gpus
from pneumoseg.training.jobs import Job, carry_out, tell_end

_log = logging.getLogger(__name__)
_STARTS = 4  # of one job whose workers die, the first included
# Settings of the environment that a worker on another machine does not inherit.
_PASSED_ON = ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS")


@dataclass(frozen=True)
class OnRay:
    """Carries out jobs as tasks of Ray, each in a new worker process; a function from jobs to failures, see `jobs`.

    A job whose worker dies, by a crash, for want of memory or with its machine, is started again, at most three times;
    it goes on from its checkpoint. All machines must see the folders of the runs and the images at the same paths.

    A task without a GPU trains on the CPU, even where there are GPUs. With a part of a GPU it takes memory there only
    as it needs it, so that others can share it.

    Args:
        address: Address of the cluster, see `cluster.connect`; None for a Ray of its own on this machine.
        gpus_per_task: Number of GPUs of each task, or a fraction; None for one if any machine has one.
        cpus_per_task: Number of CPUs that each task counts for.

    Example:
        >>> cross_validate(task, manifest, run, run_jobs=OnRay(gpus_per_task=1))  # doctest: +SKIP
    """

    address: str | None = None
    gpus_per_task: float | None = None
    cpus_per_task: int = 1

    def __call__(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Carry out jobs.

        Returns:
            The reason of each job that failed, by name.

        Raises:
            ValueError: If Ray is not installed, or this machine has too few CPUs or GPUs for a task.
            ConnectionError: If there is no cluster at the address.
        """
        if not jobs:
            return {}
        with connect(self.address) as ray:
            return _carry_out(ray, jobs, self.cpus_per_task, self._find_room(ray))

    def _find_room(self, ray: ModuleType) -> float:
        """Return the number of GPUs of each task, after a check that there is room for one."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        found = sum(node.get("GPU", 0) for node in nodes)
        gpus = min(found, 1) if self.gpus_per_task is None else self.gpus_per_task
        if not any(node.get("CPU", 0) >= self.cpus_per_task and node.get("GPU", 0) >= gpus for node in nodes):
            text = f"no machine has {self.cpus_per_task} CPUs and {gpus:g} GPUs for a task"
            if self.address in (None, LOCAL):
                raise ValueError(f"{text}: take a smaller --gpus-per-task or --cpus-per-task, or name a cluster")
            _log.warning(f"{text}: the tasks wait until one joins the cluster")
        if not found and self.gpus_per_task is None and self.address not in (None, LOCAL):
            _log.warning(
                "no machine of the cluster has a GPU now: tasks train on the CPU, unless --gpus-per-task is given"
            )
        if found and not gpus:
            _log.warning(f"--gpus-per-task is 0: tasks train on the CPU, and {found:g} GPUs ARE NOT USED")
        return gpus


def _carry_out(ray: ModuleType, jobs: Sequence[Job], cpus: int, gpus: float) -> dict[str, str]:
    # A worker that is used once frees its memory and its GPU. Ray's own retries have no limit if memory runs out.
    task = ray.remote(max_calls=1, max_retries=0, num_cpus=cpus, num_gpus=gpus)(_work)
    task = task.options(runtime_env={"env_vars": {k: os.environ[k] for k in _PASSED_ON if k in os.environ}})

    def start(job: Job) -> object:
        return task.remote(ray.cloudpickle.dumps(job), gpus)

    waiting = {start(job): job for job in jobs}
    _log.info(f"{len(jobs)} tasks on Ray, each with {cpus} CPUs and {gpus:g} GPUs; each writes {jobs[0].log.name}")
    starts, failures = Counter(job.name for job in jobs), {}
    while waiting:
        (done, *_), _ = ray.wait(list(waiting))
        job = waiting.pop(done)
        reason, died = _outcome(ray, done)
        if died and starts[job.name] < _STARTS:
            starts[job.name] += 1
            _log.warning(f"{job.name}: {reason}: started again, goes on from its checkpoint")
            waiting[start(job)] = job
            continue
        reason = reason or _hidden(job)
        tell_end(job, reason)
        if reason is not None:
            failures[job.name] = reason
    return failures


def _work(packed: bytes, gpus: float) -> str | None:
    """Carry out a job, which is unpacked only now: that imports TensorFlow, which looks for GPUs."""
    keep_to_gpus(gpus)
    job: Job = pickle.loads(packed)
    return carry_out(job)


def _outcome(ray: ModuleType, task: object) -> tuple[str | None, bool]:
    """Return why a task failed, None if it did not, and whether its worker died."""
    try:
        return ray.get(task), False
    except ray.exceptions.RayTaskError as error:
        return _in_one_line(error.cause), False
    except _deaths(ray) as error:
        return f"its worker died ({type(error).__name__})", True
    except ray.exceptions.RayError as error:
        return _in_one_line(error), False


def _deaths(ray: ModuleType) -> tuple[type[Exception], ...]:
    """Return the errors of a worker that ended, which another one may replace."""
    found = ray.exceptions
    ends = (found.WorkerCrashedError, found.NodeDiedError, found.LocalRayletDiedError, found.OutOfMemoryError)
    return *ends, found.ObjectLostError  # with its machine, after the work was done


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"


def _hidden(job: Job) -> str | None:
    """Return a reason if another machine has done the work in a folder that this one does not see."""
    try:
        seen = job.log.name in os.listdir(job.log.parent)
    except FileNotFoundError:
        seen = False
    return None if seen else f"{job.log} is not visible here: all machines must share the folder of the runs"
