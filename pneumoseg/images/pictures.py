"""Grey values of pictures: PNG, JPEG and TIFF files.

Pillow reads the header of every picture and decodes PNG and TIFF. It has no mode for colour with 16 bits and reduces it
to 8, so OpenCV decodes such pictures, after Pillow has checked them, and the two results are compared. simplejpeg
decodes JPEG as in DICOM files, because Pillow accepts corrupt data. Sizes are checked before anything is decoded.
"""

import io
import math
import struct
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from pneumoseg.dicom.codecs import MAX_SCANS
from pneumoseg.dicom.display import WHITE
from pneumoseg.dicom.header import MAX_PIXEL_BYTES
from pneumoseg.greyscale import grey_of, grey_of_palette
from pneumoseg.image_errors import DamagedError, ImageError, TooLargeError, UnsupportedError
from pneumoseg.image_header import ImageHeader

_REMEDY = "Export it as a greyscale PNG of 8 or 16 bits"
_OPENERS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_GREY_MODES = frozenset({"L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "YCbCr"})
_SIGNED, _FLOAT = 2, 3  # TIFF tag SampleFormat
_WHITE_IS_ZERO = 0  # TIFF tag PhotometricInterpretation
_SEPARATE_PLANES = 2  # TIFF tag PlanarConfiguration
_PREMULTIPLIED = 1  # TIFF tag ExtraSamples
_TIFF_SIZES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), 1)) | {16: 8, 17: 8, 18: 8}
"""Size of a value in bytes by its type (TIFF 6.0, section 2, and BigTIFF)."""
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_START_OF_SCAN = b"\xff\xda"


class _Depth(NamedTuple):
    """Bits of a sample, and how TIFF says to read them."""

    bits: int
    sample_format: int = 1


def read_picture(path: str, content: bytes, file_format: str) -> tuple[NDArray[np.uint8], ImageHeader]:
    """Return the image that a picture shows, and its header.

    Values of at most 8 bits stay unchanged (values of 2 and 4 bits are spread over 0 to 255). Values of 9 to 16 bits
    are stretched linearly from the smallest to the largest value of the picture; if all are equal, the image is all
    zeros. A picture in colour, or with a palette, must show grey. Transparent pixels are blended over black. The
    orientation that EXIF or TIFF gives is applied, and a TIFF whose zero is white is inverted.

    Args:
        path: Path of the file, for messages.
        content: Content of the file.
        file_format: PNG, JPEG or TIFF.

    Returns:
        The image, uint8, (rows, columns), 0 to 255; and the header.

    Raises:
        UnsupportedError: If the picture has colour, several frames, 1 bit, more than 16 bits or floating-point numbers.
        DamagedError: If the file is cut short or broken.
        TooLargeError: If the picture takes more than `MAX_PIXEL_BYTES`.
    """
    try:
        picture = _open(path, content, file_format)
        depth = _depth(path, content, picture)
        _check(path, picture, depth)
        values = _decode(path, content, picture, depth)
    except ImageError:
        raise
    except Exception as error:  # The decoders raise errors of many kinds.
        text = " ".join(str(error).split())  # OpenCV writes several lines.
        raise DamagedError(path, f"its {file_format} data cannot be decoded ({text})") from error
    image = values.astype(np.uint8) if depth.bits <= 8 else stretch(values)
    return image, _header(file_format, image.shape, depth.bits)


def stretch(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Stretch values linearly, so that the smallest becomes 0 and the largest 255.

    Args:
        values: Values, integer of at most 16 bits, (rows, columns).

    Returns:
        The image, uint8, (rows, columns); all zeros if all values are equal.

    Example:
        >>> stretch(np.array([[1000, 1001, 1002]])), stretch(np.array([[7, 7]]))
        (array([[  0, 128, 255]], dtype=uint8), array([[0, 0]], dtype=uint8))
    """
    low, high = int(values.min()), int(values.max())
    if low == high:
        return np.zeros(values.shape, np.uint8)
    table = np.rint(np.arange(high - low + 1) / (high - low) * WHITE).astype(np.uint8)
    return table[values.astype(np.int32) - low]


def _open(path: str, content: bytes, file_format: str) -> Image.Image:
    """Read the header of a picture, without decoding it."""
    if (file_format == "TIFF" and _directory_is_cut(content)) or (file_format == "PNG" and _PNG_END not in content):
        raise DamagedError(path, "is cut short")
    try:
        return _OPENERS[file_format](io.BytesIO(content))
    except Exception as error:
        if str(error) in ("unknown pixel mode", "unknown data organization"):
            raise UnsupportedError(path, f"is a {file_format} file of a kind that is not read", _REMEDY) from error
        raise DamagedError(path, f"its {file_format} header cannot be read ({error})") from error


def _directory_is_cut(content: bytes) -> bool:
    """Return whether a TIFF ends before the end of its first directory, or of the values that it refers to."""
    order = "<" if content.startswith(b"II") else ">"
    big = 43 in content[2:4]
    word = f"{order}{'Q' if big else 'L'}"
    try:
        (offset,) = struct.unpack_from(word, content, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, offset)
        offset += 8 if big else 2
        for entry in range(offset, offset + count * (20 if big else 12), 20 if big else 12):
            kind, number, value = struct.unpack_from(f"{order}HQQ" if big else f"{order}HLL", content, entry + 2)
            size = _TIFF_SIZES.get(kind, 0) * number
            if size > (8 if big else 4) and value + size > len(content):
                return True
    except struct.error:
        return True
    return False


def _depth(path: str, content: bytes, picture: Image.Image) -> _Depth:
    if isinstance(picture, PngImagePlugin.PngImageFile):
        if content[12:16] != b"IHDR":
            raise DamagedError(path, "does not begin with a PNG header")
        return _Depth(content[24])
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        bits = picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return _Depth(max(bits), max(picture.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))))
    return _Depth(8)


def _check(path: str, picture: Image.Image, depth: _Depth) -> None:
    """Check the kind and the size of a picture before it is decoded."""
    samples = len(picture.getbands())
    size = math.prod(picture.size) * samples * (2 if depth.bits > 8 else 1)
    if min(picture.size) < 1:
        raise DamagedError(path, f"has {picture.height} x {picture.width} pixels")
    if size > MAX_PIXEL_BYTES:
        raise TooLargeError(path, f"its pixels take {size} bytes, expected at most {MAX_PIXEL_BYTES}")
    frames = getattr(picture, "n_frames", 1)
    if frames != 1:
        raise UnsupportedError(path, f"holds {frames} pages or frames", "Export the wanted one as a separate image")
    if depth.sample_format == _FLOAT or picture.mode == "F":
        raise UnsupportedError(path, "its pixels are floating-point numbers", _REMEDY)
    if not 2 <= depth.bits <= 16:
        raise UnsupportedError(path, f"has {depth.bits} bits per sample, expected 2 to 16", _REMEDY)
    if depth.sample_format == _SIGNED and picture.mode != "I":
        raise UnsupportedError(path, f"has signed numbers of {depth.bits} bits", _REMEDY)
    if picture.mode not in _GREY_MODES | _COLOUR_MODES:
        raise UnsupportedError(path, f"its colour model is {picture.mode}, expected grey", _REMEDY)


def _decode(path: str, content: bytes, picture: Image.Image, depth: _Depth) -> NDArray[np.integer]:
    """Return the grey values as displayed, (rows, columns)."""
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        return _turn(_decode_jpeg(path, content, picture.mode), _orientation(picture))
    if isinstance(picture, PngImagePlugin.PngImageFile):
        PngImagePlugin.PngImageFile(io.BytesIO(content)).verify()
    picture.load()
    deep_colour = depth.bits > 8 and picture.mode in _COLOUR_MODES
    values = _decode_deep_colour(path, content, picture) if deep_colour else _grey_values(path, picture)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # Both decoders have turned it.
        photometric = picture.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, _WHITE_IS_ZERO)
        # Pillow inverts values of at most 8 bits.
        return values.max() - values if photometric == _WHITE_IS_ZERO and depth.bits > 8 else values
    return _turn(values, _orientation(picture))


def _decode_jpeg(path: str, content: bytes, mode: str) -> NDArray[np.unsignedinteger]:
    if content.count(_START_OF_SCAN) > MAX_SCANS:
        raise DamagedError(path, f"has more than {MAX_SCANS} scans")
    # As in DICOM files: the accurate integer transform, and an error for data that libjpeg only warns of.
    space = "GRAY" if mode == "L" else "RGB"
    pixels = simplejpeg.decode_jpeg(content, space, fastdct=False, fastupsample=False, strict=True)
    return pixels[..., 0] if mode == "L" else grey_of(path, pixels)


def _grey_values(path: str, picture: Image.Image) -> NDArray[np.integer]:
    """Return the grey values of a picture that Pillow decodes without loss."""
    transparent = picture.info.get("transparency")
    if picture.mode == "P":
        return _look_up(path, picture, transparent)
    if picture.mode in ("PA", "YCbCr"):
        picture = picture.convert("RGBA" if picture.mode == "PA" else "RGB")
    pixels = np.asarray(picture)
    if picture.mode in ("L", "RGB") or pixels.ndim == 2:
        grey = pixels if pixels.ndim == 2 else grey_of(path, pixels)
        return grey if transparent is None else _hide(grey, pixels, transparent)
    if picture.mode == "La":  # Its values are already blended over black.
        return pixels[..., 0]
    blended = _blend(pixels[..., :-1], pixels[..., -1])
    return blended[..., 0] if picture.mode == "LA" else grey_of(path, blended)


def _look_up(path: str, picture: Image.Image, transparent: bytes | int | None) -> NDArray[np.uint8]:
    """Return the grey values of a picture with a palette."""
    palette = np.zeros((256, 3), np.uint8)
    entries = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(entries)] = entries[:256]
    alpha = np.full(256, WHITE, np.uint8)
    if isinstance(transparent, int):
        alpha[transparent] = 0
    elif transparent is not None:
        alpha[: len(transparent)] = np.frombuffer(transparent, np.uint8)[:256]
    palette = _blend(palette, alpha)
    return grey_of_palette(path, palette, np.asarray(picture))


def _hide(
    grey: NDArray[np.integer], pixels: NDArray[np.integer], transparent: int | tuple[int, ...]
) -> NDArray[np.integer]:
    """Return grey values with the pixels of one value, which a PNG marks as transparent, in black."""
    matches = pixels == np.array(transparent)
    return np.where(matches.all(-1) if matches.ndim == 3 else matches, 0, grey).astype(grey.dtype)


def _blend(colours: NDArray[np.unsignedinteger], alpha: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Blend colours over black. Opaque colours stay unchanged."""
    full = np.iinfo(colours.dtype).max
    if (alpha == full).all():
        return colours
    weights = alpha.astype(np.uint32)[..., None]
    return ((colours * weights + full // 2) // full).astype(colours.dtype)


def _decode_deep_colour(path: str, content: bytes, picture: Image.Image) -> NDArray[np.unsignedinteger]:
    """Return the grey values of a picture in colour with 16 bits, which Pillow has decoded to 8 bits."""
    import cv2

    tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
    premultiplied = _PREMULTIPLIED in tags.get(TiffImagePlugin.EXTRASAMPLES, ())
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == _SEPARATE_PLANES or premultiplied:
        raise UnsupportedError(path, "has colour of 16 bits in an arrangement that is not read", _REMEDY)
    pixels: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    checked = np.asarray(picture)[..., :3]
    if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint16 or pixels.shape[:2] != checked.shape[:2]:
        raise UnsupportedError(path, "has colour of 16 bits that cannot be read", _REMEDY)
    colours = pixels[..., 2::-1]
    if not np.array_equal(colours >> 8, checked):
        raise UnsupportedError(path, "has colour of 16 bits that two decoders read differently", _REMEDY)
    opaque = pixels.shape[2] == 3 or (picture.mode == "RGB" and "transparency" not in picture.info)
    return grey_of(path, colours if opaque else _blend(colours, pixels[..., 3]))


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, which is upright, if it is absent or unreadable."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Broken EXIF data take many forms, and the pixels are fine.
        return 1


def _turn(values: NDArray[np.integer], orientation: int) -> NDArray[np.integer]:
    """Apply an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        values = values.T
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _header(file_format: str, shape: tuple[int, ...], bits: int) -> ImageHeader:
    return ImageHeader(
        file_format=file_format,
        sop_instance_uid="",
        patient_id="",
        view="",
        sex="",
        age=None,
        rows=shape[0],
        columns=shape[1],
        photometric="",
        bits_stored=bits,
        transfer_syntax="",
        pixel_spacing=None,
        spacing_source="",
        pixel_aspect=1.0,
        frame_offset=0,
        frame_length=0,
    )
