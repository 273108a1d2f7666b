"""What can be wrong with a DICOM file: one error a cause."""


class DicomError(ValueError):
    """A DICOM file that gives no image. Its message names the file, the reason and the remedy.

    Raised itself where the file cannot be opened at all; each other cause has a subclass. It survives pickling, so it
    can cross a process pool.

    Attributes:
        path: The file, as the caller named it.
        reason: What is wrong with it, without a full stop.
        remedy: What to do about it.
    """

    default_remedy = "Check that the path is right and that the file may be read"

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        """Say what is wrong with a file; the remedy is by default the one of the class."""
        self.path = path
        self.reason = reason
        self.remedy = remedy or self.default_remedy
        # The arguments are what pickling calls the class with again.
        super().__init__(self.path, self.reason, self.remedy)

    def __str__(self) -> str:
        """The file, the reason and the remedy."""
        text = f"{self.path}: {self.reason}. {self.remedy}."
        return text.encode("utf-8", "backslashreplace").decode()  # a path need not be UTF-8, what says it is written


class NotDicomError(DicomError):
    """The bytes are not a DICOM data set: text, a PNG, an empty file."""

    default_remedy = "Give a DICOM file; other image formats are not read here"


class NoPixelsError(DicomError):
    """A DICOM data set without an image: a report, a plan, a directory, a presentation state."""

    default_remedy = "Give the image this object belongs to, or leave the file out"


class UnsupportedError(DicomError):
    """A DICOM image of a kind that is not a single greyscale radiograph of up to 16 bits, or a codec not read here."""

    default_remedy = "Export the file as a single-frame MONOCHROME2 image of 8 to 16 bits, uncompressed"


class DamagedError(DicomError):
    """A DICOM file that is cut short or contradicts itself."""

    default_remedy = "Fetch the file again from its source"


class TooLargeError(DicomError):
    """A file, an image or an inflated data set over the limits, refused before it is decoded."""

    default_remedy = "Check that the file is a radiograph; real ones are far smaller"
