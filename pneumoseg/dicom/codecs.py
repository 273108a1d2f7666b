"""Decoders of one frame: native, run-length, and the JPEG family.

The decoders are called directly, and all have permissive licences: simplejpeg (libjpeg-turbo) for 8-bit JPEG, gdcm in a
separate process for 12-bit JPEG and lossless JPEG, pyjpegls (CharLS) for JPEG-LS, and openjpeg for JPEG 2000. The frame
itself decides which JPEG decoder is used, because writers confuse the four transfer syntaxes. Before decoding, the
frame's own header is compared with the DICOM header, so that no decoder allocates more memory than was checked, and the
frame must end as a codestream ends, because some decoders fill in missing data. Damage that still decodes to the right
number of pixels is not detected; a JPEG with a few changed bytes may be such a case.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jpeg_ls
import numpy as np
import openjpeg
import simplejpeg
from numpy.typing import NDArray
from pydicom import config, uid

from pneumoseg.dicom import gdcm_process, stored
from pneumoseg.dicom.elements import UNDEFINED_LENGTH, Elements
from pneumoseg.dicom.header import PixelFormat
from pneumoseg.image_errors import DamagedError, UnsupportedError

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
"""Transfer syntaxes with Pixel Data that are not encapsulated."""
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
"""Transfer syntax that pydicom does not name."""
GDCM_SECONDS = 120
"""Longest time that gdcm may take for a frame, in seconds. The largest frames take a few seconds."""
MAX_SCANS = 100
"""Largest number of scans of a JPEG frame. Progressive frames have about ten; each takes as long as a whole image."""
MAX_SURPLUS_BYTES = 16
"""Largest number of bytes of any value that may follow the pixels or the end of a frame."""

_BASELINE, _EXTENDED, _PROGRESSIVE, _LOSSLESS, _LS = 0xC0, 0xC1, 0xC2, gdcm_process.LOSSLESS, 0xF7
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), _LS}) - {0xC4, 0xC8, 0xCC}
_SCAN, _START_OF_TILE, _CODING, _COMPONENT_CODING = 0xDA, 0x90, 0x52, 0x53
_START_OF_IMAGE = b"\xff\xd8"
_START_OF_SCAN = b"\xff\xda"
_END_OF_IMAGE = b"\xff\xd9"
_JP2_START = b"\0\0\0\x0cjP  "
_JPEG_2000_START = b"\xff\x4f\xff\x51"


class Codestream(NamedTuple):
    """Header of a frame of the JPEG family.

    Attributes:
        process: Start-of-frame marker; 0 for JPEG 2000.
        precision: Number of bits of a sample.
        rows: Height in pixels.
        columns: Width in pixels.
        components: Number of colour components.
        lossy: Whether the coding loses information. It does not in lossless JPEG, JPEG-LS with a tolerance (NEAR) of 0,
            and JPEG 2000 with the reversible transformation.
        cropped: Whether the pixels begin away from the origin of the reference grid, as JPEG 2000 allows.
    """

    process: int
    precision: int
    rows: int
    columns: int
    components: int
    lossy: bool
    cropped: bool = False


def decode_native(elements: Elements, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Return the stored values of uncompressed pixels.

    Args:
        elements: Data elements of the file.
        pixels: Storage format of the pixels.

    Returns:
        The stored values, uint8 or uint16, (rows, columns), see `stored.mask_bits`.

    Raises:
        DamagedError: If there are fewer bytes than the header announces, or more that are not zero beyond
            `MAX_SURPLUS_BYTES`, or if the Pixel Data are encapsulated.
    """
    return _read_native(native_bytes(elements, pixels), elements.little, pixels)


def native_bytes(elements: Elements, pixels: PixelFormat) -> bytes:
    """Return the bytes of uncompressed pixels, those of 8-bit pixels in the order of the pixels.

    Args:
        elements: Data elements of the file.
        pixels: Storage format of the pixels.

    Raises:
        DamagedError: If the Pixel Data are encapsulated.
    """
    if elements.found["PixelData"].length == UNDEFINED_LENGTH:
        reason = "its Pixel Data are encapsulated but its transfer syntax is uncompressed"
        raise DamagedError(pixels.path, reason)
    raw = elements.value("PixelData")
    if pixels.bits_allocated == 8 and not elements.little and elements.found["PixelData"].vr == b"OW":
        return np.frombuffer(raw[: len(raw) // 2 * 2], ">u2").astype("<u2").tobytes()
    return raw


def require_length(raw: bytes, expected: int, path: str) -> None:
    """Check the length of uncompressed pixels.

    Args:
        raw: Bytes of the pixels, and bytes that follow them.
        expected: Number of bytes that the header announces.
        path: Path of the file, for messages.

    Raises:
        DamagedError: If there are fewer bytes, or more that are not zero beyond `MAX_SURPLUS_BYTES`.
    """
    if len(raw) < expected or raw[expected + MAX_SURPLUS_BYTES :].strip(b"\0"):
        raise DamagedError(path, f"holds {len(raw)} bytes of pixels, its header announces {expected}")


def _read_native(raw: bytes, little: bool, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    require_length(raw, pixels.rows * pixels.columns * pixels.bits_allocated // 8, pixels.path)
    dtype = np.dtype(f"{'<' if little else '>'}u{pixels.bits_allocated // 8}")
    values = np.frombuffer(raw, dtype, pixels.rows * pixels.columns).astype(dtype.newbyteorder("="), copy=False)
    return stored.mask_bits(values.reshape(pixels.rows, pixels.columns), pixels.bits_allocated, pixels)


def decode(encoded: bytes, syntax: str, pixels: PixelFormat) -> tuple[NDArray[np.unsignedinteger], bool]:
    """Return the stored values of an encapsulated frame.

    Args:
        encoded: Bytes of the frame.
        syntax: UID of the transfer syntax.
        pixels: Storage format of the pixels.

    Returns:
        The stored values, uint8 or uint16, (rows, columns), from `stored.mask_bits`, or from `stored.clamp` if the
        codec is lossy; and whether the frame is sequential 8-bit JPEG, which TensorFlow decodes to the same samples.

    Raises:
        UnsupportedError: If the transfer syntax, or the frame's process or precision, is not supported.
        DamagedError: If the frame is cut short, broken, or of another size than the DICOM header announces.
    """
    if syntax == ENCAPSULATED_UNCOMPRESSED:
        return _read_native(encoded, True, pixels), False
    if syntax == uid.RLELossless:
        return stored.mask_bits(_decode_rle(encoded, pixels), pixels.bits_allocated, pixels), False
    encoded, stream = find_codestream(encoded, syntax, pixels)
    try:
        values = _choose_decoder(stream)(encoded, stream)
    except Exception as error:  # Each of the four native libraries raises errors of its own.
        raise DamagedError(pixels.path, f"its compressed pixels cannot be decoded ({error})") from error
    if values.shape != (pixels.rows, pixels.columns):
        raise DamagedError(pixels.path, f"its pixels decode to {values.shape}, another shape than announced")
    # With this transfer syntax a reversible codestream may have been truncated to a bit rate without saying so.
    may_be_truncated = syntax == uid.JPEG2000
    keep = stored.clamp if stream.lossy else stored.mask_or_clamp if may_be_truncated else stored.mask_bits
    sequential = stream.process in (_BASELINE, _EXTENDED) and stream.precision == 8
    return keep(values, stream.precision, pixels), sequential


def find_codestream(encoded: bytes, syntax: str, pixels: PixelFormat) -> tuple[bytes, Codestream]:
    """Find the codestream of a frame, and compare its header with the DICOM header.

    Args:
        encoded: Bytes of the frame.
        syntax: UID of the transfer syntax.
        pixels: Storage format of the pixels.

    Returns:
        The codestream, without boxes around it or bytes after it, and its header.

    Raises:
        UnsupportedError: If the transfer syntax, or the frame's process or precision, is not supported.
        DamagedError: If the frame is cut short, broken, or of another size than the DICOM header announces.
    """
    if syntax not in _PROCESSES:
        name = uid.UID(syntax, config.IGNORE).name
        raise UnsupportedError(pixels.path, f"is compressed with {name!r} (transfer syntax {syntax}), not supported")
    encoded, stream = _extract(encoded, syntax, pixels.path)
    _check_codestream(stream, syntax, pixels)
    return encoded, stream


def _extract(encoded: bytes, syntax: str, path: str) -> tuple[bytes, Codestream]:
    """Return the codestream of a frame, without boxes around it or bytes after it, and its header."""
    try:
        if syntax in _JPEG_2000:
            encoded = _extract_codestream(encoded)
            stream = _jpeg_2000_header(encoded)
        else:
            stream = _jpeg_header(encoded)
    except (struct.error, LookupError) as error:
        raise DamagedError(path, "its compressed pixels have no readable frame header") from error
    end = encoded.rfind(_END_OF_IMAGE) + len(_END_OF_IMAGE)
    if end < len(_END_OF_IMAGE) or encoded[end + MAX_SURPLUS_BYTES :].strip(b"\0\xff"):
        raise DamagedError(path, "its compressed pixels are cut short: they have no end-of-image marker")
    if stream.process and encoded.count(_START_OF_SCAN) > MAX_SCANS:
        raise DamagedError(path, f"its frame has more than {MAX_SCANS} scans")
    return encoded[:end], stream


def _check_codestream(stream: Codestream, syntax: str, pixels: PixelFormat) -> None:
    """Compare the header of a codestream with the DICOM header."""
    path = pixels.path
    if (stream.rows, stream.columns) != (pixels.rows, pixels.columns):
        sizes = f"{stream.rows} x {stream.columns} pixels, its header announces {pixels.rows} x {pixels.columns}"
        raise DamagedError(path, f"its frame holds {sizes}")
    if stream.cropped:
        # openjpeg's binding also allocates the area before the pixels, and misplaces them.
        raise UnsupportedError(path, "its JPEG 2000 image does not begin at the origin")
    if stream.components != pixels.samples:
        raise UnsupportedError(path, f"its frame has {stream.components} colour components")
    deep_progressive = stream.process == _PROGRESSIVE and stream.precision != 8
    if stream.process not in _PROCESSES[syntax] or deep_progressive:
        raise UnsupportedError(path, f"its frame has JPEG process {stream.process:#x}, not supported with {syntax}")
    if not 2 <= stream.precision <= pixels.bits_allocated:
        raise DamagedError(path, f"its frame has {stream.precision} bits, its header allocates {pixels.bits_allocated}")


def _jpeg_header(encoded: bytes) -> Codestream:
    """Return the start of frame from the marker segments (ITU-T T.81 section B.2.2, T.87 section C.2.2)."""
    found = segments(encoded) if encoded[:2] == _START_OF_IMAGE else iter(())
    for marker, start in found:
        if marker in _START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", encoded, start)
            lossy = _read_tolerance(encoded, found) > 0 if marker == _LS else marker != _LOSSLESS
            return Codestream(marker, precision, rows, columns, components, lossy)
    raise IndexError("no start of frame")


def _read_tolerance(encoded: bytes, found: Iterator[tuple[int, int]]) -> int:
    """Return the largest error of a value decoded from JPEG-LS, from the header of its scan (T.87 section C.2.3)."""
    start = next((start for marker, start in found if marker == _SCAN), len(encoded))
    return encoded[start + 1 + 2 * encoded[start]]


def _jpeg_2000_header(encoded: bytes) -> Codestream:
    """Return the header from the SIZ segment that begins a codestream (ITU-T T.800 section A.5.1)."""
    right, bottom, left, top = struct.unpack_from(">4L", encoded, 8)
    components, depth = struct.unpack_from(">HB", encoded, 40)
    sampling = struct.unpack_from(f"{3 * components}B", encoded, 42)
    if not encoded.startswith(_JPEG_2000_START) or sampling != (depth, 1, 1) * components:
        raise IndexError("no codestream of full resolution")
    cropped, lossy = left > 0 or top > 0, _is_irreversible(encoded)
    return Codestream(0, (depth & 0x7F) + 1, bottom - top, right - left, components, lossy, cropped)


def _is_irreversible(encoded: bytes) -> bool:
    """Return whether the transformation is irreversible, from the COD segment or else the COC (T.800 section A.6)."""
    transformations: dict[int, int] = {}
    for marker, start in segments(encoded):
        if marker in (_CODING, _COMPONENT_CODING):
            transformations[marker] = encoded[start + (9 if marker == _CODING else 6)]
        elif marker == _START_OF_TILE:
            break
    return transformations.get(_COMPONENT_CODING, transformations[_CODING]) == 0


def segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker segments after the marker that begins a codestream: marker, and position after the length.

    Args:
        encoded: Codestream of the JPEG family.
    """
    offset = 2
    while encoded[offset] == 0xFF:
        marker = encoded[offset + 1]
        if marker != 0xFF:
            yield marker, offset + 4
        # Any number of 0xFF may precede a marker.
        offset += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", encoded, offset + 2)[0]


def _extract_codestream(encoded: bytes) -> bytes:
    """Return the codestream of a JP2 file, which some writers store as a frame (ITU-T T.800 section I.4)."""
    if not encoded.startswith(_JP2_START):
        return encoded
    offset = 0
    while True:
        length, kind = struct.unpack_from(">L4s", encoded, offset)
        header = 8
        if length == 1:
            (length,), header = struct.unpack_from(">Q", encoded, offset + 8), 16
        end = offset + length if length else len(encoded)
        if kind == b"jp2c":
            return encoded[offset + header : end]
        if end < offset + header:
            raise IndexError("a box shorter than its header")
        offset = end


def _choose_decoder(stream: Codestream) -> Callable[[bytes, Codestream], NDArray[np.integer]]:
    if stream.process == 0:
        return _decode_jpeg_2000
    if stream.process == _LS:
        return _decode_jpeg_ls
    return _decode_jpeg if stream.process != _LOSSLESS and stream.precision == 8 else _decode_with_gdcm


def _decode_jpeg(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    # The accurate integer DCT equals TensorFlow's INTEGER_ACCURATE. By default libjpeg only warns of corrupt data.
    return simplejpeg.decode_jpeg(encoded, "GRAY", fastdct=False, fastupsample=False, strict=True)[..., 0]


def _decode_jpeg_2000(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    return openjpeg.decode(encoded, j2k_format=0)


def _decode_jpeg_ls(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    buffer, _ = jpeg_ls.decode_pixel_data(encoded)
    return np.frombuffer(buffer, "<u1" if stream.precision <= 8 else "<u2").reshape(stream.rows, stream.columns)


def _decode_with_gdcm(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    """Decode in a separate process, because gdcm ends its process on some broken frames."""
    frame = (stream.process, stream.precision, stream.rows, stream.columns)
    command = [sys.executable, "-I", gdcm_process.__file__, os.pathsep.join(sys.path), *map(str, frame)]
    try:
        done = subprocess.run(command, input=encoded, capture_output=True, timeout=GDCM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"gdcm took more than {GDCM_SECONDS} s") from None
    # gdcm fills in data that it cannot read, and only prints that it did.
    if done.returncode or b"Corrupt JPEG data" in done.stderr:
        raise ValueError("gdcm finds them corrupt")
    dtype = "<u1" if stream.precision <= 8 else "<u2"
    return np.frombuffer(done.stdout, dtype).reshape(stream.rows, stream.columns)


def _decode_rle(encoded: bytes, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    values = np.zeros(pixels.rows * pixels.columns, f"u{pixels.bits_allocated // 8}")
    for plane in decode_rle_planes(encoded, pixels):
        values = values << 8 | plane
    return values.reshape(pixels.rows, pixels.columns)


def decode_rle_planes(encoded: bytes, pixels: PixelFormat) -> list[NDArray[np.uint8]]:
    """Decode run-length pixels (PS3.5 annex G): one segment per byte of a pixel, most significant byte first.

    Args:
        encoded: Bytes of the frame.
        pixels: Storage format of the pixels.

    Returns:
        The bytes of each segment, uint8, (rows x columns,).

    Raises:
        DamagedError: If there are more or fewer segments or bytes than the header announces.
    """
    count = pixels.samples * pixels.bits_allocated // 8
    if len(encoded) < 64 or encoded[0] != count:
        raise DamagedError(pixels.path, f"its run-length pixels do not begin with a header of {count} segments")
    starts = struct.unpack_from(f"<{count}L", encoded, 4)
    size, planes = pixels.rows * pixels.columns, []
    for start, end in zip(starts, (*starts[1:], len(encoded)), strict=True):
        plane = _unpack_bits(encoded[start:end], size)
        if plane is None:
            raise DamagedError(pixels.path, "its run-length pixels do not have the size that its header announces")
        planes.append(np.frombuffer(plane, np.uint8, size))
    return planes


def _unpack_bits(segment: bytes, size: int) -> bytearray | None:
    """Decode a PackBits segment (PS3.5 section G.3.2); return None if it does not decode to `size` bytes.

    One extra byte is accepted, encoded or not: some writers make lengths even before they encode. The decoder is
    written here because the library function for it panics on a segment that is longer than announced.
    """
    plane = bytearray(size + 128)
    decoded = offset = 0
    while decoded < size and offset + 1 < len(segment):
        control = segment[offset]
        offset += 1
        if control < 128:
            end = decoded + control + 1
            plane[decoded:end] = segment[offset : offset + control + 1]
            offset += control + 1
        elif control > 128:
            end = decoded + 257 - control
            plane[decoded:end] = segment[offset : offset + 1] * (257 - control)
            offset += 1
        else:
            continue
        decoded = end
    whole = size <= decoded <= size + 1 and offset <= len(segment)
    return plane if whole and not segment[offset:].rstrip(b"\0")[:-1].strip(b"\0\x80") else None


_JPEG_2000 = frozenset({uid.JPEG2000Lossless, uid.JPEG2000})
_JPEG = (_BASELINE, _EXTENDED, _PROGRESSIVE, _LOSSLESS)
_PROCESSES: dict[str, tuple[int, ...]] = {
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLossless: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: (_LS,),
    uid.JPEGLSNearLossless: (_LS,),
    uid.JPEG2000Lossless: (0,),
    uid.JPEG2000: (0,),
}
TRANSFER_SYNTAXES: tuple[str, ...] = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    ENCAPSULATED_UNCOMPRESSED,
    uid.RLELossless,
    *_PROCESSES,
)
"""UIDs of all transfer syntaxes that are decoded: what a receiver of images may offer."""
