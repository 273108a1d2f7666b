"""The error classes."""

import pickle

import pytest

from pneumoseg.image_errors import (
    DamagedError,
    ImageError,
    NoPixelsError,
    NotAnImageError,
    TooLargeError,
    UnsupportedError,
)


@pytest.mark.parametrize(
    "kind", [ImageError, NotAnImageError, NoPixelsError, UnsupportedError, DamagedError, TooLargeError]
)
def test_errors_survive_pickling(kind):
    for error in (kind("a.dcm", "is odd"), kind("a.dcm", "is odd", "Do something")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.path, again.reason, again.remedy, str(again)) == ("a.dcm", "is odd", error.remedy, str(error))
