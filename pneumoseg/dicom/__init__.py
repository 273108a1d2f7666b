"""Reader of DICOM radiographs: one file to the image as displayed, or a typed error with the reason and the remedy.

The modules: `reader` reads a file, `elements` finds its data elements, `header` checks them, `frames` locates the
encoded bytes, `codecs` decodes them, `stored` extracts the stored values, and `display` turns these into grey levels.
`colour` reads images that are stored in colour but show grey, and `recognition` tells whether a file is DICOM. No
module keeps state or changes settings of pydicom, so any number of threads and processes may read images. The only
warnings are about a VOI LUT that contradicts itself and about pixels that are far from square; they name the file.
"""

from pneumoseg.dicom.codecs import TRANSFER_SYNTAXES
from pneumoseg.dicom.reader import decode_dicom, read_dicom, read_image
from pneumoseg.image_errors import (
    DamagedError,
    DicomError,
    ImageError,
    NoPixelsError,
    NotAnImageError,
    NotDicomError,
    TooLargeError,
    UnsupportedError,
)
from pneumoseg.image_header import ImageHeader

__all__ = [
    "TRANSFER_SYNTAXES",
    "DamagedError",
    "DicomError",
    "ImageError",
    "ImageHeader",
    "NoPixelsError",
    "NotAnImageError",
    "NotDicomError",
    "TooLargeError",
    "UnsupportedError",
    "decode_dicom",
    "read_dicom",
    "read_image",
]
