"""Reading of one DICOM file: its image as displayed, and its header."""

import os

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom.codecs import NATIVE, decode, decode_native
from pneumoseg.dicom.colour import decode_colour, display_palette
from pneumoseg.dicom.display import display
from pneumoseg.dicom.elements import find_elements, read_file
from pneumoseg.dicom.frames import find_frame
from pneumoseg.dicom.header import COLOUR_MODELS, PALETTE, build_header, read_format
from pneumoseg.greyscale import grey_of
from pneumoseg.image_header import ImageHeader


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return a radiograph as it is displayed.

    The modality LUT, the first VOI LUT or else the first valid window, and the inversion of MONOCHROME1 are applied
    (PS3.3 sections C.11.1, C.11.2 and C.7.6.3.1.2). Without a VOI LUT or window, 8-bit values without a rescale
    stay unchanged; other values are stretched linearly from the smallest to the largest value, and padding is left out
    of the range and shown black. If all values that are not padding are equal, the stretched image is all zeros.
    Windows and rescales in the functional groups of enhanced objects are not read.

    Where files break the standard, or the standard is silent:

    - Bits outside the stored bits are masked. Values that a lossy codec moved outside the stored range are clamped to
      the nearest stored value instead. The frame tells which codec was lossy. A reversible frame in the JPEG 2000
      transfer syntax that allows loss (91) may have been truncated to a bit rate; it is clamped if this leaves smaller
      steps at the borders of the pixels outside the stored range.
    - Words equal to a Pixel Padding Value (or in its range) that the stored bits cannot hold, such as 65535 with
      12 bits, are padding, and black under a window too. A frame whose samples cannot hold that value has no such
      padding.
    - If the entries of a VOI LUT need more bits than its descriptor announces, or fewer by two or more, its highest
      entry is shown as white, with a warning.
    - The first value that a LUT maps is read as signed or unsigned, whichever lets the LUT cover more of the image's
      values: 65436 may mean -100.
    - A LINEAR window must have a width of at least 1. If the rescale makes neighbouring values differ by less than 1,
      a width below 2 that is at least this difference is applied as LINEAR_EXACT: the standard's formula subtracts 1
      from the width and would leave less than half of it. Other LINEAR windows narrower than 1 are ignored.
    - Compressed Pixel Data may have an explicit length and may lack the offset table.
    - A JPEG that names its colour model itself is believed, whatever the header says.

    An image in colour is read if it shows grey: RGB, YBR_FULL, YBR_FULL_422, YBR_RCT and YBR_ICT with 8 bits, and
    PALETTE COLOR. The channels of each pixel may differ by 2 grey levels, for rounding. The grey levels are returned
    as they are, without LUTs and windows, which the standard does not define for colour.

    Args:
        path: Path of a DICOM file with one frame of 1 to 16 bits, allocated as 8 or 16 bits, in one of these
            transfer syntaxes: implicit or explicit VR little endian, explicit VR big endian, deflated, encapsulated
            uncompressed, RLE lossless, and of the UIDs 1.2.840.10008.1.2.4.x JPEG baseline, extended or lossless (x is
            50, 51, 57, 70), JPEG-LS (80, 81) and JPEG 2000 (90, 91). Not read: JPEG 2000 part 2, High-Throughput JPEG
            2000, JPEG XL, deflated frames, video.

    Returns:
        The image, uint8, (rows, columns), 0 to 255; dense tissue is white.

    Raises:
        NotAnImageError: If the file is not DICOM.
        NoPixelsError: If the file holds no image.
        UnsupportedError: If the image shows colour, or has several frames, more than 16 bits, or another codec.
        DamagedError: If the file is cut short or contradicts itself.
        TooLargeError: If the file or its image exceeds the size limits.
        ImageError: If the file cannot be opened. It is the base class of the errors above; no file content raises any
            other error.

    Warns:
        UserWarning: If the entries of a VOI LUT contradict its descriptor, or the sides of a pixel are not credible.
            The text names the file, so Python's default filter shows it once per file.

    Example:
        >>> image = read_image("chest.dcm")  # doctest: +SKIP
        >>> image.shape, image.dtype  # doctest: +SKIP
        ((1024, 1024), dtype('uint8'))
    """
    return read_dicom(path)[0]


def read_dicom(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], ImageHeader]:
    """Return a radiograph as it is displayed, and its header, reading the file once.

    Args:
        path: Path of a DICOM file of a kind that `read_image` reads.

    Returns:
        The image, uint8, (rows, columns), 0 to 255, dense tissue white; and the header.

    Raises:
        ImageError: If the file gives no image. The subclasses are those that `read_image` lists.

    Warns:
        UserWarning: If the entries of a VOI LUT contradict its descriptor, or the sides of a pixel are not credible.

    Example:
        >>> image, header = read_dicom("chest.dcm")  # doctest: +SKIP
        >>> header.view, header.age, header.photometric  # doctest: +SKIP
        ('PA', 58.0, 'MONOCHROME2')
    """
    name = os.fsdecode(path)
    return decode_dicom(name, read_file(name))


def decode_dicom(path: str, content: bytes) -> tuple[NDArray[np.uint8], ImageHeader]:
    """Return the radiograph that the content of a DICOM file shows, and its header.

    Args:
        path: Path of the file, for messages.
        content: Content of the file.

    Returns:
        The same as `read_dicom`.

    Raises:
        ImageError: If the file gives no image. The subclasses are those that `read_image` lists.

    Warns:
        UserWarning: If the entries of a VOI LUT contradict its descriptor, or the sides of a pixel are not credible.
    """
    elements, syntax, in_file = find_elements(path, content)
    pixels = read_format(elements)
    if pixels.photometric in COLOUR_MODELS:
        image = grey_of(path, decode_colour(elements, syntax, pixels)).astype(np.uint8)
        return image, build_header(elements, pixels, syntax, (0, 0))
    if syntax in NATIVE:
        stored, sequential_jpeg, offset, length = decode_native(elements, pixels), False, 0, 0
    else:
        encoded, offset = find_frame(elements)
        stored, sequential_jpeg = decode(encoded, syntax, pixels)
        length = len(encoded)
    if pixels.photometric == PALETTE:
        return display_palette(elements, pixels, stored), build_header(elements, pixels, syntax, (0, 0))
    image, unchanged = display(elements, pixels, stored)
    decodable_by_tensorflow = sequential_jpeg and unchanged and in_file and offset > 0
    frame = (offset, length) if decodable_by_tensorflow else (0, 0)
    return image, build_header(elements, pixels, syntax, frame)
