"""Reasons without patient data."""

import errno

import pytest

from pneumoseg import image_errors
from pneumoseg.dicom_objects import RefusedError
from pneumoseg.image_errors import ImageError
from pneumoseg.pacs.reasons import describe

SECRET = "QUORN^ZACHARY"


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (image_errors.NotAnImageError(SECRET, SECRET, SECRET), "NotAnImageError: is not a DICOM image"),
        (image_errors.NoPixelsError(SECRET, SECRET, SECRET), "NoPixelsError: holds no pixels"),
        (
            image_errors.UnsupportedError(SECRET, SECRET, SECRET),
            "UnsupportedError: is not a single frame of grey, or its codec is not supported",
        ),
        (image_errors.DamagedError(SECRET, SECRET, SECRET), "DamagedError: is cut short or contradicts itself"),
        (image_errors.TooLargeError(SECRET, SECRET, SECRET), "TooLargeError: exceeds the size limits"),
        (ImageError(SECRET, SECRET, SECRET), "ImageError: cannot be opened"),
        (RefusedError(SECRET, "is a lateral view", SECRET), "RefusedError: is a lateral view"),
        (OSError(errno.ENOSPC, SECRET, SECRET), "OSError: No space left on device"),
        (PermissionError(errno.EACCES, SECRET, SECRET), "PermissionError: Permission denied"),
        (OSError(SECRET), "OSError"),
        (OSError(SECRET, SECRET), "OSError"),
        (KeyError(SECRET), "KeyError"),
        (KeyboardInterrupt(SECRET), "KeyboardInterrupt"),
    ],
)
def test_the_class_and_a_fixed_reason_are_told(error, text):
    assert describe(error) == text


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (PermissionError(errno.EACCES, SECRET, SECRET), "ImageError: cannot be opened (Permission denied)"),
        (ValueError(SECRET), "ImageError: cannot be opened"),
    ],
)
def test_the_operating_system_says_why_a_file_cannot_be_opened(cause, text):
    error = ImageError(SECRET, SECRET)
    error.__cause__ = cause
    assert describe(error) == text


def test_each_class_of_image_errors_has_a_reason():
    errors = [kind(SECRET, "is lateral") for kind in subclasses(ImageError) if kind.__module__.startswith("pneumoseg")]
    assert len(errors) >= 7
    for error in errors:
        assert ": " in describe(error)
        assert SECRET not in describe(error)


def test_an_unknown_image_error_tells_its_class_only():
    class OtherError(ImageError):
        """An error that quotes a value."""

    assert describe(OtherError("x", SECRET)) == "OtherError"
