"""Origin of an object in an output folder: which pipeline wrote it, and from which image."""

import re
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread

from pneumoseg.dicom_objects.maker import MAKER

_NAME = re.compile(r"[\d.]+#[\d.]+\.dcm")
_REFERENCES = ["ReferencedSeriesSequence", "CurrentRequestedProcedureEvidenceSequence", "SourceImageSequence"]
"""Elements of a segmentation, of a report and of a picture that name the image."""


class Origin(NamedTuple):
    """Origin of an object.

    Attributes:
        pipeline: Digest of the pipeline.
        instance: SOP Instance UID of the image.

    Example:
        >>> Origin("0f3a", "1.2.3") == Origin("0f3a", "1.2.4")
        False
    """

    pipeline: str
    instance: str


def read_origin(path: Path) -> Origin | None:
    """Return the origin of an object, as its header tells it.

    Args:
        path: Path of a file, a folder or anything else.

    Returns:
        The origin; None if the folder command did not write the file, by its name, its manufacturer and its references.

    Example:
        >>> read_origin(Path("out/2.25.1#2.25.2.dcm"))  # doctest: +SKIP
        Origin(pipeline='0f3a...', instance='1.2.3')
    """
    if not (_NAME.fullmatch(path.name) and path.is_file()):
        return None
    try:
        header = dcmread(
            path, specific_tags=["Manufacturer", "DeviceSerialNumber", *_REFERENCES], stop_before_pixels=True
        )
        images = {str(element.value) for element in header.iterall() if element.keyword == "ReferencedSOPInstanceUID"}
        if header.Manufacturer != MAKER or len(images) != 1:
            return None
        return Origin(str(header.DeviceSerialNumber), images.pop())
    except Exception:  # whatever a malformed file makes pydicom raise
        return None
