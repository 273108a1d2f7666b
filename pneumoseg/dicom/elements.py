"""Data elements of a DICOM file: size-limited reading without decoding pixels or trusting any value.

pydicom's dictionary names the elements, but its reader is not used: it warns about values that break the standard (the
UIDs of the competition's test images do), inflates without a limit, recurses into nested sequences, and accepts a file
that is cut short. The functions here need only tags and lengths, and the tests compare their results with pydicom's.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pneumoseg.image_errors import (
    DamagedError,
    ImageError,
    NoPixelsError,
    NotAnImageError,
    TooLargeError,
    UnsupportedError,
)
from pneumoseg.remote_files import is_remote, read_remote

MAX_FILE_BYTES = 256 * 2**20
"""Largest file that is read, in bytes. An uncompressed radiograph of 16 bits has 10 to 40 MB."""
MAX_INFLATED_BYTES = 256 * 2**20
"""Largest size that the data set of a deflated file may expand to, in bytes."""

MAX_TEXT_BYTES = 1024
"""Largest part of a text value that is read, in bytes. The standard's limits for these elements are far lower."""

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD

_KEYWORDS = """
    TransferSyntaxUID SOPClassUID SOPInstanceUID PatientID PatientSex PatientAge ViewPosition PixelSpacing
    ImagerPixelSpacing PixelAspectRatio SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames
    Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
    ModalityLUTSequence RescaleIntercept RescaleSlope VOILUTSequence VOILUTFunction WindowCenter WindowWidth
    LUTDescriptor LUTData RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
    BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData
    BluePaletteColorLookupTableData FloatPixelData DoubleFloatPixelData PixelData
    SpecificCharacterSet StudyInstanceUID SeriesInstanceUID StudyDate StudyTime StudyID AccessionNumber
    ReferringPhysicianName StudyDescription PatientName IssuerOfPatientID PatientBirthDate PatientIdentityRemoved
    DeidentificationMethod Manufacturer ManufacturerModelName SeriesDescription DerivationDescription PatientOrientation
    BodyPartExamined Laterality ViewCodeSequence CodeValue BurnedInAnnotation LossyImageCompression
    LossyImageCompressionRatio LossyImageCompressionMethod
"""
_KEYWORD_OF = {tag_for_keyword(keyword): keyword for keyword in _KEYWORDS.split()}
_BINARY = {b"FD": "f8", b"FL": "f4", b"SL": "i4", b"SS": "i2", b"UL": "u4", b"US": "u2"}
# Group 0002, and group 0008 in either byte order.
USUAL_STARTS = (b"\x02\0", b"\x08\0", b"\0\x08")
# With these value representations an explicit length takes four bytes, after two reserved ones (PS3.5 section 7.1.2).
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


class Element(NamedTuple):
    """Location of the value of one data element.

    Attributes:
        tag: Tag, group and element number in one integer.
        vr: Value representation, b'' if implicit.
        implicit: Whether the element was written without its value representation.
        offset: Position of the value, in bytes.
        length: Length of the value, in bytes, or `UNDEFINED_LENGTH`.
    """

    tag: int
    vr: bytes
    implicit: bool
    offset: int
    length: int


@dataclass
class Elements:
    """Data elements of one data set, limited to those that are needed here. Values are converted on request.

    Attributes:
        path: Path of the file, for messages.
        content: Bytes that the positions refer to: the whole file, or the inflated data set of a deflated file.
        little: Whether numbers are little endian.
        found: Elements by keyword.
    """

    path: str
    content: bytes
    little: bool
    found: dict[str, Element] = field(default_factory=dict)

    def value(self, keyword: str) -> bytes:
        """Return the bytes of a value; b'' if it is absent or has an undefined length."""
        element = self.found.get(keyword)
        if element is None or element.length == UNDEFINED_LENGTH:
            return b""
        return self.content[element.offset : element.offset + element.length]

    def text(self, keyword: str) -> str:
        """Return a value as stripped text; '' if it is absent.

        The text is decoded as UTF-8, or as Latin-1 if that fails, whatever character set the file names.
        """
        value = self.value(keyword)[:MAX_TEXT_BYTES]
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        return text.strip(" \0\r\n\t")

    def numbers(self, keyword: str) -> list[float]:
        """Return the values of a decimal string; [] if it is absent. A value that is not a number becomes NaN.

        Decimal commas, written in some locales, and binary value representations, used by some writers, are accepted.
        """
        element = self.found.get(keyword)
        if element is not None and element.vr in _BINARY:
            dtype = np.dtype(f"{'<' if self.little else '>'}{_BINARY[element.vr]}")
            value = self.value(keyword)[:MAX_TEXT_BYTES]
            return np.frombuffer(value, dtype, len(value) // dtype.itemsize).tolist()
        text = self.text(keyword)
        return [_number(part) for part in text.split("\\")] if text else []

    def integers(self, keyword: str, signed: bool = False) -> list[int]:
        """Return up to three values of a 16-bit binary element; [] if it is absent."""
        value = self.value(keyword)[:6]
        count, code = len(value) // 2, "h" if signed else "H"
        return list(struct.unpack_from(f"{'<' if self.little else '>'}{count}{code}", value))

    def first_item(self, keyword: str) -> "Elements | None":
        """Return the first item of a sequence; None if the sequence is absent or empty.

        Raises:
            DamagedError: If the sequence does not begin with an item, or the item is cut short.
        """
        element = self.found.get(keyword)
        if element is None or element.length == 0:
            return None
        tag, length = read_item(self.content, element.offset, self.little)
        if tag == SEQUENCE_END:
            return None
        if tag != ITEM:
            raise DamagedError(self.path, f"{keyword} does not begin with an item")
        item = Elements(self.path, self.content, self.little)
        start = element.offset + 8
        implicit = element.implicit or is_implicit(self.content, start)
        item.collect(start, len(self.content) if length == UNDEFINED_LENGTH else start + length, implicit)
        return item

    def collect(self, offset: int, end: int, implicit: bool) -> None:
        """Keep the needed elements between two positions, up to and including Pixel Data.

        Args:
            offset: Position of the first element, in bytes.
            end: Position after the last element, in bytes.
            implicit: Whether value representations are omitted.

        Raises:
            DamagedError: If an element extends beyond `end` or beyond the content.
        """
        try:
            for element in walk(self.content, offset, end, implicit, self.little):
                if keyword := _KEYWORD_OF.get(element.tag):
                    self.found[keyword] = element
                if keyword == "PixelData":
                    break
        except EOFError as error:
            raise DamagedError(self.path, f"is cut short: {error}") from error


def walk(content: bytes, offset: int, end: int, implicit: bool, little: bool) -> Iterator[Element]:
    """Yield the elements of a data set in order, skipping the contents of sequences without recursion.

    Args:
        content: Bytes that hold the data set.
        offset: Position of the first element, in bytes.
        end: Position after the last element, in bytes. A delimiter that closes nothing also ends the walk.
        implicit: Whether value representations are omitted.
        little: Whether numbers are little endian.

    Yields:
        The elements outside of sequences; a sequence is one element.

    Raises:
        EOFError: If an element or a sequence does not end before `end`.
    """
    order = "<" if little else ">"
    unpack, unpack_length = struct.Struct(f"{order}HHL").unpack_from, struct.Struct(f"{order}L").unpack_from
    unpack_short = struct.Struct(f"{order}H").unpack_from
    all_implicit = implicit
    # For each open sequence or item of undefined length: whether the data around it are in implicit VR.
    enclosing: list[bool] = []
    while offset + 8 <= end:
        group, number, length = unpack(content, offset)
        tag, vr, value = group << 16 | number, b"", offset + 8
        if not implicit and group != 0xFFFE and _is_vr(content[offset + 4 : value]):
            vr = content[offset + 4 : offset + 6]
            (length,) = unpack_short(content, offset + 6)
            if vr in _LONG_VRS and value + 4 <= end:
                (length,), value = unpack_length(content, value), value + 4
        if tag in (ITEM_END, SEQUENCE_END):
            if not enclosing:
                return
            implicit, offset = enclosing.pop(), value
            continue
        undefined = length == UNDEFINED_LENGTH
        offset = value if undefined else value + length
        if offset > min(end, len(content)):
            raise EOFError(f"the element at byte {value} is announced as {length} bytes long")
        if not enclosing:
            yield Element(tag, vr, implicit, value, length)
        if undefined:
            enclosing.append(implicit)
            # An element of VR UN should hold implicit items (PS3.5 section 6.2.2), but some writers make them explicit.
            if tag == ITEM and not all_implicit:
                implicit = is_implicit(content, offset)
    if enclosing or offset < end:
        raise EOFError(f"a sequence or an element is still open at byte {offset}")


def read_item(content: bytes, offset: int, little: bool = True) -> tuple[int, int]:
    """Return the tag and length of an item or delimiter; (0, 0) if the content ends before it."""
    if offset + 8 > len(content):
        return 0, 0
    group, number, length = struct.unpack_from("<HHL" if little else ">HHL", content, offset)
    return group << 16 | number, length


def read_elements(path: str | os.PathLike[str]) -> tuple[Elements, str, bool]:
    """Read the data elements of a file up to its pixels, without decoding these.

    Args:
        path: Path of a DICOM file, see `find_elements`.

    Returns:
        The same as `find_elements`.

    Raises:
        ImageError: If the file cannot be opened (the base class), or for the reasons that `find_elements` lists.
    """
    name = os.fsdecode(path)
    return find_elements(name, read_file(name))


def find_elements(path: str, content: bytes) -> tuple[Elements, str, bool]:
    """Find the data elements of a file up to its pixels, without decoding these.

    Args:
        path: Path of the file, for messages.
        content: Content of a DICOM file, with or without preamble and meta information.

    Returns:
        The elements, including Pixel Data; the UID of the transfer syntax, inferred from the bytes if the file does not
        name it; and whether positions in the elements' content are positions in the file.

    Raises:
        ImageError: If the file is not DICOM, holds no pixels, is damaged or is too large.
    """
    start = 132 if content[128:132] == b"DICM" else 0
    if not start and content[:2] in (b"", b"\0", b"\0\0"):
        raise NotAnImageError(path, "is not DICOM" if content else "is empty")
    meta = Elements(path, content, little=True)
    begin = _collect_meta(meta, start)
    syntax = meta.text("TransferSyntaxUID")
    deflated = syntax == DeflatedExplicitVRLittleEndian
    if deflated:
        content, begin = _inflate(path, content[begin:]), 0
    implicit, little = _encoding(content, begin, syntax)
    elements = Elements(path, content, little)
    try:
        elements.collect(begin, len(content), implicit)
    except DamagedError as error:
        # Content that begins neither like a file nor like most data sets is probably not a damaged DICOM file.
        if start or content[:2] in USUAL_STARTS:
            raise
        raise NotAnImageError(path, "is not DICOM") from error
    _require_pixels(elements, named=bool(start))
    guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return elements, syntax or str(guess), not deflated


def read_file(path: str) -> bytes:
    """Return the content of a regular file of limited size.

    Args:
        path: Path of the file, or its URL, see `remote_files`.

    Raises:
        ImageError: If the file cannot be opened.
        TooLargeError: If it is longer than `MAX_FILE_BYTES`.
    """
    try:
        if is_remote(path):
            return read_remote(path, MAX_FILE_BYTES)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "is a folder or a device, not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise TooLargeError(path, f"is {status.st_size} bytes long, expected at most {MAX_FILE_BYTES}")
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the name has a null byte
        raise ImageError(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def _collect_meta(meta: Elements, start: int) -> int:
    """Keep the file meta information (group 0002, always explicit little endian).

    Returns:
        The position at which the data set begins.
    """
    content = meta.content
    try:
        while content[start : start + 2] == b"\x02\0":
            element = next(walk(content, start, len(content), implicit=False, little=True))
            if keyword := _KEYWORD_OF.get(element.tag):
                meta.found[keyword] = element
            start = element.offset + element.length
    except EOFError as error:
        raise DamagedError(meta.path, f"is cut short: {error}") from error
    return start


def _inflate(path: str, deflated: bytes) -> bytes:
    """Return the data set of a deflated file without expanding it beyond the limit."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(deflated, MAX_INFLATED_BYTES + 1)
    except zlib.error as error:
        raise DamagedError(path, f"its deflated data set cannot be expanded ({error})") from error
    if len(content) > MAX_INFLATED_BYTES:
        raise TooLargeError(path, f"its deflated data set expands to more than {MAX_INFLATED_BYTES} bytes")
    if not stream.eof:
        raise DamagedError(path, "its deflated data set is cut short")
    return content


def _encoding(content: bytes, offset: int, syntax: str) -> tuple[bool, bool]:
    """Return whether the data set omits its value representations, and whether it is little endian.

    The bytes decide about the value representations, because some writers name the wrong transfer syntax. They also
    decide about the byte order if no transfer syntax is named: in the wrong byte order, group 0008 reads as 0800.
    """
    implicit = is_implicit(content, offset)
    wrong_order = not implicit and content[offset : offset + 1] == b"\0"
    return implicit, syntax != ExplicitVRBigEndian if syntax else not wrong_order


def _require_pixels(elements: Elements, named: bool) -> None:
    """Raise the error that says why a data set has no Pixel Data, if it has none."""
    path, found = elements.path, elements.found
    if "PixelData" in found:
        return
    if "FloatPixelData" in found or "DoubleFloatPixelData" in found:
        raise UnsupportedError(path, "its pixels are floating-point numbers")
    if not named and "SOPClassUID" not in found:
        raise NotAnImageError(path, "is not DICOM")
    if "Rows" in found:
        raise DamagedError(path, "is cut short before its Pixel Data")
    raise NoPixelsError(path, f"holds no pixels (SOP Class UID {elements.text('SOPClassUID') or 'not given'})")


def is_implicit(content: bytes, offset: int) -> bool:
    """Return whether the element at a position omits its value representation."""
    return not _is_vr(content[offset + 4 : offset + 6])


def _is_vr(text: bytes) -> bool:
    return text[:2].isalpha() and text[:2].isupper()


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return float("nan")
