"""The processor of this machine, by its name and the number of its cores."""

import os
import platform
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return the name of the processor, such as "AMD EPYC 9654 96-Core Processor"."""
    lines = _LINUX.read_text(encoding="utf-8", errors="replace").splitlines() if _LINUX.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use.

    Example:
        >>> usable_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
