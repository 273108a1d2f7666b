"""Images in colour, which are read if they show grey: secondary captures, screenshots, pictures put into DICOM.

Three samples per pixel come as RGB or in one of the models with luma and two colour differences; a palette names the
colour of each stored value.
"""

import struct

import jpeg_ls
import numpy as np
import openjpeg
import simplejpeg
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels import convert_color_space

from pneumoseg.dicom.codecs import (
    ENCAPSULATED_UNCOMPRESSED,
    NATIVE,
    Codestream,
    decode_rle_planes,
    find_codestream,
    native_bytes,
    require_length,
    segments,
)
from pneumoseg.dicom.display import WHITE, look_up
from pneumoseg.dicom.elements import Elements
from pneumoseg.dicom.frames import find_frame
from pneumoseg.dicom.gdcm_process import LOSSLESS
from pneumoseg.dicom.header import PixelFormat
from pneumoseg.greyscale import grey_of_palette
from pneumoseg.image_errors import DamagedError, UnsupportedError

_JPEG_LS = 0xF7
_SCAN = 0xDA
_NAMING_SEGMENTS = {(0xE0, b"JFIF\0"): 16, (0xEE, b"Adobe"): 14}
"""Smallest length in bytes of the segments that name the colour model, by their marker and beginning."""
# Application segment of Adobe that says that the components are RGB.
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def decode_colour(elements: Elements, syntax: str, pixels: PixelFormat) -> NDArray[np.uint8]:
    """Return the colours of an image with three samples per pixel.

    Args:
        elements: Data elements of the file.
        syntax: UID of the transfer syntax.
        pixels: Storage format of the pixels.

    Returns:
        The image, uint8, RGB, (rows, columns, 3).

    Raises:
        UnsupportedError: If the transfer syntax or the frame's process is not supported.
        DamagedError: If the pixels are cut short or broken.
    """
    if syntax in NATIVE:
        return _to_rgb(_arrange(native_bytes(elements, pixels), elements, pixels), pixels)
    encoded, _ = find_frame(elements)
    if syntax == ENCAPSULATED_UNCOMPRESSED:
        return _to_rgb(_arrange(encoded, elements, pixels), pixels)
    if syntax == uid.RLELossless:
        planes = np.stack(decode_rle_planes(encoded, pixels), axis=-1)
        return _to_rgb(planes.reshape(pixels.rows, pixels.columns, 3), pixels)
    encoded, stream = find_codestream(encoded, syntax, pixels)
    if stream.precision != 8 or stream.process == LOSSLESS:
        raise UnsupportedError(pixels.path, f"has colour in JPEG process {stream.process:#x}, not supported")
    try:
        samples = _decode(encoded, stream, pixels)
    except Exception as error:  # Each of the native libraries raises errors of its own.
        raise DamagedError(pixels.path, f"its compressed pixels cannot be decoded ({error})") from error
    if samples.shape != (pixels.rows, pixels.columns, 3):
        raise DamagedError(pixels.path, f"its pixels decode to {samples.shape}, another shape than announced")
    return samples


def display_palette(elements: Elements, pixels: PixelFormat, stored: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """Return the grey levels of an image with a palette (PS3.3 section C.7.6.3.1.5).

    Args:
        elements: Data elements of the file.
        pixels: Storage format of the pixels.
        stored: Stored bits, uint8 or uint16, (rows, columns).

    Returns:
        The image, uint8, (rows, columns). Entries of 16 bits are reduced to 8: 65535 is white.

    Raises:
        UnsupportedError: If a pixel has colour, or the palette is segmented.
        DamagedError: If the palette is cut short.
    """
    codes = np.arange(2**pixels.bits_stored)
    half = len(codes) // 2
    values = np.where(codes < half, codes, codes - len(codes)) if pixels.signed else codes
    found = [_look_up_channel(elements, colour, values, stored) for colour in ("Red", "Green", "Blue")]
    white = WHITE if max(highest for _, highest in found) <= WHITE else 2**16 - 1
    palette = np.rint(np.stack([levels for levels, _ in found], axis=-1) * (WHITE / white)).astype(np.uint8)
    # A padding value that the stored bits cannot hold is black.
    palette = np.append(palette, np.zeros((1, 3), np.uint8), axis=0)
    return grey_of_palette(elements.path, palette, stored)


def _look_up_channel(
    elements: Elements, colour: str, values: NDArray[np.integer], stored: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.number], int]:
    """Return the entries of one channel of the palette for all values, and the highest entry."""
    descriptor, data = (f"{colour}PaletteColorLookupTable{part}" for part in ("Descriptor", "Data"))
    if not {descriptor, data} <= elements.found.keys():
        raise UnsupportedError(elements.path, "has no palette, or a segmented one")
    lut = {"LUTDescriptor": elements.found[descriptor], "LUTData": elements.found[data]}
    return look_up(Elements(elements.path, elements.content, elements.little, lut), values, stored)


def _arrange(raw: bytes, elements: Elements, pixels: PixelFormat) -> NDArray[np.uint8]:
    """Return uncompressed samples, (rows, columns, 3); those of YBR_FULL_422 share their colour in pairs of columns."""
    shape, size = (pixels.rows, pixels.columns), pixels.rows * pixels.columns
    if pixels.photometric == "YBR_FULL_422":
        require_length(raw, 2 * size, pixels.path)
        if pixels.columns % 2:
            raise DamagedError(pixels.path, f"has {pixels.columns} columns, and YBR_FULL_422 needs an even number")
        pairs = np.frombuffer(raw, np.uint8, 2 * size).reshape(-1, 4)
        luma, chroma = pairs[:, :2].reshape(-1, 1), np.repeat(pairs[:, 2:], 2, axis=0)
        return np.hstack([luma, chroma]).reshape(*shape, 3)
    require_length(raw, 3 * size, pixels.path)
    samples = np.frombuffer(raw, np.uint8, 3 * size)
    by_plane = elements.integers("PlanarConfiguration")[:1] == [1]
    return samples.reshape(3, *shape).transpose(1, 2, 0) if by_plane else samples.reshape(*shape, 3)


def _to_rgb(samples: NDArray[np.uint8], pixels: PixelFormat) -> NDArray[np.uint8]:
    """Convert samples that no codec has converted."""
    if not pixels.photometric.startswith("YBR_FULL"):
        return samples
    return convert_color_space(np.ascontiguousarray(samples), "YBR_FULL", "RGB")


def _decode(encoded: bytes, stream: Codestream, pixels: PixelFormat) -> NDArray[np.uint8]:
    """Return the colours that a codestream holds, RGB."""
    if stream.process == 0:
        # openjpeg undoes the transforms of YBR_RCT and YBR_ICT.
        return _to_rgb(openjpeg.decode(encoded, j2k_format=0), pixels)
    if stream.process == _JPEG_LS:
        buffer, info = jpeg_ls.decode_pixel_data(encoded)
        samples = np.frombuffer(buffer, np.uint8)
        shape = (stream.rows, stream.columns)
        by_plane = info["interleave_mode"] == 0
        samples = samples.reshape(3, *shape).transpose(1, 2, 0) if by_plane else samples.reshape(*shape, 3)
        return _to_rgb(samples, pixels)
    if pixels.photometric == "RGB" and not _names_its_colour_model(encoded):
        encoded = encoded[:2] + _ADOBE_RGB + encoded[2:]
    return simplejpeg.decode_jpeg(encoded, "RGB", fastdct=False, fastupsample=False, strict=True)


def _names_its_colour_model(encoded: bytes) -> bool:
    """Return whether a JPEG names its colour model. It is right then, because many DICOM files claim to be RGB.

    libjpeg ignores segments of Adobe and JFIF that are too short.
    """
    for marker, start in segments(encoded):
        if marker == _SCAN:
            break
        (length,) = struct.unpack_from(">H", encoded, start - 2)
        if length >= _NAMING_SEGMENTS.get((marker, encoded[start : start + 5]), length + 1):
            return True
    return False
