"""Reasons for failures without patient data, for logs and for lists that people share."""

import os
import ssl

from pneumoseg.dicom_objects import RefusedError
from pneumoseg.image_errors import (
    DamagedError,
    ImageError,
    NoPixelsError,
    NotAnImageError,
    TooLargeError,
    UnsupportedError,
)

_REASONS: dict[type[BaseException], str] = {
    NotAnImageError: "is not a DICOM image",
    NoPixelsError: "holds no pixels",
    UnsupportedError: "is not a single frame of grey, or its codec is not supported",
    DamagedError: "is cut short or contradicts itself",
    TooLargeError: "exceeds the size limits",
    ImageError: "cannot be opened",
}


def describe(error: BaseException) -> str:
    """Return the class of an error and, if it is known, its reason, without any value from the file.

    The text of other errors may quote names, UIDs and paths, so only their class is told, and for an error of the
    operating system, or a file that cannot be opened because of one, its number's meaning; for TLS the name of the
    reason.

    Example:
        >>> describe(DamagedError("doe.dcm", "NumberOfFrames is 'DOE^JANE'")), describe(KeyError("doe"))
        ('DamagedError: is cut short or contradicts itself', 'KeyError')
    """
    name = type(error).__name__
    reason = _REASONS.get(type(error), "")
    if isinstance(error, RefusedError):
        reason = error.reason
    elif meaning := _meaning(error):
        reason = meaning
    elif type(error) is ImageError and (meaning := _meaning(error.__cause__)):
        reason = f"{reason} ({meaning})"
    return f"{name}: {reason}" if reason else name


def _meaning(error: BaseException | None) -> str:
    """Return the meaning of the number of an error of the operating system or of TLS; '' for other errors."""
    if isinstance(error, ssl.SSLError):
        return error.reason or ""
    return os.strerror(error.errno) if isinstance(error, OSError) and type(error.errno) is int else ""
