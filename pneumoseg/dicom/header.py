"""Header of a DICOM image: the part that a manifest keeps, and the checks before pixels are decoded."""

import math
import re
import warnings
from dataclasses import dataclass

from pneumoseg.dicom.elements import Elements
from pneumoseg.image_errors import DamagedError, TooLargeError, UnsupportedError
from pneumoseg.image_header import ImageHeader

MAX_PIXEL_BYTES = 80 * 2**20
"""Largest decoded size in bytes (rows x columns x frames x samples x bytes per sample): 6476 x 6476 at 16 bits."""
OLDEST_AGE = 130.0
"""Largest credible age, in years. Public chest X-ray collections hold typing errors such as 413."""

MOST_ELONGATED = 4.0
"""Largest credible ratio of the sides of a pixel."""
SQUARE_TOLERANCE = 0.01
"""Difference of the sides of a pixel, as a fraction, that counts as rounding of the spacing: the pixel is square."""

COLOUR_MODELS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})
"""Photometric interpretations with three samples per pixel that are read."""
PALETTE = "PALETTE COLOR"
"""Photometric interpretation of numbers of colours."""
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, PALETTE: 1} | dict.fromkeys(COLOUR_MODELS, 3)

_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_UNITS_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, "": 1.0}


@dataclass(frozen=True)
class PixelFormat:
    """Storage format of the pixels of a single image (PS3.3 section C.7.6.3), already checked.

    Attributes:
        path: Path of the file, for messages.
        rows: Height in pixels.
        columns: Width in pixels.
        photometric: MONOCHROME1, MONOCHROME2, PALETTE COLOR or one of `COLOUR_MODELS`.
        bits_allocated: Number of bits that a stored word takes, 8 or 16.
        bits_stored: Number of bits of a stored value, 1 to 16.
        high_bit: Number of the highest stored bit, counted from 0.
        signed: Whether stored values are signed, in two's complement.
        padding: Smallest and largest padding value (PS3.3 section C.7.5.1.1.2); None if there is none.
        samples: Number of values of a pixel, 3 for `COLOUR_MODELS` and otherwise 1.
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
    samples: int

    @property
    def stored_range(self) -> tuple[int, int]:
        """The smallest and the largest value that the stored bits can hold."""
        low = -(2 ** (self.bits_stored - 1)) if self.signed else 0
        return low, low + 2**self.bits_stored - 1

    @property
    def padding_code(self) -> int:
        """The code that marks padding outside the stored range: one above the largest code of the stored bits."""
        return 2**self.bits_stored


def read_format(elements: Elements) -> PixelFormat:
    """Return the storage format of the pixels, checked before any pixel is decoded.

    Args:
        elements: Data elements of the file.

    Returns:
        The format of one frame.

    Raises:
        UnsupportedError: If the image has an unknown colour model, several frames or more than 16 bits (8 in colour).
        TooLargeError: If the header announces more than `MAX_PIXEL_BYTES`.
        DamagedError: If a required element is absent or impossible.
    """
    path = elements.path
    rows, columns = _required(elements, "Rows"), _required(elements, "Columns")
    allocated, stored = _required(elements, "BitsAllocated"), _required(elements, "BitsStored")
    samples = (elements.integers("SamplesPerPixel") or [1])[0]
    frames = _frame_count(elements)
    if min(rows, columns, samples, allocated) < 1:
        raise DamagedError(path, f"its header announces {rows} x {columns} pixels of {samples} x {allocated} bits")
    size = rows * columns * samples * frames * math.ceil(allocated / 8)
    if size > MAX_PIXEL_BYTES:
        raise TooLargeError(path, f"its pixels take {size} bytes, expected at most {MAX_PIXEL_BYTES}")
    photometric = elements.text("PhotometricInterpretation").upper()
    if _SAMPLES.get(photometric) != samples:
        reason = f"has the colour model {photometric or 'unnamed'} with {samples} samples per pixel"
        raise UnsupportedError(path, reason)
    if frames != 1:
        raise UnsupportedError(path, f"holds {frames} frames", "Export the wanted frame as a separate image")
    if allocated not in (8, 16):
        raise UnsupportedError(path, f"allocates {allocated} bits per pixel, expected 8 or 16")
    if samples > 1 and (allocated, stored) != (8, 8):
        raise UnsupportedError(path, f"has colour of {stored} bits per sample, expected 8")
    high_bit = (elements.integers("HighBit") or [stored - 1])[0]
    if not 1 <= stored <= high_bit + 1 <= allocated:
        raise DamagedError(path, f"stores {stored} bits up to bit {high_bit} in words of {allocated} bits")
    signed = (elements.integers("PixelRepresentation") or [0])[0] == 1
    padding = _padding_range(elements, signed)
    return PixelFormat(path, rows, columns, photometric, allocated, stored, high_bit, signed, padding, samples)


def build_header(elements: Elements, pixels: PixelFormat, syntax: str, frame: tuple[int, int]) -> ImageHeader:
    """Return the header of an image.

    Args:
        elements: Data elements of the file.
        pixels: Storage format of the pixels.
        syntax: UID of the transfer syntax.
        frame: Position and length in the file, in bytes, of the frame that TensorFlow decodes to the image, or zeros.

    Returns:
        The header.
    """
    spacing, source = _pixel_spacing(elements)
    return ImageHeader(
        file_format="DICOM",
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
        pixel_spacing=spacing,
        spacing_source=source,
        pixel_aspect=_pixel_aspect(elements, spacing),
        frame_offset=frame[0],
        frame_length=frame[1],
    )


def parse_age(text: str) -> float | None:
    """Return the age in years of an age string (PS3.5 section 6.2, VR AS).

    Args:
        text: Digits and one of D, W, M, Y. Bare digits, as in the competition's files, are years.

    Returns:
        The age; a month is 1/12 year and a day 1/365.25 year. None for any other text and above `OLDEST_AGE`.

    Example:
        >>> parse_age("038Y"), parse_age("51"), parse_age("06M"), parse_age("413")
        (38.0, 51.0, 0.5, None)
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


def _frame_count(elements: Elements) -> int:
    """Return Number of Frames; 1 if it is absent, empty or 0."""
    text = elements.text("NumberOfFrames") or "1"
    if not re.fullmatch(r"\+?\d{1,10}", text):
        raise DamagedError(elements.path, f"NumberOfFrames is {text[:20]!r}")
    return int(text) or 1


def _padding_range(elements: Elements, signed: bool) -> tuple[int, int] | None:
    """Return the smallest and the largest padding value; some writers swap the ends of the range."""
    first = elements.integers("PixelPaddingValue", signed)
    if not first:
        return None
    ends = (first[0], (elements.integers("PixelPaddingRangeLimit", signed) or first)[0])
    return min(ends), max(ends)


def _pixel_spacing(elements: Elements) -> tuple[tuple[float, float] | None, str]:
    """Return the distances between rows and between columns in mm, and the element that gives them."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if pair := _sides(elements, keyword):
            return pair, keyword
    return None, ""


def _pixel_aspect(elements: Elements, spacing: tuple[float, float] | None) -> float:
    """Return the height of a pixel divided by its width (PS3.3 section C.7.6.3.1.7)."""
    pair = spacing or _sides(elements, "PixelAspectRatio")
    aspect = pair[0] / pair[1] if pair else 1.0
    return aspect if abs(aspect - 1) > SQUARE_TOLERANCE else 1.0


def _sides(elements: Elements, keyword: str) -> tuple[float, float] | None:
    """Return the height and the width of a pixel; None if they are absent, not positive, or not credible.

    Warns:
        UserWarning: If one is more than `MOST_ELONGATED` times the other. The text names the file.
    """
    values = elements.numbers(keyword)
    if len(values) != 2 or not all(math.isfinite(value) and value > 0 for value in values):
        return None
    height, width = values
    if max(height, width) > MOST_ELONGATED * min(height, width):
        warnings.warn(f"{elements.path}: its {keyword} is {height:g}\\{width:g}, which is ignored", stacklevel=3)
        return None
    return height, width
