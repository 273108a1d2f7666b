"""The device that networks run on: found, logged and recorded.

Keras' backend is loaded when a device is looked for, so that a finished run is read without it.
"""

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumoseg.processor import has_bfloat16
from pneumoseg.xla import uses_xla

_log = logging.getLogger(__name__)
_GIBIBYTE = 2**30
_TF32_CAPABILITY = (8, 0)  # Ampere
_HIDDEN_VALUES = ("", "-1", "NoDevFiles")
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))


@dataclass(frozen=True)
class Device:
    """The device that Keras' backend finds, and facts about the machine.

    Attributes:
        gpus: Names of the GPUs that the backend sees, on JAX those of all hosts.
        memory_bytes: Memory that the backend may take on the first GPU, or without a GPU the machine's memory, in
            bytes; None if unknown.
        cores: Number of CPU cores of the machine.
        tf32: Whether float32 convolutions and matrix products are rounded to TensorFloat-32.
        driver: Whether an NVIDIA driver is installed.
        version: Version of the backend.
        visible_devices: Value of `CUDA_VISIBLE_DEVICES`; None if it is not set.
        bfloat16: Whether the CPU has instructions for bfloat16; None if unknown.
        backend: Backend of Keras, "tensorflow" or "jax".
        devices: Number of devices that networks run on; 1 means the first.
        hosts: Number of processes with such devices.

    Example:
        >>> Device(("NVIDIA H100",), 78 * 2**30, 16, True, True, "2.21.0", None).name
        'NVIDIA H100'
    """

    gpus: tuple[str, ...]
    memory_bytes: int | None
    cores: int
    tf32: bool
    driver: bool
    version: str
    visible_devices: str | None
    bfloat16: bool | None = None
    backend: str = "tensorflow"
    devices: int = 1
    hosts: int = 1

    @property
    def name(self) -> str:
        """The device that networks run on, and why it is not another one."""
        if self.gpus:
            return self._gpu_name + self._together
        hidden = "GPUs hidden by CUDA_VISIBLE_DEVICES" if self.driver and self._is_hidden else "no GPU"
        return f"CPU, {self.cores} cores ({hidden})" + self._together

    @property
    def _gpu_name(self) -> str:
        if self.devices > 1 or len(self.gpus) == 1:
            return self.gpus[0]
        return f"{self.gpus[0]} (the first of {len(self.gpus)} GPUs, the others idle)"

    @property
    def _together(self) -> str:
        """The number of devices and hosts that share each batch, if there are several."""
        if self.devices == 1:
            return ""
        return f", {self.devices} devices" + (f" of {self.hosts} hosts" if self.hosts > 1 else "")

    @property
    def warning(self) -> str | None:
        """A warning about an idle GPU and its remedy; None if no GPU is idle or the user has hidden it."""
        if self.gpus or not self.driver or self._is_hidden:
            return None
        chosen = "" if self.visible_devices is None else f" CUDA_VISIBLE_DEVICES is {self.visible_devices!r}."
        name, extra = {"jax": ("JAX", "cuda12"), "tensorflow": ("TensorFlow", "and-cuda")}[self.backend]
        return (
            f"THE GPU IS NOT USED: an NVIDIA driver is installed but {name} finds no GPU. Install its CUDA libraries: "
            f'pip install "{self.backend}[{extra}]=={self.version}".{chosen} To run on the CPU, set '
            "CUDA_VISIBLE_DEVICES=-1"
        )

    def warn_of(self, precision: str) -> str | None:
        """Return a warning about a precision that is slower than float32 on this device; None if none is known.

        Example:
            >>> Device((), None, 2, False, False, "2.21.0", None, bfloat16=False).warn_of("float32")
        """
        if self.gpus or self.bfloat16 is not False or precision != "mixed_bfloat16":
            return None
        return (
            "this CPU has no instructions for bfloat16, so a step in mixed_bfloat16 takes longer than in float32: "
            "set precision: float32"
        )

    @property
    def _is_hidden(self) -> bool:
        return self.visible_devices is not None and self.visible_devices.strip() in _HIDDEN_VALUES

    def describe(self, precision: str, jit_compile: bool) -> str:
        """Return one line about the device for the log of a training or a prediction.

        Args:
            precision: Name of the networks' dtype policy.
            jit_compile: Whether XLA compiles the networks.

        Returns:
            Device, memory in GiB, precision, and whether XLA compiles.

        Example:
            >>> Device(("NVIDIA H100",), 78 * 2**30, 16, True, True, "2.21.0", None).describe("mixed_float16", False)
            'Device: NVIDIA H100, 78 GiB, mixed_float16, jit off'
        """
        memory = "memory unknown" if self.memory_bytes is None else f"{self.memory_bytes / _GIBIBYTE:.0f} GiB"
        rounded = " rounded to TF32" if self.tf32 and precision == "float32" else ""
        return f"Device: {self.name}, {memory}, {precision}{rounded}, jit {'on' if jit_compile else 'off'}"


def find_device() -> Device:
    """Return what Keras' backend and the operating system say about the device.

    Example:
        >>> find_device().name  # doctest: +SKIP
        'CPU, 2 cores (no GPU)'
    """
    import keras

    found = _found_by_jax() if keras.config.backend() == "jax" else _found_by_tensorflow()
    return Device(
        cores=os.cpu_count() or 1,
        driver=_is_driver_installed(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        bfloat16=has_bfloat16(),
        **found,
    )


def announce_device(precision: str, jit_compile: bool) -> dict[str, Any]:
    """Log the device that networks are about to run on, and warn if a GPU is idle or the precision slow.

    Args:
        precision: Name of the networks' dtype policy.
        jit_compile: Whether XLA compiles the networks.

    Returns:
        The logged facts, to be recorded with the results: `device`, `backend`, `memory_gibibytes`, `precision`,
        `jit_compile`, `tf32`.

    Example:
        >>> announce_device("float32", jit_compile=False)["device"]  # doctest: +SKIP
        'CPU, 2 cores (no GPU)'
    """
    device, jit_compile = find_device(), uses_xla(jit_compile)
    _log.info(device.describe(precision, jit_compile))
    for warning in filter(None, (device.warning, device.warn_of(precision))):
        _log.warning(warning)
    return {
        "device": device.name,
        "backend": device.backend,
        "memory_gibibytes": None if device.memory_bytes is None else round(device.memory_bytes / _GIBIBYTE, 1),
        "precision": precision,
        "jit_compile": jit_compile,
        "tf32": device.tf32,
    }


def _found_by_tensorflow() -> dict[str, Any]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capability = details[0].get("compute_capability", (0, 0)) if details else (0, 0)
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    return {
        "gpus": tuple(detail.get("device_name", "GPU") for detail in details),
        "memory_bytes": _gpu_memory() if gpus else _machine_memory(),
        "tf32": allowed and _is_tf32(capability),
        "version": tf.__version__,
    }


def _found_by_jax() -> dict[str, Any]:
    import jax
    import keras

    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    version = getattr(gpus[0], "compute_capability", "0.0") if gpus else "0.0"
    capability = tuple(int(number) for number in version.split("."))
    precise = getattr(jax.config, "jax_default_matmul_precision", None) in ("float32", "highest")
    shared = keras.distribution.distribution()
    own = jax.local_devices()[0]
    return {
        "gpus": tuple(device.device_kind for device in gpus),
        "memory_bytes": (own.memory_stats() or {}).get("bytes_limit") if gpus else _machine_memory(),
        "tf32": not precise and _is_tf32(capability),
        "version": jax.__version__,
        "backend": "jax",
        "devices": 1 if shared is None else shared.device_mesh.devices.size,
        "hosts": jax.process_count(),
    }


def _is_tf32(capability: tuple[int, ...]) -> bool:
    return os.environ.get("NVIDIA_TF32_OVERRIDE") != "0" and capability >= _TF32_CAPABILITY


def leave_gpus_to_jax() -> None:
    """Keep TensorFlow from taking the memory of GPUs on which Keras' JAX backend computes.

    TensorFlow then only loads images, on the CPU. On its own backend nothing changes.

    Example:
        >>> leave_gpus_to_jax()  # doctest: +SKIP
    """
    import keras

    if keras.backend.backend() != "jax":
        return
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:  # it has begun to use them
        _log.warning(
            "TensorFlow has taken memory of the GPU, which JAX needs: call pneumoseg before other TensorFlow code"
        )


def _gpu_memory() -> int | None:
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    # This call takes memory as TensorFlow is configured to. Without it, the next call would take all of it.
    tf.config.list_logical_devices("GPU")
    try:
        limits = [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    except tf.errors.OpError:
        return None
    return limits[0] if limits else None


def _machine_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _is_driver_installed() -> bool:
    # On Windows and macOS, TensorFlow does not use NVIDIA GPUs, whatever is installed.
    if not sys.platform.startswith("linux"):
        return False
    return shutil.which("nvidia-smi") is not None or any(path.exists() for path in _DRIVER_FILES)
