"""Outcomes of sending a result, which both senders share."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

CONNECT_SECONDS = 10.0
"""Longest time that a connection may take."""
SLOWEST_BYTES_PER_SECOND = 2**17
"""Slowest transfer that is waited for."""

_DUPLICATE = 0x0111
_WARNINGS = (0x0001, 0x0107, 0x0116)
_PASSING = (0x0110, 0x0124)


class Refusal(NamedTuple):
    """A file that the receiver refused for good.

    Attributes:
        path: Path of the file.
        reason: Why, without patient data.

    Example:
        >>> Refusal(Path("seg.dcm"), "the receiver answered status 0xA900").path.name
        'seg.dcm'
    """

    path: Path
    reason: str


class UnreachableError(OSError):
    """Error of results that cannot be delivered now, though perhaps later. Its text holds no patient data.

    Example:
        >>> print(UnreachableError("the receiver does not answer"))
        the receiver does not answer
    """


class BusyError(UnreachableError):
    """Error of results that a receiver was reached for, and did not take now: it may take those of other images.

    Example:
        >>> print(BusyError("the receiver answered status 0xA700"))
        the receiver answered status 0xA700
    """


def judge(status: int) -> str:
    """Return why a status refuses an object for good; '' if it confirms the object.

    Confirmed are 0x0000; a warning (0xBxxx, 0x0001, 0x0107, 0x0116), because the object is stored then; and 0x0111,
    which says that the receiver had the object before. Refused are other statuses of 0x01xx, 0xA9xx and 0xCxxx, but for
    two that do not blame the object: 0x0110, processing failure, which archives also answer while their disk is full
    or their database is down, and 0x0124, not authorised, which whoever runs the archive may mend.

    Args:
        status: Status of a C-STORE response (PS3.7 annex C, PS3.4 section B.2.3) or failure reason of a STOW-RS
            response (PS3.18 section I.2.2).

    Raises:
        BusyError: If another attempt may succeed, as after 0xA700, out of resources.

    Example:
        >>> judge(0xB000), judge(0xA900)
        ('', 'the receiver answered status 0xA900')
    """
    if status in (0, _DUPLICATE, *_WARNINGS) or status & 0xF000 == 0xB000:
        return ""
    reason = f"the receiver answered status 0x{status:04X}"
    if status in _PASSING or not (status & 0xFF00 in (0x0100, 0xA900) or status & 0xF000 == 0xC000):
        raise BusyError(reason)
    return reason


def settle(files: Iterable[Path], refuse: Callable[[Path], str], delivered: Callable[[Path], None]) -> list[Refusal]:
    """Find out for each file what became of it, and return those that were refused for good.

    Args:
        files: Paths of the files.
        refuse: Function that returns why the receiver refuses a file for good; '' if it confirms the file. It raises an
            `UnreachableError` if the file has to be sent again.
        delivered: Function that is called with the path of each file that is confirmed.

    Raises:
        UnreachableError: The first one, once all files are settled.

    Example:
        >>> settle([Path("sr.dcm"), Path("sc.dcm")], lambda path: "", lambda path: print(path))
        sr.dcm
        sc.dcm
        []
    """
    refusals, unsettled = [], None
    for path in files:
        try:
            reason = refuse(path)
        except UnreachableError as error:
            unsettled = unsettled or error  # an association that failed for one file fails for the others too
            continue
        if reason:
            refusals.append(Refusal(path, reason))
        else:
            delivered(path)
    if unsettled:
        raise unsettled
    return refusals
