"""The processor of this machine: its name, the cores that this process may use, and its instructions."""

import os
import platform
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")
# Names of extensions. Arithmetic in bfloat16, of x86 and, the last, of Arm:
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
# Sums of products of 8 bits that do not overflow, of x86 and, the last, of Arm:
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


def processor_name() -> str:
    """Return the name of the processor, such as "AMD EPYC 9654 96-Core Processor"."""
    return next(iter(_values("model name")), "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use.

    Example:
        >>> usable_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bfloat16() -> bool | None:
    """Return whether the processor has instructions for bfloat16; None if unknown, as on other systems than Linux."""
    return _has(_BFLOAT16)


def has_vnni() -> bool | None:
    """Return whether the processor adds products of 8-bit numbers without overflow; None if unknown."""
    return _has(_VNNI)


def _has(extensions: set[str]) -> bool | None:
    flags = _values("flags", "features")
    return not extensions.isdisjoint(flags[0].split()) if flags else None


def _values(*keys: str) -> list[str]:
    """Return the values of the lines of the processor's file that begin with one of the keys; none if there is none."""
    try:
        lines = _LINUX.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []
    return [line.partition(":")[2].strip() for line in lines if line.lower().startswith(keys)]
