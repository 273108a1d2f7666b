"""Recognition of DICOM files by their first bytes."""

import re
from itertools import islice

from pydicom.uid import UID

from pneumoseg.dicom.elements import USUAL_STARTS, is_implicit, walk

_DIRECTORY = re.compile(rb"1\.2\.840\.10008\.1\.3\.10(?![.\d])")
_LAST_GROUP = 0x0028
_SOP_CLASS_TAGS = (0x00020002, 0x00080016)  # Media Storage SOP Class UID, SOP Class UID
# Families of storage classes in PS3.4 annex B.5 and PS3.6 annex A: spectra, curves and waveforms, lookup tables and
# presentation states, raw data with registrations and segmentations, value mappings, surfaces, measurements, reports,
# annotations, documents, protocols, radiotherapy except for its images, hanging protocols, palettes and templates.
_NOT_AN_IMAGE = re.compile(
    r"1\.2\.840\.10008\.5\.1\.4\.(?:1\.1\.(?:4\.2|8|9|10|11|66|67|68|78|79|80|88|90|91|104|129|131|200|201"
    r"|481(?!\.(?:1|23|24)$))|34|38|39|43|44|45)(?:\.\d+)*"
)


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


def name_non_image(head: bytes) -> str:
    """Return the name of the storage class of a DICOM object that is not an image; '' for images and unknown objects.

    Such objects are reports, key object selections, presentation states, segmentations, documents, waveforms, raw data,
    and those of radiotherapy other than RT images.

    Args:
        head: First bytes of a DICOM file, 1,024 or more if it has as many.

    Example:
        >>> name_non_image(b"\\x08\\0\\x16\\0UI\\x1e\\0" + b"1.2.840.10008.5.1.4.1.1.88.59\\0")
        'Key Object Selection Document'
    """
    uid = _sop_class(head)
    return UID(uid).name.removesuffix(" Storage") if _NOT_AN_IMAGE.fullmatch(uid) else ""


def _sop_class(head: bytes) -> str:
    """Return the UID of the storage class, '' if it is not in the head."""
    start = 132 if head[128:132] == b"DICM" else 0
    little = head[start : start + 1] != b"\0"
    try:
        for element in walk(head, start, len(head), is_implicit(head, start), little):
            if element.tag in _SOP_CLASS_TAGS:
                return head[element.offset :][: element.length].rstrip(b"\0 ").decode("ascii", "replace")
    except (EOFError, ValueError):
        pass
    return ""


def _begins_like_a_data_set(head: bytes) -> bool:
    if not head.startswith(USUAL_STARTS):
        return False
    little = head[:1] != b"\0"
    try:
        first, second = islice(walk(head, 0, len(head), is_implicit(head, 0), little), 2)
    except (EOFError, ValueError):  # An element beyond the head, or a single one.
        return False
    return first.tag < second.tag and second.tag >> 16 <= _LAST_GROUP
