"""From a path to the data elements that matter: bounded in size, no pixel decoded, no value trusted.

pydicom's dictionary names the elements, but its reader is not used: it warns about every value that breaks the standard
(the ages and UIDs of the competition do), inflates without bound, recurses into nested sequences, and takes a file cut
short for a whole one. The walk below needs only tags and lengths, and the tests compare its outcome with pydicom's.
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

from pneumoseg.dicom.errors import (
    DamagedError,
    DicomError,
    NoPixelsError,
    NotDicomError,
    TooLargeError,
    UnsupportedError,
)

MAX_FILE_BYTES = 256 * 2**20
"""Largest file read, in bytes; a radiograph of 16 bits is 10 to 40 MB uncompressed."""
MAX_INFLATED_BYTES = 256 * 2**20
"""Largest size, in bytes, that the data set of a deflated file may expand to."""

MAX_TEXT_BYTES = 1024
"""How much of a text value is read; the standard's limits for those used here are far lower."""

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD

_KEYWORDS = """
    TransferSyntaxUID SOPClassUID SOPInstanceUID PatientID PatientSex PatientAge ViewPosition PixelSpacing
    SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns BitsAllocated BitsStored HighBit
    PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit ModalityLUTSequence RescaleIntercept RescaleSlope
    VOILUTSequence VOILUTFunction WindowCenter WindowWidth LUTDescriptor LUTData
    FloatPixelData DoubleFloatPixelData PixelData
"""
_KEYWORD_OF = {tag_for_keyword(keyword): keyword for keyword in _KEYWORDS.split()}
_BINARY = {b"FD": "f8", b"FL": "f4", b"SL": "i4", b"SS": "i2", b"UL": "u4", b"US": "u2"}
# Groups 0002 and 0008, the latter in either byte order.
_USUAL_STARTS = (b"\x02\0", b"\x08\0", b"\0\x08")
# PS3.5 section 7.1.2: with these value representations an explicit length takes four bytes, after two reserved ones.
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


class Element(NamedTuple):
    """Where a data element's value lies: its tag, value representation (b'' if implicit), position and length."""

    tag: int
    vr: bytes
    implicit: bool
    offset: int
    length: int


@dataclass
class Elements:
    """The data elements of one data set that matter here, by keyword, each converted on request.

    Attributes:
        path: The file, for messages.
        content: The bytes that the positions refer to: the whole file, or the inflated data set of a deflated one.
        little: Whether numbers are little endian.
        found: The elements, by keyword.
    """

    path: str
    content: bytes
    little: bool
    found: dict[str, Element] = field(default_factory=dict)

    def value(self, keyword: str) -> bytes:
        """Return the bytes of a value, b'' where it is absent or of undefined length."""
        element = self.found.get(keyword)
        if element is None or element.length == UNDEFINED_LENGTH:
            return b""
        return self.content[element.offset : element.offset + element.length]

    def text(self, keyword: str) -> str:
        """Return the value as stripped text, '' where absent: UTF-8, else Latin-1, whatever character set is named."""
        value = self.value(keyword)[:MAX_TEXT_BYTES]
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        return text.strip(" \0\r\n\t")

    def numbers(self, keyword: str) -> list[float]:
        """Return the values of a decimal string, [] where absent; one that is no number is NaN.

        Decimal commas, which some locales write, and the binary representations that some writers use pass too.
        """
        element = self.found.get(keyword)
        if element is not None and element.vr in _BINARY:
            dtype = np.dtype(f"{'<' if self.little else '>'}{_BINARY[element.vr]}")
            value = self.value(keyword)[:MAX_TEXT_BYTES]
            return np.frombuffer(value, dtype, len(value) // dtype.itemsize).tolist()
        text = self.text(keyword)
        return [_number(part) for part in text.split("\\")] if text else []

    def integers(self, keyword: str, signed: bool = False) -> list[int]:
        """Return the values of a 16-bit binary element, the first three at most, [] where absent."""
        value = self.value(keyword)[:6]
        count, code = len(value) // 2, "h" if signed else "H"
        return list(struct.unpack_from(f"{'<' if self.little else '>'}{count}{code}", value))

    def first_item(self, keyword: str) -> "Elements | None":
        """Return the first item of a sequence, None where the sequence is absent or empty.

        Raises:
            DamagedError: The sequence does not begin with an item, or the item is cut short.
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
        implicit = element.implicit or _is_implicit(self.content, start)
        item.collect(start, len(self.content) if length == UNDEFINED_LENGTH else start + length, implicit)
        return item

    def collect(self, offset: int, end: int, implicit: bool) -> None:
        """Keep the elements between two positions that matter here, up to and including Pixel Data.

        Raises:
            DamagedError: An element reaches beyond `end` or beyond the bytes there are.
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
    """Yield the elements of a data set in turn, passing over what is nested in sequences without recursion.

    Args:
        content: The bytes.
        offset: Position of the first element.
        end: Position behind the last one; a delimiter that closes nothing ends the walk too.
        implicit: Whether value representations are left out.
        little: Whether numbers are little endian.

    Raises:
        EOFError: An element or a sequence does not end before `end`.
    """
    order = "<" if little else ">"
    unpack, unpack_length = struct.Struct(f"{order}HHL").unpack_from, struct.Struct(f"{order}L").unpack_from
    unpack_short = struct.Struct(f"{order}H").unpack_from
    whole = implicit
    outside: list[bool] = []  # for each open sequence or item of undefined length: was it written in implicit VR?
    while offset + 8 <= end:
        group, number, length = unpack(content, offset)
        tag, vr, value = group << 16 | number, b"", offset + 8
        if not implicit and group != 0xFFFE and _is_vr(content[offset + 4 : value]):
            vr = content[offset + 4 : offset + 6]
            (length,) = unpack_short(content, offset + 6)
            if vr in _LONG_VRS and value + 4 <= end:
                (length,), value = unpack_length(content, value), value + 4
        if tag in (ITEM_END, SEQUENCE_END):
            if not outside:
                return
            implicit, offset = outside.pop(), value
            continue
        undefined = length == UNDEFINED_LENGTH
        offset = value if undefined else value + length
        if offset > min(end, len(content)):
            raise EOFError(f"the element at byte {value} says it is {length} bytes long")
        if not outside:
            yield Element(tag, vr, implicit, value, length)
        if undefined:
            outside.append(implicit)
            # An element of VR UN should hold implicit items (PS3.5 section 6.2.2), but some writers disagree.
            if tag == ITEM and not whole:
                implicit = _is_implicit(content, offset)
    if outside or offset < end:
        raise EOFError(f"a sequence or an element is open at byte {offset}")


def read_item(content: bytes, offset: int, little: bool = True) -> tuple[int, int]:
    """Return the tag and length of an item or delimiter, (0, 0) where the bytes end before it."""
    if offset + 8 > len(content):
        return 0, 0
    group, number, length = struct.unpack_from("<HHL" if little else ">HHL", content, offset)
    return group << 16 | number, length


def read_elements(path: str | os.PathLike[str]) -> tuple[Elements, str, bool]:
    """Read a file's data elements up to its pixels, without decoding these.

    Args:
        path: A DICOM file, with or without preamble and meta information.

    Returns:
        The elements, Pixel Data among them; the UID of the transfer syntax, told from the bytes where the file does
        not name it; and whether positions in the elements' content are positions in the file.

    Raises:
        DicomError: The file cannot be opened (the base class), is not DICOM, holds no pixels, is damaged or too large.
    """
    name = os.fsdecode(path)
    content = _read_file(name)
    start = 132 if content[128:132] == b"DICM" else 0
    if not start and content[:2] in (b"", b"\0", b"\0\0"):
        raise NotDicomError(name, "is not DICOM" if content else "is empty")
    meta = Elements(name, content, little=True)
    begin = _collect_meta(meta, start)
    syntax = meta.text("TransferSyntaxUID")
    deflated = syntax == DeflatedExplicitVRLittleEndian
    if deflated:
        content, begin = _inflate(name, content[begin:]), 0
    implicit, little = _encoding(content, begin, syntax)
    elements = Elements(name, content, little)
    try:
        elements.collect(begin, len(content), implicit)
    except DamagedError as error:
        # Bytes that begin neither as a file nor as most data sets do are more likely none than a damaged one.
        if start or content[:2] in _USUAL_STARTS:
            raise
        raise NotDicomError(name, "is not DICOM") from error
    _require_pixels(elements, named=bool(start))
    guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return elements, syntax or str(guess), not deflated


def _read_file(path: str) -> bytes:
    """Return the bytes of a regular file of bounded size."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DicomError(path, "is a folder or a device, not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise TooLargeError(path, f"is {status.st_size} bytes long; at most {MAX_FILE_BYTES} are read")
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except DicomError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DicomError(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error


def _collect_meta(meta: Elements, start: int) -> int:
    """Keep the file meta information (group 0002, always explicit little endian); return where the data set begins."""
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
    """Return the data set of a deflated file, never expanded beyond the limit."""
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
    """Tell whether the data set leaves out its value representations, and whether it is little endian.

    The bytes decide about the former, for some writers name the wrong transfer syntax, and about both where none is
    named: group 0008 reads as 0800 in the wrong byte order.
    """
    implicit = _is_implicit(content, offset)
    wrong_order = not implicit and content[offset : offset + 1] == b"\0"
    return implicit, syntax != ExplicitVRBigEndian if syntax else not wrong_order


def _require_pixels(elements: Elements, named: bool) -> None:
    """Refuse a data set without Pixel Data, saying why there is none."""
    path, found = elements.path, elements.found
    if "PixelData" in found:
        return
    if "FloatPixelData" in found or "DoubleFloatPixelData" in found:
        raise UnsupportedError(path, "its pixels are floating-point numbers")
    if not named and "SOPClassUID" not in found:
        raise NotDicomError(path, "is not DICOM")
    if "Rows" in found:
        raise DamagedError(path, "is cut short before its Pixel Data")
    raise NoPixelsError(path, f"holds no pixels (SOP Class UID {elements.text('SOPClassUID') or 'not given'})")


def _is_implicit(content: bytes, offset: int) -> bool:
    """Tell whether the element at a position leaves out its value representation."""
    return not _is_vr(content[offset + 4 : offset + 6])


def _is_vr(text: bytes) -> bool:
    return text[:2].isalpha() and text[:2].isupper()


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return float("nan")
