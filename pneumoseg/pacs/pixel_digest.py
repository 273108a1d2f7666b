"""Digest of an image's pixels, which tells a repeated image from another one with the same UID."""

import hashlib
from pathlib import Path
from typing import BinaryIO

import pydicom

_CHUNK = 1 << 20
_TAGS = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
"""Tag of Pixel Data, (7FE0,0010), in both byte orders."""


def pixel_digest(path: str | Path) -> str:
    """Return the SHA-256 of the Pixel Data of a DICOM file as they lie in it, in hexadecimal.

    Nothing is decoded, so that no codec runs on an image that is not safe in the queue yet. The same pixels give the
    same digest whatever the other elements are, and in implicit and explicit VR; not if they were compressed again. A
    file without Pixel Data that can be found is digested as a whole.

    Args:
        path: Path of a DICOM file of any size; it is read in pieces.

    Raises:
        OSError: If the file cannot be read.

    Example:
        >>> len(pixel_digest("chest.dcm"))  # doctest: +SKIP
        64
    """
    with open(path, "rb") as file:
        file.seek(_start_of_pixels(file))
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _start_of_pixels(file: BinaryIO) -> int:
    """Return the position of the value of Pixel Data, or 0 if it cannot be found, as in deflated files."""
    try:
        # Elements that are not asked for are passed over; reading stops in front of Pixel Data.
        pydicom.dcmread(file, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
    except OSError:
        raise
    except Exception:  # whatever a malformed file makes pydicom raise
        return 0
    start, header = file.tell(), file.read(8)
    if header[:4] not in _TAGS:
        return 0
    # The tag is followed by a VR, "OB" or "OW", or in implicit VR by the length: even, unlike the code of an O.
    return start + (12 if header[4:5] == b"O" else 8)
