"""Errors for files that give no image: one class per cause."""


class ImageError(ValueError):
    """Error of a file that gives no image. Its message names the file, the reason and the remedy.

    The class itself is raised if the file cannot be opened; every other cause has a subclass. Errors survive pickling,
    so they can cross process pools.

    Attributes:
        path: Path of the file, as the caller gave it.
        reason: Fault of the file, without a full stop.
        remedy: What to do about it, without a full stop.

    Example:
        >>> print(ImageError("chest.dcm", "cannot be opened (Permission denied)"))
        chest.dcm: cannot be opened (Permission denied). Check that the path is right and that the file may be read
    """

    default_remedy = "Check that the path is right and that the file may be read"

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        """Create the error.

        Args:
            path: Path of the file.
            reason: Fault of the file, without a full stop.
            remedy: What to do about it, without a full stop; by default the remedy of the class.
        """
        self.path = path
        self.reason = reason
        self.remedy = remedy or self.default_remedy
        # Unpickling calls the class with these arguments.
        super().__init__(self.path, self.reason, self.remedy)

    def __str__(self) -> str:
        """Return the file, the reason and the remedy."""
        text = f"{self.path}: {self.reason}. {self.remedy}"
        # A path need not be UTF-8, but a message is written as UTF-8.
        return text.encode("utf-8", "backslashreplace").decode()


class NotAnImageError(ImageError):
    """Error of a file that is not an image of a format that is read: text, a film, an empty file.

    Example:
        >>> print(NotAnImageError("notes.txt", "is not an image"))
        notes.txt: is not an image. Give a DICOM, PNG, JPEG or TIFF file
    """

    default_remedy = "Give a DICOM, PNG, JPEG or TIFF file"


class NoPixelsError(ImageError):
    """Error of a DICOM file without an image: a report, a plan, a directory, a presentation state.

    Example:
        >>> NoPixelsError("report.dcm", "holds no pixels").remedy
        'Give the image that this object belongs to, or leave the file out'
    """

    default_remedy = "Give the image that this object belongs to, or leave the file out"


class UnsupportedError(ImageError):
    """Error of an image that is not a single frame of grey, of at most 16 bits, or whose codec is not supported.

    Example:
        >>> UnsupportedError("cine.dcm", "holds 30 frames").reason
        'holds 30 frames'
    """

    default_remedy = "Export the file as a single-frame MONOCHROME2 image of 8 to 16 bits, uncompressed"


class DamagedError(ImageError):
    """Error of a file that is cut short or contradicts itself.

    Example:
        >>> print(DamagedError("chest.dcm", "Rows is absent"))
        chest.dcm: Rows is absent. Fetch the file again from its source
    """

    default_remedy = "Fetch the file again from its source"


class TooLargeError(ImageError):
    """Error of a file, an image or an inflated data set that exceeds the size limits; raised before decoding.

    Example:
        >>> TooLargeError("chest.dcm", "is 600000000 bytes long").path
        'chest.dcm'
    """

    default_remedy = "Check that the file is a radiograph; real ones are far smaller"


DicomError = ImageError
"""Earlier name of `ImageError`."""
NotDicomError = NotAnImageError
"""Earlier name of `NotAnImageError`."""
