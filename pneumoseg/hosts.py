"""Several processes, on one host or on several, that train one network together on JAX.

Each process runs the whole program. They meet in the compiled steps, where JAX adds up what their devices computed, and
before the training in short texts that the coordinator, a thread of process 0, passes on. A process that ends early
must not leave the others waiting for it: it tells them why if it still can, and JAX ends them otherwise.
"""

import atexit
import inspect
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pneumoseg.own_temporary_folder import OwnTemporaryFolder

_log = logging.getLogger(__name__)
JOIN_SECONDS = 300
_MEET_SECONDS = 3600  # for all to read their manifest, and at the end for process 0 to write its last files
_HEARTBEAT_SECONDS = 60
_TELL_SECONDS = 10
_FAILURES = "pneumoseg/failed/"
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # as JAX wants them
_CONNECTION = re.compile("gloo|nccl|connection|socket|peer|unavailable|deadline", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train together.

    Attributes:
        count: Number of processes.
        number: Number of this one, from 0.
        coordinator: Host and port where process 0 listens; None if JAX is to find it from the variables of SLURM.

    Example:
        >>> Place(2, 1, "node1:1234").writes
        False
    """

    count: int = 1
    number: int = 0
    coordinator: str | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes the results."""
        return self.number == 0


def place_of(hosts: int | None, host: int | None, coordinator: str | None) -> Place:
    """Return the place of this process, as the user gives it or SLURM's variables do.

    Args:
        hosts: Number of processes.
        host: Number of this process, from 0.
        coordinator: `HOST:PORT`, where process 0 listens. None for all three: the step of SLURM that the process runs
            in, if Keras' backend is JAX and the step has several tasks, else a single process.

    Raises:
        ValueError: If some of the three are missing or do not fit, or Keras' backend is not JAX.

    Example:
        >>> place_of(None, None, None)
        Place(count=1, number=0, coordinator=None)
    """
    on_jax = os.environ.get("KERAS_BACKEND") == "jax"
    if hosts is None and host is None and coordinator is None:
        return _place_in_slurm() if on_jax else Place()
    if hosts is None or host is None or coordinator is None:
        given = {"--hosts": hosts, "--host": host, "--coordinator": coordinator}
        missing = " and ".join(name for name, value in given.items() if value is None)
        raise ValueError(f"{missing} missing: training on several hosts needs {', '.join(given)}")
    if hosts < 1:
        raise ValueError(f"--hosts {hosts}: expected the number of processes that train together, 1 or more")
    if not 0 <= host < hosts:
        raise ValueError(f"--host {host} with --hosts {hosts}: expected 0 to {hosts - 1}, another on each host")
    if not re.fullmatch(r".+:[0-9]{1,5}", coordinator):
        raise ValueError(f"--coordinator {coordinator}: expected HOST:PORT of host 0, such as node1:1234")
    if not on_jax:
        raise ValueError("several hosts train together on JAX only: add --backend jax")
    return Place(hosts, host, coordinator) if hosts > 1 else Place()


def _place_in_slurm() -> Place:
    # The shell of an allocation for several tasks is a step of one.
    alone = "1" in (os.environ.get("SLURM_NTASKS"), os.environ.get("SLURM_STEP_NUM_TASKS"))
    if alone or not all(name in os.environ for name in _SLURM):
        return Place()
    return Place(int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_PROCID"]))


class Hosts:
    """The processes that train together, as one of them sees them; made by `joined_hosts`.

    Args:
        place: Place of this process.

    Attributes:
        place: Place of this process.
    """

    def __init__(self, place: Place) -> None:
        self.place, self._meetings = place, 0
        self._scratch: OwnTemporaryFolder | None = None

    @property
    def scratch(self) -> Path:
        """The folder that this process alone uses, made on first use and removed at the end."""
        if self._scratch is None:
            self._scratch = OwnTemporaryFolder()
        return self._scratch.path

    def remove_scratch(self) -> None:
        """Remove the folder that this process alone uses, if there is one."""
        if self._scratch is not None:
            self._scratch.remove()

    def require_same(self, name: str, value: str, remedy: str) -> None:
        """Wait for all processes, and check that they have the same value.

        Args:
            name: What the value describes, for the message.
            value: Short text, such as a checksum.
            remedy: End of the message.

        Raises:
            ValueError: If a process has another value than process 0.
        """
        values = self._gather(value)
        others = [str(number) for number, other in enumerate(values) if other != values[0]]
        if others:
            raise ValueError(f"{name} differs between host 0 and host {', '.join(others)}: {remedy}")

    def meet(self) -> None:
        """Wait for all processes."""
        self._gather("")

    def _gather(self, value: str) -> list[str]:
        if self.place.count == 1:
            return [value]
        self._meetings += 1
        client, key = _client(), f"pneumoseg/meeting {self._meetings}/"
        client.key_value_set(f"{key}{self.place.number}", value)
        return [client.blocking_key_value_get(f"{key}{n}", 1000 * _MEET_SECONDS) for n in range(self.place.count)]


@contextmanager
def joined_hosts(place: Place) -> Iterator[Hosts]:
    """Join the processes that train together while the context lasts; before anything else uses JAX.

    If one of them fails, all end, with its message and exit status 2. One that is killed ends the others too, at the
    latest after a minute.

    Args:
        place: Place of this process, see `place_of`. A single process joins nothing.

    Raises:
        ConnectionError: If the coordinator cannot listen, or another process ends while this one computes with it.

    Example:
        >>> with joined_hosts(place_of(2, 1, "node1:1234")) as hosts:  # doctest: +SKIP
        ...     hosts.require_same("the manifest", checksum, "copy it")
    """
    hosts = Hosts(place)
    try:
        if place.count == 1:
            yield hosts
        else:
            with _all_ending_together(hosts):
                yield hosts
    finally:
        hosts.remove_scratch()


@contextmanager
def _all_ending_together(hosts: Hosts) -> Iterator[None]:
    _join(hosts)
    over = threading.Event()
    threading.Thread(target=_watch, args=(hosts, over), daemon=True).start()
    try:
        yield
        hosts.meet()
    except BaseException as error:
        over.set()
        told = _told_error(error)
        _tell_others(hosts, told)
        # JAX would wait for the others at the interpreter's exit, and then abort.
        atexit.register(_exit_at_once)
        if told is error:
            raise
        raise told from error
    finally:
        over.set()


def _join(hosts: Hosts) -> None:
    import jax

    place = hosts.place
    if place.writes and place.coordinator is not None:
        _require_free_port(place.coordinator)
    with suppress(AttributeError):  # it would make the process ignore SIGTERM
        jax.config.update("jax_enable_preemption_service", False)
    options: dict[str, Any] = {}
    if "heartbeat_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters:  # not in JAX 0.6
        options["heartbeat_timeout_seconds"] = _HEARTBEAT_SECONDS
    if place.coordinator is not None:
        # JAX would take the number of a GPU from SLURM's variables even here.
        options |= {"coordinator_address": place.coordinator, "num_processes": place.count, "process_id": place.number}
        options |= {"cluster_detection_method": "deactivate"}
    elif _has_gpus_of_its_own():
        options |= {"local_device_ids": []}  # all that it sees
    else:
        _warn_of_idle_gpus(place)
    # JAX aborts the process if the others do not come in time, with a stack trace of its own.
    alarm = threading.Timer(JOIN_SECONDS, _give_up, (hosts,))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(initialization_timeout=JOIN_SECONDS + 60, **options)
    finally:
        alarm.cancel()
    _log.info(f"{place.count} processes train together, coordinated at {_address(place)}")


def _has_gpus_of_its_own() -> bool:
    """Return whether no other task of the SLURM step uses the GPUs that this one sees.

    JAX gives each task the one GPU with the task's number on its machine, for steps whose tasks see all GPUs of it.
    """
    alone = int(os.environ["SLURM_NTASKS"]) == _nodes()
    return alone or os.environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0


def _warn_of_idle_gpus(place: Place) -> None:
    """Log a warning if each task of a SLURM step sees more GPUs than there are tasks on its machine."""
    gpus, tasks = os.environ.get("CUDA_VISIBLE_DEVICES", "").count(",") + 1, place.count / _nodes()
    if place.writes and gpus > tasks:
        _log.warning(
            f"{tasks:g} TASKS ON EACH MACHINE WITH {gpus} GPUS: each takes one, the others idle: start one task per "
            f"machine, or {gpus}"
        )


def _nodes() -> int:
    return int(os.environ.get("SLURM_NNODES") or os.environ.get("SLURM_JOB_NUM_NODES") or 1)


def _require_free_port(coordinator: str) -> None:
    """Check that process 0 can listen, as JAX would without a check end with a segmentation fault."""
    has_ipv6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
    family = socket.AF_INET6 if has_ipv6 else socket.AF_INET
    try:
        with socket.socket(family) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("", int(coordinator.rpartition(":")[2])))
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"host 0 cannot listen at {coordinator} ({error}): give all hosts another --coordinator, with a free port"
        ) from error


def _give_up(hosts: Hosts) -> None:
    place = hosts.place
    others = "not all others came" if place.writes else "host 0 does not answer, or not all others came"
    _log.error(
        f"pneumoseg: host {place.number} waited {JOIN_SECONDS} s at {_address(place)} and {others}: start "
        f"{place.count} processes within that time, each with its own --host, and check the address and the firewall"
    )
    _leave(hosts)


def _address(place: Place) -> str:
    return place.coordinator or "the first node of the SLURM step"


def _client() -> Any:
    from jax._src.distributed import global_state

    return global_state.client


def _watch(hosts: Hosts, over: threading.Event) -> None:
    """End the process as soon as another one has told that it failed."""
    client = _client()
    while not over.wait(1):
        try:
            failures = client.key_value_dir_get(_FAILURES)
        except RuntimeError:  # the coordinator is gone, and JAX ends the process
            return
        if failures and not over.is_set():
            _log.error(f"pneumoseg: {failures[0][1]}")
            _wait_until_told(hosts)
            _leave(hosts)


def _tell_others(hosts: Hosts, error: BaseException) -> None:
    number = hosts.place.number
    text = f"host {number} stopped, and with it all others: {_first_line(error) or type(error).__name__}"
    with suppress(RuntimeError):
        _client().key_value_set(f"{_FAILURES}{number}", text)
        _wait_until_told(hosts)


def _wait_until_told(hosts: Hosts) -> None:
    """Wait for all processes, so that the coordinator does not end before they have read why."""
    with suppress(RuntimeError):
        _client().wait_at_barrier(_FAILURES, 1000 * _TELL_SECONDS)


def _told_error(error: BaseException) -> BaseException:
    """Return an error that the user understands in place of one of JAX about a lost connection."""
    import jax

    if not isinstance(error, jax.errors.JaxRuntimeError) or not _CONNECTION.search(str(error)):
        return error
    return ConnectionError(
        f"another host ended or cannot be reached ({_first_line(error)}): see its output, and start all again with "
        "--resume"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _leave(hosts: Hosts) -> NoReturn:
    hosts.remove_scratch()
    _exit_at_once()


def _exit_at_once() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(2)
