"""Filter between a process and its stderr that keeps TensorFlow's harmless log lines; run by its path, as a process.

It copies stdin to stderr as it comes, without those lines. When it meets the end mark, its only argument, it writes
them to stdout. Later input, from processes that were started meanwhile, is copied as it is. If stdin ends without the
mark, the other process has crashed: then the lines that were kept go to stderr too. It imports little, to be quick.
"""

import os
import re
import sys

# Levels I and W of absl and of TensorFlow's own logging, and what belongs to them; and that there is no GPU to be used.
_KEPT = re.compile(
    rb"[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] "
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] \S+:\d+\] "
    rb"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR$"
    rb"|To enable the following instructions: .*, rebuild TensorFlow with the appropriate compiler flags\.$"
    rb"|E.*\] failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE)"
)
_READ_BYTES = 65536


def is_kept(line: bytes) -> bool:
    r"""Return whether a line is one of TensorFlow's log lines that no user needs.

    Args:
        line: A line with or without its end.

    Example:
        >>> is_kept(b"I0000 00:00:1795699861.770440    7963 cudart_stub.cc:31] Could not find cuda drivers\n")
        True
        >>> is_kept(b"UserWarning: the manifest is empty\n")
        False
    """
    return _KEPT.match(line.rstrip(b"\r\n")) is not None


def copy_without_log_lines(source: int, target: int, end: bytes) -> tuple[list[bytes], bytes | None]:
    """Copy lines until the end mark, without TensorFlow's log lines.

    Args:
        source: File descriptor to read from.
        target: File descriptor to write to.
        end: The end mark.

    Returns:
        The lines that were not copied, and what came behind the end mark; None if the source ended without it.
    """
    kept: list[bytes] = []
    waiting = b""
    while end not in waiting:
        read = os.read(source, _READ_BYTES)
        *lines, waiting = (waiting + read).split(b"\n")
        _sort([line + b"\n" for line in lines], target, kept)
        if not read:
            _sort([waiting], target, kept)
            return kept, None
    last, _, rest = waiting.partition(end)
    _sort([last], target, kept)
    return kept, rest


def _sort(lines: list[bytes], target: int, kept: list[bytes]) -> None:
    kept += filter(is_kept, lines)
    _write(target, b"".join(line for line in lines if not is_kept(line)))


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


def _main() -> None:
    _write(1, b"ready\n")
    kept, rest = copy_without_log_lines(0, 2, sys.argv[1].encode())
    if rest is None:
        _write(2, b"".join(kept))
        return
    _write(1, b"".join(kept))
    os.close(1)
    while rest or (rest := os.read(0, _READ_BYTES)):
        _write(2, rest)
        rest = b""


if __name__ == "__main__":
    _main()
