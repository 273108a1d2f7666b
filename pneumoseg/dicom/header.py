"""What a manifest keeps of a DICOM header, and the checks a header passes before its pixels are decoded."""

import math
import re
from dataclasses import dataclass

from pneumoseg.dicom.elements import Elements
from pneumoseg.dicom.errors import DamagedError, TooLargeError, UnsupportedError

MAX_PIXEL_BYTES = 80 * 2**20
"""Largest decoded size, rows x columns x frames x samples x bytes: 6476 x 6476 at 16 bits."""
OLDEST_AGE = 130.0
"""Ages beyond it, in years, are typing errors: public chest X-ray collections hold ages such as 413."""

_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_UNITS_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, "": 1.0}


@dataclass(frozen=True)
class DicomHeader:
    """What is known of an image beside its pixels; text is '' where the file is silent.

    Attributes:
        sop_instance_uid: SOP Instance UID.
        patient_id: Patient ID.
        view: View Position, such as PA or AP.
        sex: Patient's Sex: F, M or O.
        age: Patient's Age in years; None where it is absent, no age, or over `OLDEST_AGE`.
        rows: Height in pixels.
        columns: Width in pixels.
        photometric: MONOCHROME1 or MONOCHROME2, as stored; the image is always given white where dense.
        bits_stored: Bits a stored value has, 1 to 16.
        transfer_syntax: UID of the transfer syntax.
        pixel_spacing: Distance between rows and between columns, in mm; None where absent or not positive.
        frame_offset: Position in the file, in bytes, of the one JPEG frame that
            `tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE")` turns into exactly this image;
            0 where there is no such frame.
        frame_length: Length of that frame in bytes, or 0.
    """

    sop_instance_uid: str
    patient_id: str
    view: str
    sex: str
    age: float | None
    rows: int
    columns: int
    photometric: str
    bits_stored: int
    transfer_syntax: str
    pixel_spacing: tuple[float, float] | None
    frame_offset: int
    frame_length: int


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of a single greyscale image are stored (PS3.3 section C.7.6.3), already checked.

    `padding`: smallest and largest value that pads (PS3.3 section C.7.5.1.1.2), None where none does.
    """

    path: str
    rows: int
    columns: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    padding: tuple[int, int] | None

    @property
    def stored_range(self) -> tuple[int, int]:
        """Return the smallest and the largest value that the stored bits can hold."""
        low = -(2 ** (self.bits_stored - 1)) if self.signed else 0
        return low, low + 2**self.bits_stored - 1

    @property
    def padding_code(self) -> int:
        """Return what stands, among stored bits, for a padding value that these cannot hold: the code behind them."""
        return 2**self.bits_stored


def read_format(elements: Elements) -> PixelFormat:
    """Read and check how the pixels are stored, before any of them is decoded.

    Args:
        elements: The elements of the file.

    Returns:
        The format of one greyscale frame.

    Raises:
        UnsupportedError: Colour, several frames, or more than 16 bits.
        TooLargeError: The header announces more than `MAX_PIXEL_BYTES`.
        DamagedError: A needed element is absent or impossible.
    """
    path = elements.path
    rows, columns = _required(elements, "Rows"), _required(elements, "Columns")
    allocated, stored = _required(elements, "BitsAllocated"), _required(elements, "BitsStored")
    samples = (elements.integers("SamplesPerPixel") or [1])[0]
    frames = _frames(elements)
    if min(rows, columns, samples, allocated) < 1:
        raise DamagedError(path, f"says that its image is {rows} x {columns}, {samples} x {allocated} bits")
    size = rows * columns * samples * frames * math.ceil(allocated / 8)
    if size > MAX_PIXEL_BYTES:
        raise TooLargeError(path, f"says that its pixels take {size} bytes; at most {MAX_PIXEL_BYTES} are decoded")
    photometric = elements.text("PhotometricInterpretation").upper()
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedError(path, f"is not greyscale ({photometric or 'unnamed'}, {samples} samples a pixel)")
    if frames != 1:
        raise UnsupportedError(path, f"holds {frames} frames", "Export the wanted frame as an image of its own")
    if allocated not in (8, 16):
        raise UnsupportedError(path, f"allocates {allocated} bits a pixel; 8 and 16 are read")
    high_bit = (elements.integers("HighBit") or [stored - 1])[0]
    if not 1 <= stored <= high_bit + 1 <= allocated:
        raise DamagedError(path, f"stores {stored} bits up to bit {high_bit} in {allocated}")
    signed = (elements.integers("PixelRepresentation") or [0])[0] == 1
    padding = _padding(elements, signed)
    return PixelFormat(path, rows, columns, photometric, allocated, stored, high_bit, signed, padding)


def describe(elements: Elements, pixels: PixelFormat, syntax: str, frame: tuple[int, int]) -> DicomHeader:
    """Gather the header of an image.

    Args:
        elements: The elements of the file.
        pixels: How its pixels are stored.
        syntax: UID of its transfer syntax.
        frame: Position and length in the file of the frame that TensorFlow decodes to the image, or zeros.
    """
    return DicomHeader(
        sop_instance_uid=elements.text("SOPInstanceUID"),
        patient_id=elements.text("PatientID"),
        view=elements.text("ViewPosition"),
        sex=elements.text("PatientSex"),
        age=parse_age(elements.text("PatientAge")),
        rows=pixels.rows,
        columns=pixels.columns,
        photometric=pixels.photometric,
        bits_stored=pixels.bits_stored,
        transfer_syntax=syntax,
        pixel_spacing=_spacing(elements.numbers("PixelSpacing")),
        frame_offset=frame[0],
        frame_length=frame[1],
    )


def parse_age(text: str) -> float | None:
    """Turn an age string (PS3.5 section 6.2, VR AS) into years.

    Args:
        text: Digits and one of D, W, M, Y; bare digits, as in the competition, are years.

    Returns:
        Years, a month being 1/12 and a day 1/365.25 of one; None for anything else and beyond `OLDEST_AGE`.
    """
    match = _AGE.fullmatch(text.strip().upper())
    if match is None:
        return None
    age = int(match[1]) / _UNITS_PER_YEAR[match[2]]
    return age if age <= OLDEST_AGE else None


def _required(elements: Elements, keyword: str) -> int:
    values = elements.integers(keyword)
    if not values:
        raise DamagedError(elements.path, f"{keyword} is absent")
    return values[0]


def _frames(elements: Elements) -> int:
    """Return Number of Frames, 1 where it is absent, empty or 0."""
    text = elements.text("NumberOfFrames") or "1"
    if not re.fullmatch(r"\+?\d{1,10}", text):
        raise DamagedError(elements.path, f"NumberOfFrames is {text[:20]!r}")
    return int(text) or 1


def _padding(elements: Elements, signed: bool) -> tuple[int, int] | None:
    """Return the ends of what pads: one value, or a range whose ends some writers swap."""
    first = elements.integers("PixelPaddingValue", signed)
    if not first:
        return None
    ends = (first[0], (elements.integers("PixelPaddingRangeLimit", signed) or first)[0])
    return min(ends), max(ends)


def _spacing(values: list[float]) -> tuple[float, float] | None:
    if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
        return None
    return values[0], values[1]
