"""Reader of one image file, of whatever format: the image as displayed, and its header."""

import os

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom import read_dicom
from pneumoseg.image_header import ImageHeader


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return a radiograph as it is displayed.

    Args:
        path: Path of a DICOM file of a kind that `dicom.read_image` reads.

    Returns:
        The image, uint8, (rows, columns), 0 to 255; dense tissue is white.

    Raises:
        ImageError: If the file gives no image.

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
        ImageError: If the file gives no image.

    Example:
        >>> image, header = read_with_header("chest.dcm")  # doctest: +SKIP
        >>> header.file_format, header.view, header.age  # doctest: +SKIP
        ('DICOM', 'PA', 58.0)
    """
    return read_dicom(path)
