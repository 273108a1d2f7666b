"""Connection to Ray, which runs many pieces of work at once on this machine or on a cluster."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_log = logging.getLogger(__name__)
LOCAL = "local"
"""Address that stands for a Ray of its own on this machine, which ends with the context."""
_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
"""Variables that Ray's processes read when they start; those that are set stay."""


def require_ray(*modules: str) -> None:
    """Check that Ray is installed, before any slow work.

    Args:
        *modules: Further modules of the extra `ray` that are needed, such as "pyarrow".

    Raises:
        ValueError: If one is missing.
    """
    if missing := [name for name in ("ray", *modules) if find_spec(name) is None]:
        raise ValueError(f"--ray needs {', '.join(missing)}: pip install 'pneumoseg[ray]'")


@contextmanager
def connect(address: str | None = None, *, cpus: int | None = None) -> Iterator[ModuleType]:
    """Start Ray on this machine or join a cluster, for as long as the context lasts.

    A Ray that this process is connected to already is used, and stays. A Ray of its own is stopped: a cluster
    that was joined goes on, without the work of this process.

    Workers import this package as this process does. On this machine they inherit its environment and its `sys.path`.
    To a cluster the package's source is sent, so that its nodes need no `pneumoseg`, but its dependencies, in the same
    versions: use one image or one environment for all nodes.

    Args:
        address: "local" or None for a Ray of its own; "auto" for the cluster that this machine belongs to; or the
            address of a cluster, "HOST:6379" from one of its nodes or "ray://HOST:10001" from elsewhere, which is not
            enough for Ray Data.
        cpus: Number of CPUs that a Ray of its own may use; None for all.

    Yields:
        The module `ray`, connected.

    Raises:
        ValueError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.

    Example:
        >>> with connect() as ray:  # doctest: +SKIP
        ...     ray.get(ray.remote(len).remote("abc"))  # doctest: +SKIP
        3
    """
    require_ray()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(**_options(address or LOCAL, cpus))
    except Exception as error:  # one without a class of its own if Ray starts too slowly
        raise ConnectionError(f"no Ray cluster at {address or LOCAL}: {_remedy(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def keep_to_gpus(share: float) -> None:
    """Keep a worker to its GPUs, before it imports TensorFlow or JAX.

    Args:
        share: GPUs of the worker. Ray leaves all visible to a worker that has none; of one that several workers share,
            each takes memory only as it needs it.

    Example:
        >>> keep_to_gpus(0.5)  # doctest: +SKIP
    """
    if not share:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif share < 1:
        os.environ.update(TF_FORCE_GPU_ALLOW_GROWTH="true", XLA_PYTHON_CLIENT_PREALLOCATE="false")


def _options(address: str, cpus: int | None) -> dict[str, Any]:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": _log.isEnabledFor(logging.DEBUG)}
    if address == LOCAL:
        return {"address": LOCAL, "num_cpus": cpus, "include_dashboard": False, **quiet}
    return {"address": address, "runtime_env": {"py_modules": [str(Path(__file__).parent)]}, **quiet}


def _remedy(error: BaseException) -> str:
    if "InvalidAuthToken" in f"{error.__cause__}":
        return "it asks for a token, set RAY_AUTH_MODE=token and, unless ~/.ray/auth_token holds it, RAY_AUTH_TOKEN"
    if isinstance(error, ConnectionError | TimeoutError):
        return "start one with `ray start --head`, or leave the address out"
    return " ".join(str(error).split())  # of another version, for example
