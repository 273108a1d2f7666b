"""Faults of the computer or of the network, which may pass, as opposed to faults of an image."""

import errno
from collections.abc import Iterator

from pneumoseg.image_errors import ImageError
from pneumoseg.pacs.delivery import UnreachableError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {errno.EAGAIN, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, *_FULL}
# Of TensorFlow, which is not imported for it; raised if a network finds no memory.
_NO_MEMORY = "ResourceExhaustedError"


def may_pass(error: BaseException) -> bool:
    """Return whether another attempt may succeed without any change of the image.

    So it is for errors of the operating system with a number, a lack of memory, and `UnreachableError`; for the error
    of an image that cannot be opened, since the queue wrote its file; and for errors that any of these caused. Pillow's
    errors about broken images are an OSError too, without a number.

    Example:
        >>> may_pass(OSError(errno.EMFILE, "Too many open files")), may_pass(ValueError("no pixels"))
        (True, False)
    """
    if isinstance(error, UnreachableError) or type(error) is ImageError:
        return True
    return (isinstance(error, OSError) and bool(error.errno)) or any(map(_is_lack, _chain(error)))


def is_full(error: BaseException) -> bool:
    """Return whether a full disk, or a quota, caused an error.

    Example:
        >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
        True
    """
    return any(isinstance(cause, OSError) and cause.errno in _FULL for cause in _chain(error))


def _is_lack(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return isinstance(error, MemoryError) or type(error).__name__ == _NO_MEMORY


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
