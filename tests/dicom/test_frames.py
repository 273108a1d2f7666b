"""Encapsulated Pixel Data: offset tables, fragments and delimiters."""

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from pneumoseg.dicom import read_dicom, read_image
from pneumoseg.image_errors import DamagedError
from tests.dicom.builders import GRADIENT, encoded, jpeg, jpeg_dataset, save

DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
FRAME = jpeg(GRADIENT)
HALVES = FRAME[:300], FRAME[300:]


def items(*values: bytes) -> bytes:
    padded = [value + b"\0" * (len(value) % 2) for value in values]
    return b"".join(b"\xfe\xff\0\xe0" + struct.pack("<L", len(value)) + value for value in padded)


def encapsulated_file(path: Path, content: bytes, length: int, syntax: str = uid.JPEGBaseline8Bit) -> Path:
    """Write a file whose Pixel Data have the given content and length field."""
    save(jpeg_dataset(FRAME), path, syntax)
    before = path.read_bytes()
    start = before.index(b"\xe0\x7f\x10\0OB")
    path.write_bytes(before[: start + 8] + struct.pack("<L", length) + content)
    return path


@pytest.mark.parametrize(
    "values", [(b"", FRAME), (bytes(4), FRAME), (FRAME,), (b"", *HALVES), (bytes(4), *HALVES), HALVES]
)
@pytest.mark.parametrize("kind", ["undefined", "explicit", "explicit and delimited"])
def test_a_frame_may_be_encapsulated_in_several_ways(tmp_path, values, kind):
    content = items(*values) + (b"" if kind == "explicit" else DELIMITER)
    length = 0xFFFFFFFF if kind == "undefined" else len(content)
    image, header = read_dicom(encapsulated_file(tmp_path / "image.dcm", content, length))
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(FRAME))))
    assert (header.frame_offset > 0) == (FRAME in values)
    if header.frame_offset:
        offset = (tmp_path / "image.dcm").read_bytes().index(FRAME)
        assert (header.frame_offset, header.frame_length) == (offset, len(FRAME) + len(FRAME) % 2)


@pytest.mark.parametrize("encoding", ["RLE", "JPEG-LS", "JPEG 2000", "lossless"])
def test_a_frame_of_another_codec_without_an_offset_table(tmp_path, encoding):
    image = pydicom.dcmread(encoded(GRADIENT, encoding, tmp_path / "image.dcm"))
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    path = encapsulated_file(tmp_path / "image.dcm", items(frame), len(items(frame)), image.file_meta.TransferSyntaxUID)
    assert np.array_equal(read_image(path), GRADIENT)


def test_an_uncompressed_frame_without_an_offset_table_may_begin_with_zeros(tmp_path):
    assert GRADIENT[0, 0] == 0
    pixels = np.where(GRADIENT < 20, 0, GRADIENT)
    assert not pixels[0, :4].any()
    content = items(pixels.tobytes()) + DELIMITER
    path = encapsulated_file(tmp_path / "image.dcm", content, 0xFFFFFFFF)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1.98"))
    assert np.array_equal(read_image(path), pixels)


@pytest.mark.parametrize(
    ("content", "length", "reason"),
    [
        (FRAME, len(FRAME), "but its Pixel Data are not encapsulated in items"),
        (GRADIENT.tobytes(), GRADIENT.size, "but its Pixel Data are not encapsulated in items"),
        (b"", 0, "hold no frame"),
        (DELIMITER, 0xFFFFFFFF, "hold no frame"),
        (items(b"") + DELIMITER, 0xFFFFFFFF, "hold no frame"),
        (items(b""), 8, "hold no frame"),
        (items(bytes(4)) + DELIMITER, 0xFFFFFFFF, "hold no frame"),
        (items(bytes(8), FRAME) + DELIMITER, 0xFFFFFFFF, "its offset table lists 2 frames"),
        (items(b"", FRAME, FRAME) + DELIMITER, 0xFFFFFFFF, "hold 2 frames, its header announces 1"),
        (items(FRAME, FRAME), 2 * len(items(FRAME)), "hold 2 frames, its header announces 1"),
        (items(b"", FRAME), 0xFFFFFFFF, "cut short or broken"),
        (items(b"", FRAME), len(items(b"", FRAME)) - 2, "cut short or broken"),
        (items(b"", FRAME) + bytes(6), len(items(b"", FRAME)) + 6, "cut short or broken"),
        (items(b"", FRAME) + DELIMITER, len(items(b"", FRAME)) + 4, "cut short or broken"),
    ],
)
def test_encapsulated_pixel_data_that_are_refused(tmp_path, content, length, reason):
    with pytest.raises(DamagedError, match=reason):
        read_image(encapsulated_file(tmp_path / "image.dcm", content, length))


def test_encapsulated_pixel_data_in_an_uncompressed_transfer_syntax(tmp_path):
    path = encapsulated_file(tmp_path / "image.dcm", items(b"", FRAME) + DELIMITER, 0xFFFFFFFF)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1\0\0\0"))
    with pytest.raises(DamagedError, match="its Pixel Data are encapsulated but its transfer syntax is uncompressed"):
        read_image(path)


def test_two_frames_where_the_header_announces_one(tmp_path):
    image = jpeg_dataset(jpeg(GRADIENT))
    image.PixelData = encapsulate([jpeg(GRADIENT)] * 2)
    with pytest.raises(DamagedError, match="lists 2 frames"):
        read_image(save(image, tmp_path / "image.dcm"))
