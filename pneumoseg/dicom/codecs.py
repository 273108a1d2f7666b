"""From the bytes of one frame to its stored values: native, run-length, and the JPEG family.

Decoders are called directly, all of permissive licence: Pillow (libjpeg-turbo) for JPEG of 8 bits, gdcm, in a process
of its own, for JPEG of 12 bits and JPEG lossless, pyjpegls (CharLS) for JPEG-LS, openjpeg for JPEG 2000. Before one of
them sees a frame, the frame's own header has been compared with the DICOM header, so that none allocates more than was
checked, and the frame has been seen to end as a codestream ends, for some decoders fill up what is missing.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import jpeg_ls
import numpy as np
import openjpeg
from numpy.typing import NDArray
from PIL import Image
from pydicom import config, uid

from pneumoseg.dicom import gdcm_process
from pneumoseg.dicom.elements import Elements
from pneumoseg.dicom.errors import DamagedError, UnsupportedError
from pneumoseg.dicom.header import PixelFormat

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
"""Transfer syntaxes whose Pixel Data are not encapsulated."""
GDCM_SECONDS = 120
"""Longest time that gdcm is given for a frame; the largest take a few seconds."""

_BASELINE, _EXTENDED, _LOSSLESS, _LS = 0xC0, 0xC1, gdcm_process.LOSSLESS, 0xF7
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), _LS}) - {0xC4, 0xC8, 0xCC}
_END_OF_IMAGE = b"\xff\xd9"
_JPEG_2000_START = b"\xff\x4f\xff\x51"


class Codestream(NamedTuple):
    """What a frame of the JPEG family says of itself; `process` is its start-of-frame marker, 0 for JPEG 2000."""

    process: int
    precision: int
    rows: int
    columns: int
    components: int


def decode_native(elements: Elements, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Read uncompressed pixels.

    Args:
        elements: the elements of the file.
        pixels: how they are stored.

    Returns:
        uint8 or uint16, (rows, columns): the stored bits, two's complement where signed.

    Raises:
        DamagedError: fewer bytes than the header announces, or more that are not zero padding.
    """
    raw = elements.value("PixelData")
    if pixels.bits_allocated == 8 and not elements.little and elements.found["PixelData"].vr == b"OW":
        raw = np.frombuffer(raw[: len(raw) // 2 * 2], ">u2").astype("<u2").tobytes()
    expected = pixels.rows * pixels.columns * pixels.bits_allocated // 8
    # One byte of padding makes an odd length even, and may be anything.
    if len(raw) < expected or raw[expected + expected % 2 :].strip(b"\0"):
        raise DamagedError(pixels.path, f"holds {len(raw)} bytes of pixels where its header says {expected}")
    dtype = np.dtype(f"{'<' if elements.little else '>'}u{pixels.bits_allocated // 8}")
    values = np.frombuffer(raw, dtype, pixels.rows * pixels.columns).astype(dtype.newbyteorder("="), copy=False)
    return _stored_bits(values.reshape(pixels.rows, pixels.columns), pixels)


def decode(encoded: bytes, syntax: str, pixels: PixelFormat) -> tuple[NDArray[np.unsignedinteger], bool]:
    """Decode the frame of an encapsulated image.

    Args:
        encoded: its bytes.
        syntax: UID of its transfer syntax.
        pixels: how the decoded pixels are stored.

    Returns:
        uint8 or uint16, (rows, columns): the stored bits, two's complement where signed; and whether the frame is one
        of 8-bit sequential JPEG, which TensorFlow decodes to the same values.

    Raises:
        UnsupportedError: a transfer syntax, or a process or precision within it, that is not read here.
        DamagedError: the frame is cut short, broken, or not of the size the header says.
    """
    if syntax == uid.RLELossless:
        return _stored_bits(_decode_rle(encoded, pixels), pixels), False
    if syntax not in _PROCESSES:
        name = uid.UID(syntax, config.IGNORE).name
        raise UnsupportedError(pixels.path, f"is compressed with {name!r} (transfer syntax {syntax}), not read here")
    stream = _check_codestream(encoded, syntax, pixels)
    decoder = _decoder(stream)
    try:
        values = decoder(encoded, stream)
    except Exception as error:  # four native libraries, each with errors of its own kind
        raise DamagedError(pixels.path, f"its compressed pixels cannot be decoded ({error})") from error
    if values.shape != (pixels.rows, pixels.columns):
        raise DamagedError(pixels.path, f"its pixels decode to {values.shape}")
    unsigned = values.view(f"u{values.dtype.itemsize}")
    return _keep_bits(unsigned, pixels.bits_stored), decoder is _decode_jpeg


def _check_codestream(encoded: bytes, syntax: str, pixels: PixelFormat) -> Codestream:
    """Compare a frame of the JPEG family with the DICOM header, and see that it is whole."""
    path = pixels.path
    try:
        stream = _jpeg_2000_header(encoded) if syntax in _JPEG_2000 else _jpeg_header(encoded)
    except (struct.error, IndexError) as error:
        raise DamagedError(path, "its compressed pixels have no readable frame header") from error
    if not encoded.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):
        raise DamagedError(path, "its compressed pixels are cut short: they have no end-of-image marker")
    if (stream.rows, stream.columns) != (pixels.rows, pixels.columns):
        sizes = f"{stream.rows} x {stream.columns} pixels where its header says {pixels.rows} x {pixels.columns}"
        raise DamagedError(path, f"its frame holds {sizes}")
    if stream.components != 1:
        raise UnsupportedError(path, f"its frame has {stream.components} colour components")
    if stream.process not in _PROCESSES[syntax]:
        raise UnsupportedError(path, f"its frame is of JPEG process {stream.process:#x}, unlike its transfer syntax")
    if not 2 <= stream.precision <= pixels.bits_allocated:
        raise DamagedError(path, f"its frame has {stream.precision} bits where {pixels.bits_allocated} are allocated")
    return stream


def _jpeg_header(encoded: bytes) -> Codestream:
    """Find the start of frame among the marker segments (ITU-T T.81 section B.2.2, T.87 section C.2.2)."""
    offset = 2
    while encoded[:2] == b"\xff\xd8" and encoded[offset] == 0xFF:
        marker = encoded[offset + 1]
        if marker in _START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", encoded, offset + 4)
            return Codestream(marker, precision, rows, columns, components)
        # Any number of 0xFF may fill the space before a marker.
        offset += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", encoded, offset + 2)[0]
    raise IndexError("no start of frame")


def _jpeg_2000_header(encoded: bytes) -> Codestream:
    """Read the SIZ segment that begins a codestream (ITU-T T.800 section A.5.1)."""
    right, bottom, left, top = struct.unpack_from(">4L", encoded, 8)
    components, depth, step_across, step_down = struct.unpack_from(">H3B", encoded, 40)
    if not encoded.startswith(_JPEG_2000_START) or (step_across, step_down) != (1, 1):
        raise IndexError("no codestream of full resolution")
    return Codestream(0, (depth & 0x7F) + 1, bottom - top, right - left, components)


def _decoder(stream: Codestream) -> Callable[[bytes, Codestream], NDArray[np.integer]]:
    if stream.process == 0:
        return _decode_jpeg_2000
    if stream.process == _LS:
        return _decode_jpeg_ls
    return _decode_jpeg if stream.process != _LOSSLESS and stream.precision == 8 else _decode_with_gdcm


def _decode_jpeg(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    # Pillow decodes by the accurate integer DCT, as TensorFlow does under INTEGER_ACCURATE.
    return np.array(Image.open(BytesIO(encoded), formats=("JPEG",)))


def _decode_jpeg_2000(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    return openjpeg.decode(encoded, j2k_format=0)


def _decode_jpeg_ls(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    buffer, _ = jpeg_ls.decode_pixel_data(encoded)
    return np.frombuffer(buffer, "<u1" if stream.precision <= 8 else "<u2").reshape(stream.rows, stream.columns)


def _decode_with_gdcm(encoded: bytes, stream: Codestream) -> NDArray[np.integer]:
    """Decode in a process of its own, because gdcm ends its process on some broken frames."""
    frame = (stream.process, stream.precision, stream.rows, stream.columns)
    command = [sys.executable, "-I", gdcm_process.__file__, os.pathsep.join(sys.path), *map(str, frame)]
    try:
        done = subprocess.run(command, input=encoded, capture_output=True, timeout=GDCM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"gdcm takes more than {GDCM_SECONDS} s") from None
    # gdcm fills up what it cannot read, and only prints that it did.
    if done.returncode or b"Corrupt JPEG data" in done.stderr:
        raise ValueError("gdcm finds them corrupt")
    dtype = "<u1" if stream.precision <= 8 else "<u2"
    return np.frombuffer(done.stdout, dtype).reshape(stream.rows, stream.columns)


def _decode_rle(encoded: bytes, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Decode run-length pixels (PS3.5 annex G): one segment a byte of the pixel, the most significant first."""
    count = pixels.bits_allocated // 8
    if len(encoded) < 64 or encoded[0] != count:
        raise DamagedError(pixels.path, f"its run-length pixels do not begin with a header of {count} segments")
    starts = struct.unpack_from(f"<{count}L", encoded, 4)
    planes = []
    for start, end in zip(starts, (*starts[1:], len(encoded)), strict=True):
        plane = _unpack_bits(encoded[start:end], pixels.rows * pixels.columns)
        if plane is None:
            raise DamagedError(pixels.path, "its run-length pixels are not of the size its header says")
        planes.append(np.frombuffer(plane, np.uint8))
    pairs = np.stack(planes, axis=-1)
    return pairs.view(f">u{count}").astype(f"u{count}").reshape(pixels.rows, pixels.columns)


def _unpack_bits(segment: bytes, size: int) -> bytes | None:
    """Decode a PackBits segment (PS3.5 section G.3.2), None where it is not of `size` bytes.

    Written out because the library for it panics on a segment that is longer than announced.
    """
    parts: list[bytes] = []
    decoded = offset = 0
    while decoded < size and offset + 1 < len(segment):
        control = segment[offset]
        if control < 128:
            parts.append(segment[offset + 1 : offset + 2 + control])
            offset += 2 + control
        elif control > 128:
            parts.append(segment[offset + 1 : offset + 2] * (257 - control))
            offset += 2
        else:
            offset += 1
            continue
        decoded += len(parts[-1])
    return b"".join(parts) if decoded == size and not segment[offset:].strip(b"\0\x80") else None


def _stored_bits(values: NDArray[np.unsignedinteger], pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Keep the bits from High Bit downward; old files put overlays or nothing above and below them."""
    shift = pixels.high_bit + 1 - pixels.bits_stored
    return _keep_bits(values >> shift if shift else values, pixels.bits_stored)


def _keep_bits(values: NDArray[Any], bits: int) -> NDArray[np.unsignedinteger]:
    return values if bits >= 8 * values.dtype.itemsize else values & values.dtype.type(2**bits - 1)


_JPEG_2000 = frozenset({uid.JPEG2000Lossless, uid.JPEG2000})
_PROCESSES: dict[str, tuple[int, ...]] = {
    uid.JPEGBaseline8Bit: (_BASELINE,),
    uid.JPEGExtended12Bit: (_BASELINE, _EXTENDED),
    uid.JPEGLossless: (_LOSSLESS,),
    uid.JPEGLosslessSV1: (_LOSSLESS,),
    uid.JPEGLSLossless: (_LS,),
    uid.JPEGLSNearLossless: (_LS,),
    uid.JPEG2000Lossless: (0,),
    uid.JPEG2000: (0,),
}
