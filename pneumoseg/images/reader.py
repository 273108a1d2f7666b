"""Reader of one image file, of whatever format: the image as displayed, and its header."""

import os

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom import decode_dicom
from pneumoseg.dicom.elements import read_file
from pneumoseg.image_errors import NotAnImageError
from pneumoseg.image_header import ImageHeader
from pneumoseg.images.formats import HEAD_BYTES, name_other, recognize
from pneumoseg.images.pictures import read_picture


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return a radiograph as it is displayed.

    The content of the file decides about its format, and its name does not matter. `dicom.read_image` says which DICOM
    files are read, and how; `images.pictures.read_picture` says it for pictures. In short: images of grey are read, and
    images in colour that show grey, with at most 16 bits. 8-bit pictures stay unchanged; 16-bit pictures are stretched
    from their own smallest to their own largest value.

    Args:
        path: Path of a DICOM, PNG, JPEG or TIFF file.

    Returns:
        The image, uint8, (rows, columns), 0 to 255; dense tissue is white. Pictures are returned as they are, because
        they do not tell whether dense tissue is white.

    Raises:
        NotAnImageError: If the file is not of a format that is read.
        NoPixelsError: If a DICOM file holds no image.
        UnsupportedError: If the image has colour, several frames, more than 16 bits, or another codec.
        DamagedError: If the file is cut short or contradicts itself.
        TooLargeError: If the file or its image exceeds the size limits.
        ImageError: If the file cannot be opened. It is the base class of the errors above; no file content raises any
            other error.

    Example:
        >>> image = read_image("chest.dcm")  # doctest: +SKIP
        >>> image.shape, image.dtype  # doctest: +SKIP
        ((1024, 1024), dtype('uint8'))
    """
    return read_with_header(path)[0]


def read_with_header(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], ImageHeader]:
    """Return a radiograph as it is displayed, and its header, reading the file once.

    Args:
        path: Path of an image file, see `read_image`.

    Returns:
        The image, uint8, (rows, columns), 0 to 255, dense tissue white; and the header.

    Raises:
        ImageError: If the file gives no image. The subclasses are those that `read_image` lists.

    Example:
        >>> image, header = read_with_header("chest.dcm")  # doctest: +SKIP
        >>> header.file_format, header.view, header.age  # doctest: +SKIP
        ('DICOM', 'PA', 58.0)
    """
    name = os.fsdecode(path)
    content = read_file(name)
    head = content[:HEAD_BYTES]
    file_format = recognize(head)
    if file_format not in ("", "DICOM"):
        return read_picture(name, content, file_format)
    if not file_format and (other := name_other(head)):
        raise NotAnImageError(name, f"is a {other} file")
    try:
        return decode_dicom(name, content)
    except NotAnImageError as error:
        raise NotAnImageError(name, "is not an image" if content else error.reason) from error
