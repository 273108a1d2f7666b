"""Digest of an image's pixels, which tells a repeated image from another one with the same UID."""

import hashlib
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20
_TAGS = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
"""Tag of Pixel Data, (7FE0,0010), in both byte orders."""


def pixel_digest(path: str | Path) -> str:
    """Return the SHA-256 of a DICOM file from the value of Pixel Data to the end, in hexadecimal.

    Nothing is decoded, inflated or parsed: the image is not safe in the queue yet, and a malicious one must not cost
    more than its length. The first four bytes that equal the tag of Pixel Data count as such. The same pixels thus give
    the same digest whatever the other elements are, and in implicit and explicit VR; not if they were compressed again,
    nor always if an icon precedes them. A file without these bytes, such as a deflated one, is digested as a whole.

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
    """Return the position of the value of Pixel Data, or 0 if it cannot be found."""
    position, tail = 0, b""
    while chunk := file.read(_CHUNK):
        window = tail + chunk
        starts = [start for tag in _TAGS if (start := window.find(tag)) >= 0]
        if starts:
            return _after_header(file, position - len(tail) + min(starts))
        position, tail = position + len(chunk), window[-3:]
    return 0


def _after_header(file: BinaryIO, start: int) -> int:
    """Return the position of the value of an element that starts at a position."""
    file.seek(start + 4)
    # The tag is followed by a VR, "OB" or "OW", or in implicit VR by the length: even, unlike the code of an O.
    return start + (12 if file.read(1) == b"O" else 8)
