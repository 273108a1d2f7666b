"""One DICOM file to one image as a reader sees it, or a typed error that says what is wrong and what to do.

The rooms: `elements` walks the file, `header` checks what it says, `frames` finds the encoded bytes, `codecs` decodes
them, `stored` keeps the bits that count, `display` turns stored values into grey levels, `errors` names what can go
wrong. None keeps state or touches the settings of pydicom, so images may be read from any number of threads and
processes. One thing is warned about, a VOI LUT that contradicts itself, in a text that names the file.
"""

import os

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom.codecs import NATIVE, decode, decode_native
from pneumoseg.dicom.display import display
from pneumoseg.dicom.elements import read_elements
from pneumoseg.dicom.errors import (
    DamagedError,
    DicomError,
    NoPixelsError,
    NotDicomError,
    TooLargeError,
    UnsupportedError,
)
from pneumoseg.dicom.frames import find_frame
from pneumoseg.dicom.header import DicomHeader, describe, read_format

__all__ = [
    "DamagedError",
    "DicomError",
    "DicomHeader",
    "NoPixelsError",
    "NotDicomError",
    "TooLargeError",
    "UnsupportedError",
    "read_dicom",
    "read_image",
]


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a radiograph as it is displayed.

    Args:
        path: A DICOM file with one greyscale frame of 1 to 16 bits, allocated as 8 or 16, in one of these transfer
            syntaxes: implicit or explicit VR little endian, explicit VR big endian, deflated, encapsulated
            uncompressed, RLE lossless, JPEG baseline, extended or lossless (.50, .51, .57, .70), JPEG-LS (.80, .81),
            JPEG 2000 (.90, .91). Not read: JPEG 2000 part 2, High-Throughput JPEG 2000, JPEG XL, deflated frames,
            video.

    Returns:
        uint8, (rows, columns), 0 to 255, white being dense. The modality LUT, the first VOI LUT or else the first valid
        window, and the inversion of MONOCHROME1 are applied (PS3.3 sections C.11.1, C.11.2 and C.7.6.3.1.2). Without
        VOI LUT or window, 8-bit values stay as they are and others are spread from the smallest to the largest one,
        padding being left out and black; an image of one deeper value only is all zeros. The windows and rescales
        that enhanced objects keep in functional groups are not read.

        Where files break the standard or it is silent:

        - Bits outside the stored ones are masked, but what a lossy codec made of them is clamped to the nearest value
          that the stored bits can hold. Which it is the frame tells; a reversible JPEG 2000 frame under .91, which
          may have been cut to a rate, is clamped where what is outside the stored bits then joins the rest more
          smoothly.
        - Words equal to a Pixel Padding Value (or in its range) that the stored bits cannot hold, such as 65535 with
          12 bits, are padding, black under a window too. A frame without room for that value has no such padding.
        - A VOI LUT whose entries need more bits than its descriptor says, or fewer by two or more, has its highest
          entry as white, with a warning.
        - The first value that a LUT maps is read as signed or unsigned, whatever is written, where the LUT then covers
          more of the image's values: 65436 as -100.
        - A LINEAR window must be 1 wide at least, but where the rescale puts values less than 1 apart, one under 2
          and not narrower than that distance is applied as LINEAR_EXACT: the standard's formula, which takes 1 from the
          width, would leave less than half of it. Other windows under 1 are passed over.
        - Compressed Pixel Data may be of explicit length, and may lack the offset table.

    Raises:
        DicomError: The file cannot be opened. Its subclasses: NotDicomError, NoPixelsError, UnsupportedError (colour,
            several frames, over 16 bits, other codecs), DamagedError, TooLargeError. Whatever the bytes, nothing else.

    Warns:
        UserWarning: A VOI LUT has entries of other bits than its descriptor says. Each file's text is its own, so that
            Python's default filter shows it once a file.
    """
    return read_dicom(path)[0]


def read_dicom(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], DicomHeader]:
    """Read a radiograph as it is displayed, and its header, in one pass over the file.

    Args:
        path: A DICOM file, as for `read_image`.

    Returns:
        The image, as from `read_image`, and what its header says.

    Raises:
        DicomError: As for `read_image`.

    Warns:
        UserWarning: As for `read_image`.
    """
    elements, syntax, in_file = read_elements(path)
    pixels = read_format(elements)
    if syntax in NATIVE:
        stored, plain_jpeg, offset, length = decode_native(elements, pixels), False, 0, 0
    else:
        encoded, offset = find_frame(elements)
        stored, plain_jpeg = decode(encoded, syntax, pixels)
        length = len(encoded)
    image, unchanged = display(elements, pixels, stored)
    shown_by_tensorflow = plain_jpeg and unchanged and in_file and offset > 0
    frame = (offset, length) if shown_by_tensorflow else (0, 0)
    return image, describe(elements, pixels, syntax, frame)
