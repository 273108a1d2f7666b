"""Error of images whose results cannot be stored as DICOM objects."""

from pneumoseg.image_errors import ImageError


class RefusedError(ImageError):
    """Error of an image that gets no DICOM objects, though its pixels may be sound.

    Its reason and remedy hold no value from the file, so that they may be logged.

    Example:
        >>> RefusedError("chest.dcm", "has no valid Study Instance UID").reason
        'has no valid Study Instance UID'
    """

    default_remedy = "Give a frontal radiograph as a DICOM file with the UIDs of its study"


class OwnObjectError(RefusedError):
    """Error of an image that pneumoseg itself made: reading it would make a loop."""

    default_remedy = "Send original images only"
