"""Decoders: native pixels, run lengths and the JPEG family, whole and broken."""

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from pneumoseg.dicom import codecs, read_dicom, read_image
from pneumoseg.image_errors import DamagedError, ImageError, UnsupportedError
from tests.dicom.builders import (
    CORPUS,
    ENCODINGS,
    GRADIENT,
    SEED,
    dataset,
    encoded,
    entropy_coded,
    jpeg,
    jpeg_dataset,
    save,
)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 10), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16)])
def test_every_lossless_encoding_gives_the_same_image(tmp_path, encoding, dtype, bits):
    low, high = (0, 2**bits) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    pixels = np.random.default_rng(SEED).integers(low, high, (35, 40)).astype(dtype)
    pixels[0, :2] = low, high - 1
    path = encoded(pixels, encoding, tmp_path / "image.dcm", BitsStored=bits)
    expected = np.rint((pixels.astype(float) - low) / (high - 1 - low) * 255)
    image, header = read_dicom(path)
    assert np.array_equal(image, expected)
    assert (header.rows, header.columns, header.bits_stored) == (35, 40, bits)
    assert (header.frame_offset, header.frame_length) == (0, 0)


def test_big_endian_words_of_eight_bit_pixels(tmp_path):
    image = dataset(GRADIENT[:, :22])
    image["PixelData"].VR = "OW"
    image.PixelData = GRADIENT[:, :22].ravel().view("<u2").astype(">u2").tobytes()
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm", uid.ExplicitVRBigEndian)), GRADIENT[:, :22])


def run_length(*segments: bytes) -> bytes:
    starts = np.cumsum([64, *map(len, segments)])[:-1]
    return struct.pack("<16L", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def run_length_file(path: Path, shape: tuple[int, int], *segments: bytes) -> Path:
    image = dataset(np.zeros(shape, f"u{len(segments)}"))
    image.PixelData = encapsulate([run_length(*segments)])
    image["PixelData"].is_undefined_length = True
    return save(image, path, uid.RLELossless)


@pytest.mark.parametrize(
    "segment",
    [
        b"\x02\1\2\3\xff\7\x00\4",  # three literals, a run of two, one literal
        b"\x80\x02\1\2\3\x80\xff\7\x00\4\0\x80",  # with no-operation codes in between, and padding
        b"\x02\1\2\3\xff\7\x01\4\5",  # one pixel too many in the last literal run
        b"\x02\1\2\3\xff\7\x00\4\x00\5",  # one literal run too many
        b"\x02\1\2\3\xff\7\x00\4\5",  # one byte too many
    ],
)
def test_run_lengths(tmp_path, segment):
    assert read_image(run_length_file(tmp_path / "image.dcm", (2, 3), segment)).tolist() == [[1, 2, 3], [7, 7, 4]]


@pytest.mark.parametrize(
    "segment",
    [
        b"\x02\1\2\3\xff\7",  # one pixel missing
        b"\x80\x02\1\2\3\xff\7\x00",  # a literal run cut short
        b"\x05\1\2\3\7\7",  # a longer literal run cut short
        b"\x80\x02\1\2\3\xff\7\xff",  # a repeat run cut short
        b"\x02\1\2\3\xff\7\x02\4\5\6",  # two pixels too many
        b"\x02\1\2\3\xff\7\x00\4\xff\1",
        b"\x02\1\2\3\xff\7\x00\4\x01\5\6",
    ],
)
def test_run_lengths_of_the_wrong_size(tmp_path, segment):
    with pytest.raises(DamagedError, match="run-length"):
        read_image(run_length_file(tmp_path / "image.dcm", (2, 3), segment))


def test_short_runs_take_no_more_memory_than_the_image(tmp_path):
    side = 1000
    path = run_length_file(tmp_path / "image.dcm", (side, side), b"\xff\7" * (side * side // 2))
    tracemalloc.start()
    assert (read_image(path) == 7).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * side * side


def test_encapsulated_uncompressed(tmp_path):
    for pixels, rows in ((GRADIENT, 37), (GRADIENT, 38)):
        path = save(jpeg_dataset(pixels.tobytes(), Rows=rows), tmp_path / "image.dcm")
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1.98"))
        if rows == len(pixels):
            assert np.array_equal(read_image(path), pixels)
    with pytest.raises(DamagedError, match="1258 bytes"):
        read_image(path)


def test_a_few_bytes_after_the_pixels(tmp_path):
    image = dataset(GRADIENT)
    plain = image.PixelData
    image.PixelData = plain + b"x" * 16 + bytes(50)
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm")), GRADIENT)
    image.PixelData = plain + b"x" * 18
    with pytest.raises(DamagedError, match="1276 bytes"):
        read_image(save(image, tmp_path / "image.dcm"))


def test_an_odd_number_of_bytes_is_padded(tmp_path):
    assert np.array_equal(read_image(save(dataset(GRADIENT[:, :23]), tmp_path / "image.dcm")), GRADIENT[:, :23])


def test_jpeg_extended_of_twelve_bits():
    # pydicom's own tests give the stored values of these pixels: 244 and 95, in a range of 0 to 264.
    image = read_image(CORPUS / "JPGExtended.dcm")
    assert image.shape == (1024, 256)
    assert (image[420, 140], image[230, 120]) == (236, 92)


def test_the_error_names_a_video_transfer_syntax(tmp_path):
    with pytest.raises(UnsupportedError, match="MPEG2"):
        read_image(save(jpeg_dataset(jpeg(GRADIENT)), tmp_path / "image.dcm", uid.MPEG2MPML))


@pytest.mark.parametrize(
    ("frame", "error", "reason"),
    [
        (jpeg(GRADIENT)[:400], DamagedError, "end-of-image"),
        (jpeg(np.zeros((60000, 8), np.uint8)), DamagedError, "60000 x 8"),
        (jpeg(np.zeros((*GRADIENT.shape, 3), np.uint8)), UnsupportedError, "3 colour"),
        (b"\0\0", DamagedError, "frame header"),
        (b"no JPEG at all", DamagedError, "frame header"),
    ],
)
def test_frames_that_are_refused(tmp_path, frame, error, reason):
    with pytest.raises(error, match=reason):
        read_image(save(jpeg_dataset(frame), tmp_path / "image.dcm"))


@pytest.mark.parametrize("size", [64, 256, 4096])
@pytest.mark.parametrize("hole", ["zeroed", "dropped", "ones"])
def test_a_hole_inside_a_frame(tmp_path, size, hole):
    noise = np.random.default_rng(SEED).normal(0, 3, (300, 300))
    pixels = (np.add.outer(np.arange(300) * 0.4, np.arange(300) * 0.3) + noise).clip(0, 255).astype(np.uint8)
    frame = jpeg(pixels)
    filling = {"zeroed": bytes(size), "dropped": b"", "ones": b"\xff" * size}[hole]
    for start in range(entropy_coded(frame), len(frame) - size - 2, 1500):
        broken = frame[:start] + filling + frame[start + size :]
        with pytest.raises(DamagedError, match="cannot be decoded"):
            read_image(save(jpeg_dataset(broken, pixels.shape), tmp_path / "image.dcm"))


def test_too_many_scans(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, "JPEG", progressive=True)
    frame = buffer.getvalue()
    last = frame.rindex(b"\xff\xda")
    broken = frame[:last] + frame[last:-2] * codecs.MAX_SCANS + b"\xff\xd9"
    with pytest.raises(DamagedError, match="more than 100 scans"):
        read_image(save(jpeg_dataset(broken), tmp_path / "image.dcm"))


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_the_frame_decides_the_jpeg_process(tmp_path, syntax):
    path = encoded(GRADIENT, "lossless", tmp_path / "image.dcm")
    image = pydicom.dcmread(path)
    assert np.array_equal(read_image(save(image, path, syntax)), GRADIENT)


@pytest.mark.parametrize("kind", ["JPEG-LS", "JPEG 2000"])
def test_a_frame_of_another_family(tmp_path, kind):
    image = pydicom.dcmread(encoded(GRADIENT, kind, tmp_path / "image.dcm"))
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGLSLossless if kind == "JPEG 2000" else uid.JPEG2000):
        with pytest.raises(ImageError) as caught:
            read_image(save(image, tmp_path / "image.dcm", syntax))
        assert type(caught.value) in (UnsupportedError, DamagedError)


def test_a_progressive_frame_of_twelve_bits(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, "JPEG", progressive=True)
    frame = buffer.getvalue().replace(b"\xff\xc2\0\x0b\x08", b"\xff\xc2\0\x0b\x0c")
    image = jpeg_dataset(frame)
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    with pytest.raises(UnsupportedError, match="0xc2"):
        read_image(save(image, tmp_path / "image.dcm"))


@pytest.mark.parametrize("encoding", ["JPEG", "JPEG-LS", "JPEG 2000", "lossless"])
def test_bytes_after_the_end_of_a_frame(tmp_path, encoding):
    path = tmp_path / "image.dcm"
    save(jpeg_dataset(jpeg(GRADIENT)), path) if encoding == "JPEG" else encoded(GRADIENT, encoding, path)
    expected = read_image(path)
    image = pydicom.dcmread(path)
    frame = next(generate_frames(image.PixelData, number_of_frames=1)).rstrip(b"\0")
    for surplus, accepted in ((b"\0x", True), (b"x" * 16, True), (b"x" * 16 + bytes(90), True), (b"x" * 17, False)):
        image.PixelData = encapsulate([frame + surplus])
        save(image, path)
        if accepted:
            assert np.array_equal(read_image(path), expected)
        else:
            with pytest.raises(DamagedError, match="end-of-image"):
                read_image(path)


def wrap_in_boxes(codestream: bytes, kind: str) -> bytes:
    """Return a JP2 file around a codestream (ITU-T T.800 annex I)."""
    start = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    if kind == "to the end":
        return start + b"\0\0\0\0jp2c" + codestream
    if kind == "long":
        return start + b"\0\0\0\1jp2c" + struct.pack(">Q", len(codestream) + 16) + codestream
    return start + struct.pack(">L", len(codestream) + 8) + b"jp2c" + codestream + b"\0\0\0\x30xml " + b"x" * 40


@pytest.mark.parametrize("kind", ["to the end", "long", "and more"])
def test_jpeg_2000_in_boxes(tmp_path, kind):
    path = encoded(GRADIENT, "JPEG 2000", tmp_path / "image.dcm")
    image = pydicom.dcmread(path)
    image.PixelData = encapsulate([wrap_in_boxes(next(generate_frames(image.PixelData, number_of_frames=1)), kind)])
    assert np.array_equal(read_image(save(image, path)), GRADIENT)


@pytest.mark.parametrize(
    "frame",
    [b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(8), b"\0\0\0\0jP  ", b"\0\0\0\1jP  " + bytes(8)],
)
def test_boxes_without_a_codestream(tmp_path, frame):
    image = jpeg_dataset(frame)
    with pytest.raises(DamagedError, match="frame header"):
        read_image(save(image, tmp_path / "image.dcm", uid.JPEG2000))


@pytest.mark.parametrize(("left", "top"), [(32, 0), (0, 32), (2**30, 2**30)])
def test_jpeg_2000_away_from_the_origin(tmp_path, left, top):
    path = encoded(GRADIENT, "JPEG 2000", tmp_path / "image.dcm")
    content = bytearray(path.read_bytes())
    size = content.index(b"\xff\x4f\xff\x51") + 8
    # Right, bottom, left and top of the image; width and height of a tile; left and top of the tiles.
    values = np.array(struct.unpack_from(">8L", content, size))
    values += left, top, left, top, 0, 0, left, top
    struct.pack_into(">8L", content, size, *values)
    path.write_bytes(content)
    with pytest.raises(UnsupportedError, match="origin"):
        read_image(path)


def test_a_frame_of_more_bits_than_are_allocated(tmp_path):
    path = encoded(GRADIENT.astype("u2"), "JPEG 2000", tmp_path / "image.dcm")
    image = pydicom.dcmread(path)
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    with pytest.raises(DamagedError, match="16 bits, its header allocates 8"):
        read_image(save(image, path))


@pytest.mark.parametrize("rows", [30, 36, 38])
@pytest.mark.parametrize("encoding", ["RLE", "JPEG-LS", "JPEG 2000", "lossless"])
def test_a_compressed_image_of_the_wrong_size(tmp_path, encoding, rows):
    path = encoded(GRADIENT, encoding, tmp_path / "image.dcm")
    content = path.read_bytes()
    tag = b"\x28\0\x10\0US\x02\0"
    path.write_bytes(content.replace(tag + b"\x25\0", tag + bytes([rows, 0])))
    with pytest.raises(DamagedError):
        read_image(path)
