"""Formats of image files, recognised by their first bytes, whatever the files are named."""

import re

from pneumoseg.dicom.recognition import is_dicom

HEAD_BYTES = 1024
"""Number of bytes at the beginning of a file that recognition needs."""

_PICTURES: dict[str, bytes | tuple[bytes, ...]] = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    # In either byte order, and BigTIFF.
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_OTHERS = {
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c-\x7c]\0\0\0",
    "WebP": rb"RIFF.{4}WEBP",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "HEIF or AVIF": rb".{4}ftyp(heic|heix|mif1|msf1|avif)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "NIfTI": rb"(.{344}(n\+1|ni1)\0)",
    "NRRD": rb"NRRD000",
    "PDF": rb"%PDF-",
    "SVG": rb"(<\?xml[^>]*>\s*)?<svg",
    "Photoshop": rb"8BPS\0",
    "ZIP": rb"PK\x03\x04",
    "gzip": rb"\x1f\x8b\x08",
}


def recognize(head: bytes) -> str:
    """Return the format of an image file.

    DICOM comes first, because a file may be both DICOM and TIFF: the preamble then holds the header of the TIFF.

    Args:
        head: First bytes of the file, `HEAD_BYTES` or more if it has as many.

    Returns:
        DICOM, PNG, JPEG or TIFF; '' for any other file.

    Example:
        >>> recognize(b"\\x89PNG\\r\\n\\x1a\\n"), recognize(b"image_id,label")
        ('PNG', '')
    """
    if is_dicom(head):
        return "DICOM"
    return next((name for name, start in _PICTURES.items() if head.startswith(start)), "")


def name_other(head: bytes) -> str:
    """Return the name of a well-known format that is not read, such as GIF; '' for an unknown one.

    Args:
        head: First bytes of the file, `HEAD_BYTES` or more if it has as many.

    Example:
        >>> name_other(b"GIF89a"), name_other(b"image_id,label")
        ('GIF', '')
    """
    return next((name for name, start in _OTHERS.items() if re.match(start, head, re.DOTALL)), "")
