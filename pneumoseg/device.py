"""What networks run on: said when they start, and written down."""

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.client import device_lib

_log = logging.getLogger(__name__)
_GIBIBYTE = 2**30
_TF32_CAPABILITY = (8, 0)  # Ampere
_HIDING = ("", "-1", "NoDevFiles")
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))


@dataclass(frozen=True)
class Device:
    """What TensorFlow finds, and what the machine has.

    Attributes:
        gpus: Names of the GPUs that TensorFlow sees; networks run on the first.
        memory_bytes: Of that GPU what TensorFlow may take; without a GPU the machine's memory; None if unknown.
        cores: CPU cores of the machine.
        tf32: Whether float32 convolutions and products are rounded to TensorFloat-32.
        driver: Whether an NVIDIA driver is installed.
        tensorflow: TensorFlow's version.
        visible_devices: `CUDA_VISIBLE_DEVICES`; None if it is not set.
    """

    gpus: tuple[str, ...]
    memory_bytes: int | None
    cores: int
    tf32: bool
    driver: bool
    tensorflow: str
    visible_devices: str | None

    @property
    def name(self) -> str:
        """The device that networks run on, and why it is not another."""
        if self.gpus:
            others = f" (the first of {len(self.gpus)} GPUs, the others idle)" if len(self.gpus) > 1 else ""
            return self.gpus[0] + others
        hidden = "GPUs hidden by CUDA_VISIBLE_DEVICES" if self.driver and self._is_hidden else "no GPU"
        return f"CPU, {self.cores} cores ({hidden})"

    @property
    def warning(self) -> str | None:
        """What to do about a GPU that stands idle; None if none does, or if the user wants it so."""
        if self.gpus or not self.driver or self._is_hidden:
            return None
        chosen = "" if self.visible_devices is None else f" CUDA_VISIBLE_DEVICES is {self.visible_devices!r}."
        return (
            "THE GPU IS NOT USED: an NVIDIA driver is installed, and TensorFlow finds no GPU. Its CUDA libraries come "
            f'with: pip install "tensorflow[and-cuda]=={self.tensorflow}".{chosen} To compute on the CPU, set '
            "CUDA_VISIBLE_DEVICES=-1"
        )

    @property
    def _is_hidden(self) -> bool:
        return self.visible_devices is not None and self.visible_devices.strip() in _HIDING

    def describe(self, precision: str, jit_compile: bool) -> str:
        """One line for whoever starts a training or a prediction.

        Args:
            precision: Name of the networks' dtype policy.
            jit_compile: Whether XLA compiles them.

        Example:
            >>> Device(("NVIDIA H100",), 78 * 2**30, 16, True, True, "2.21.0", None).describe("mixed_float16", False)
            'Device: NVIDIA H100, 78 GiB, mixed_float16, jit off'
        """
        memory = "memory unknown" if self.memory_bytes is None else f"{self.memory_bytes / _GIBIBYTE:.0f} GiB"
        rounded = " rounded to TF32" if self.tf32 and precision == "float32" else ""
        return f"Device: {self.name}, {memory}, {precision}{rounded}, jit {'on' if jit_compile else 'off'}"


def find_device() -> Device:
    """Ask TensorFlow and the system."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capability = details[0].get("compute_capability", (0, 0)) if details else (0, 0)
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    overridden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
    return Device(
        gpus=tuple(detail.get("device_name", "GPU") for detail in details),
        memory_bytes=_gpu_memory() if gpus else _machine_memory(),
        cores=os.cpu_count() or 1,
        tf32=allowed and not overridden and capability >= _TF32_CAPABILITY,
        driver=_has_driver(),
        tensorflow=tf.__version__,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def announce_device(precision: str, jit_compile: bool) -> dict[str, Any]:
    """Log what networks are about to run on, and warn if a GPU stands idle.

    Args:
        precision: Name of the networks' dtype policy.
        jit_compile: Whether XLA compiles them.

    Returns:
        The same facts, to be kept: `device`, `memory_gibibytes`, `precision`, `jit_compile`, `tf32`.
    """
    device = find_device()
    _log.info(device.describe(precision, jit_compile))
    if device.warning is not None:
        _log.warning(device.warning)
    return {
        "device": device.name,
        "memory_gibibytes": None if device.memory_bytes is None else round(device.memory_bytes / _GIBIBYTE, 1),
        "precision": precision,
        "jit_compile": jit_compile,
        "tf32": device.tf32,
    }


def _gpu_memory() -> int | None:
    tf.config.list_logical_devices("GPU")  # takes the memory as TensorFlow is set to; what follows would take it whole
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


def _has_driver() -> bool:
    # On Windows and macOS TensorFlow runs on no NVIDIA GPU, whatever is installed.
    if not sys.platform.startswith("linux"):
        return False
    return shutil.which("nvidia-smi") is not None or any(path.exists() for path in _DRIVER_FILES)
