"""Recognition of DICOM files by their first bytes."""

import re
from itertools import islice

from pneumoseg.dicom.elements import USUAL_STARTS, is_implicit, walk

_DIRECTORY = re.compile(rb"1\.2\.840\.10008\.1\.3\.10(?![.\d])")
_LAST_GROUP = 0x0028


def is_dicom(head: bytes) -> bool:
    """Return whether a file is DICOM: it has a preamble, or its first two elements are those of a data set.

    Args:
        head: First bytes of the file, 1,024 or more if it has as many.

    Example:
        >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"image_id,label")
        (True, False)
    """
    return head[128:132] == b"DICM" or _begins_like_a_data_set(head)


def is_directory(head: bytes) -> bool:
    """Return whether a DICOM file lists other files, as DICOMDIR does on media: it holds no image.

    Args:
        head: First bytes of a DICOM file, 1,024 or more if it has as many.
    """
    return _DIRECTORY.search(head) is not None


def _begins_like_a_data_set(head: bytes) -> bool:
    if not head.startswith(USUAL_STARTS):
        return False
    little = head[:1] != b"\0"
    try:
        first, second = islice(walk(head, 0, len(head), is_implicit(head, 0), little), 2)
    except (EOFError, ValueError):  # An element beyond the head, or a single one.
        return False
    return first.tag < second.tag and second.tag >> 16 <= _LAST_GROUP
