"""Reader of image files of every format: DICOM, and the pictures PNG, JPEG and TIFF.

The modules: `formats` recognises a file by its content, and `reader` reads it, or raises a typed error with the reason
and the remedy.
"""

from pneumoseg.images.reader import read_image, read_with_header

__all__ = ["read_image", "read_with_header"]
