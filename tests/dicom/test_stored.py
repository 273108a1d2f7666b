"""Stored values: which bits count, overshoot of lossy codecs, and padding outside the stored bits."""

import io
from pathlib import Path

import gdcm
import jpeg_ls
import numpy as np
import openjpeg
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from pneumoseg.dicom import read_image
from tests.dicom.builders import ENCODINGS, SEED, displayed, encoded, jpeg_dataset, save, with_bits

WORDS = [[100, 4095, 300, 250, 65535]]
NUMBERS = [[-32768, -2048, 0, 2047, -1]]


def test_high_bit_above_the_stored_bits(tmp_path):
    pixels = (np.array([[100, 300, 250]]) << 4) | 0xF
    assert displayed(tmp_path, pixels, BitsStored=12, HighBit=15) == [[0, 255, 191]]


def test_an_absent_high_bit(tmp_path):
    assert displayed(tmp_path, [[0x7100, 0x300, 0x250]], BitsStored=12, HighBit=None) == [[0, 255, 167]]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("high", [13, 15])
def test_stored_bits_that_are_not_the_lowest(tmp_path, encoding, high):
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 2**12, (35, 40)).astype("u2")
    pixels[0, :2] = 0, 4095
    around = rng.integers(0, 2**16, pixels.shape).astype("u2") & ~np.uint16(0xFFF << high - 11)
    path = with_bits(encoded(pixels << high - 11 | around, encoding, tmp_path / "image.dcm"), 12, high)
    assert np.array_equal(read_image(path), np.rint(pixels / 4095 * 255))


@pytest.mark.parametrize("encoding", ["JPEG-LS", "JPEG 2000"])
def test_a_frame_of_the_stored_bits_alone_is_not_shifted(tmp_path, encoding):
    pixels = np.random.default_rng(SEED).integers(0, 2**12, (35, 40)).astype("u2")
    pixels[0, :2] = 0, 4095
    path = with_bits(encoded(pixels, encoding, tmp_path / "image.dcm", BitsStored=12), 12, 15)
    assert np.array_equal(read_image(path), np.rint(pixels / 4095 * 255))


@pytest.mark.parametrize(
    ("pixels", "dtype", "attributes", "expected"),
    [
        # 250 is 150 / 200 of white; 65535 masked to 12 bits is 4095, which would leave the rest nearly black.
        ([[100, 300, 250, 65535]], "u2", {"PixelPaddingValue": 65535}, [[0, 255, 191, 0]]),
        # A true 4095 is white.
        (WORDS, "u2", {"PixelPaddingValue": 65535}, [[0, 255, 13, 10, 0]]),
        (
            WORDS,
            "u2",
            {"PixelPaddingValue": 65535, "PhotometricInterpretation": "MONOCHROME1"},
            [[255, 0, 242, 245, 0]],
        ),
        # The padding value is 65534, which does not occur; 65535 masked to 12 bits is 4095.
        ([[100, 300, 250, 65535]], "u2", {"PixelPaddingValue": 65534}, [[0, 13, 10, 255]]),
        (
            [[100, 300, 5000, 65535]],
            "u2",
            {"PixelPaddingValue": 5000, "PixelPaddingRangeLimit": 65535},
            [[0, 255, 0, 0]],
        ),
        ([[100, 300, 5000, 65535]], "u2", {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 300}, [[0, 0, 0, 0]]),
        # Outside the 12 bits only padding is black; an overlay is masked: 4096 + 100 and 4096 + 250.
        ([[4196, 300, 4346, 65535]], "u2", {"PixelPaddingValue": 65535}, [[0, 255, 191, 0]]),
        # -32768 masked to 12 bits is 0, which is not padding: 2048 / 4095 of white is 127.5, 2047 / 4095 is 127.5 too.
        (NUMBERS, "i2", {"PixelPaddingValue": -32768}, [[0, 0, 128, 255, 127]]),
        (
            [[-32768, -3000, -2048, 0, 200]],
            "i2",
            {"PixelPaddingValue": -32768, "PixelPaddingRangeLimit": -2000},
            [[0, 0, 0, 0, 255]],
        ),
        # Padding outside the stored bits is black under a window too, because it is not a value of the image.
        (WORDS, "u2", {"PixelPaddingValue": 65535, "WindowCenter": 100, "WindowWidth": 51}, [[130, 255, 255, 255, 0]]),
        # High Bit 15: the words are 16 times the stored values.
        ([[1600, 4800, 4000, 65535]], "u2", {"PixelPaddingValue": 65535, "HighBit": 15}, [[0, 255, 191, 0]]),
    ],
)
@pytest.mark.parametrize("encoding", ["explicit", "RLE", "JPEG-LS", "JPEG 2000", "lossless"])
def test_padding_outside_the_stored_bits(tmp_path, pixels, dtype, attributes, expected, encoding):
    words, expected = (np.repeat(np.repeat(rows, 32, 0), 8, 1) for rows in (np.array(pixels, dtype), expected))
    image = pydicom.dcmread(encoded(words, encoding, tmp_path / "image.dcm"))
    image.BitsStored, image.HighBit = 12, 11
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    for keyword in {"PixelPaddingValue", "PixelPaddingRangeLimit"} & attributes.keys():
        image.add_new(keyword, "SS" if dtype == "i2" else "US", attributes[keyword])
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm")), expected)


def test_a_frame_that_cannot_hold_padding_has_none(tmp_path):
    pixels = np.random.default_rng(SEED).integers(0, 4096, (40, 40)).astype("u2")
    pixels[0, :2] = 0, 4095
    image = pydicom.dcmread(encoded(pixels, "JPEG 2000", tmp_path / "image.dcm", BitsStored=12))
    image.add_new("PixelPaddingValue", "US", 65535)
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm")), stretched(pixels, 0, 4095))


LOSSY = {"JPEG 2000": uid.JPEG2000, "JPEG 2000 5-3": uid.JPEG2000, "JPEG-LS": uid.JPEGLSNearLossless}


def saturated(low: int, high: int, dtype: str) -> np.ndarray:
    """Return a third at the low end, a third of noise, a third at the high end: lossy codecs overshoot at edges."""
    pixels = np.empty((48, 60), int)
    pixels[:, :20], pixels[:, 40:] = low, high
    pixels[:, 20:40] = np.random.default_rng(SEED).integers(low, high + 1, (48, 20))
    return pixels.astype(dtype)


def lossy_frame(pixels: np.ndarray, codec: str) -> bytes:
    """Return a lossy frame of 16-bit samples, signed like the pixels if the codec supports signs."""
    rows, columns = pixels.shape
    if codec == "JPEG-LS":
        shape = {"rows": rows, "columns": columns, "samples_per_pixel": 1, "bits_stored": 16}
        return bytes(jpeg_ls.encode_pixel_data(pixels.tobytes(), lossy_error=9, **shape))
    if codec == "JPEG 2000 5-3":
        buffer = io.BytesIO()
        settings = {"no_jp2": True, "irreversible": False, "quality_mode": "rates", "quality_layers": [4]}
        Image.fromarray(pixels).save(buffer, "JPEG2000", **settings)
        return buffer.getvalue()
    return bytes(openjpeg.encode(pixels, bits_stored=16, photometric_interpretation=2, compression_ratios=[4]))


def lossy_file(path: Path, pixels: np.ndarray, codec: str, **attributes) -> tuple[Path, np.ndarray]:
    """Write a file of 12 stored bits in 16-bit samples; return its path and the decoded samples."""
    frame = lossy_frame(pixels, codec)
    image = jpeg_dataset(frame, pixels.shape, BitsAllocated=16, BitsStored=12, **attributes)
    if codec == "JPEG-LS":
        decoded = np.frombuffer(jpeg_ls.decode_pixel_data(frame)[0], "u2").reshape(pixels.shape)
    else:
        decoded = openjpeg.decode(frame, j2k_format=0)
    return save(image, path, LOSSY[codec]), decoded.astype(int)


def stretched(values: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.rint((np.clip(values, low, high) - low) / (high - low) * 255)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize(
    ("codec", "dtype", "low", "center"),
    [(codec, "u2", 0, 2048) for codec in LOSSY] + [("JPEG 2000", "i2", -2048, 0)],
)
def test_overshoot_of_a_lossy_codec_is_clamped(tmp_path, codec, dtype, low, center, window):
    high = low + 4095
    # This window is the whole range, so it has the same effect as stretching.
    attributes = {"WindowCenter": center, "WindowWidth": 4096} if window else {}
    signed = int(dtype == "i2")
    pixels = saturated(low, high, dtype)
    path, decoded = lossy_file(tmp_path / "image.dcm", pixels, codec, PixelRepresentation=signed, **attributes)
    assert decoded.max() > high
    assert decoded.min() < low or not signed
    image = read_image(path)
    assert np.array_equal(image, stretched(decoded, low, high))
    assert image[:, 45:].min() > 240
    assert image[:, :15].max() < 15


def test_overshoot_with_the_sign_that_contradicts_pixel_representation(tmp_path):
    path = tmp_path / "image.dcm"
    # Unsigned pixels in signed samples: values below black stay black.
    _, decoded = lossy_file(path, saturated(0, 4095, "i2"), "JPEG 2000", PixelRepresentation=0)
    assert decoded.min() < 0
    assert decoded.max() > 4095
    assert np.array_equal(read_image(path), stretched(decoded, 0, 4095))
    # Signed pixels as unsigned samples, two's complement of 16 bits.
    for codec in ("JPEG 2000", "JPEG-LS"):
        pixels = saturated(-2048, 2047, "i2").view("u2")
        _, decoded = lossy_file(path, pixels, codec, PixelRepresentation=1)
        decoded = decoded.astype("u2").view("i2")
        assert decoded.min() < -2048
        assert decoded.max() > 2047
        assert np.array_equal(read_image(path), stretched(decoded, -2048, 2047))
    # No value is negative.
    _, decoded = lossy_file(path, saturated(0, 2047, "u2"), "JPEG 2000", PixelRepresentation=1)
    assert decoded.max() > 2047
    assert np.array_equal(read_image(path), stretched(decoded, 0, 2047))
    # Two's complement of the 12 stored bits alone: values above 4095 mean -1, as 4095 does.
    _, decoded = lossy_file(path, saturated(0, 4095, "u2"), "JPEG 2000", PixelRepresentation=1)
    assert decoded.max() > 4095
    codes = np.minimum(decoded, 4095)
    assert np.array_equal(read_image(path), stretched(np.where(codes < 2048, codes, codes - 4096), -2048, 2047))


def test_large_unsigned_values_in_signed_samples_of_a_lossy_codec(tmp_path):
    frame = lossy_frame(saturated(20000, 45000, "u2").view("i2"), "JPEG 2000")
    image = jpeg_dataset(frame, (48, 60), BitsAllocated=16, BitsStored=16)
    decoded = openjpeg.decode(frame, j2k_format=0)
    assert decoded.dtype == np.int16
    assert decoded.min() < 0
    decoded = decoded.view("u2").astype(int)
    expected = stretched(decoded, decoded.min(), decoded.max())
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm", uid.JPEG2000)), expected)


@pytest.mark.parametrize(("signed", "low"), [(0, 0), (1, -2048)])
def test_overshoot_of_values_that_are_not_in_the_lowest_bits(tmp_path, signed, low):
    pixels = saturated(low, low + 4095, "i2" if signed else "u2") * 4  # High Bit 13
    path, decoded = lossy_file(tmp_path / "image.dcm", pixels, "JPEG 2000", PixelRepresentation=signed, HighBit=13)
    assert decoded.max() // 4 > low + 4095
    assert np.array_equal(read_image(path), stretched(decoded // 4, low, low + 4095))


def jpeg_of_twelve_bits(pixels: np.ndarray) -> bytes:
    """Return a JPEG Extended frame of 16 times the 8-bit pixels: steps 16 times as large, 2048 in place of 128."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", qtables=[[10] * 64])
    frame = buffer.getvalue().replace(bytes([10] * 64), bytes([160] * 64))
    return frame.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")


@pytest.mark.parametrize("window", [False, True])
def test_ten_bits_in_a_jpeg_frame_of_twelve(tmp_path, window):
    pixels = np.zeros((40, 64), np.uint8)
    pixels[:, :30] = 63
    attributes = {"WindowCenter": 512, "WindowWidth": 1024} if window else {}
    image = jpeg_dataset(jpeg_of_twelve_bits(pixels), pixels.shape, BitsAllocated=16, BitsStored=12, **attributes)
    path = save(image, tmp_path / "image.dcm", uid.JPEGExtended12Bit)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    decoded = np.frombuffer(reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape"), "u2")
    decoded = decoded.reshape(pixels.shape).astype(int)
    assert decoded.max() > 1023
    assert abs(decoded - 16 * pixels.astype(int)).max() < 100
    image = read_image(with_bits(path, 10, 9))
    assert np.array_equal(image, stretched(decoded, 0, 1023))
    assert image[:, :24].min() > 230


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEG2000])
@pytest.mark.parametrize(("bit", "signed"), [(12, 0), (15, 0), (12, 1)])
@pytest.mark.parametrize("row", [2, 20, 34])
def test_an_overlay_above_the_stored_bits_of_a_reversible_codestream_is_masked(tmp_path, syntax, bit, signed, row):
    noise = np.random.default_rng(SEED).integers(0, 60, (40, 40))
    pixels = (
        np.add.outer(np.arange(40) * 100, np.arange(40)) + noise - 2048 * signed
    )  # dark at the top, bright at the bottom
    pixels[0, 0], pixels[39, 39] = -2048 * signed, 4095 - 2048 * signed
    words = (pixels & 0xFFF).astype("u2")
    words[row : row + 5, 5:30:3] |= 1 << bit
    path = with_bits(encoded(words, "JPEG 2000", tmp_path / "image.dcm", PixelRepresentation=signed), 12, 11)
    path = save(pydicom.dcmread(path), path, syntax)
    assert np.array_equal(read_image(path), stretched(pixels, -2048 * signed, 4095 - 2048 * signed))


@pytest.mark.parametrize("bit", [12, 15])
@pytest.mark.parametrize("block", [np.s_[10:20, 10:20], np.s_[5:35, 3:38], np.s_[:, :20], np.s_[:, :]])
@pytest.mark.parametrize("mean", [200, 2000, 3800])
def test_a_block_above_the_stored_bits_of_a_possibly_truncated_codestream_is_masked(tmp_path, bit, block, mean):
    """The steps at the block's border are small once the bit is masked, for any size of block and any noise."""
    pixels = np.random.default_rng(SEED).normal(mean, 40, (40, 40)).clip(0, 4095).astype("u2")
    pixels[0, 0], pixels[39, 39] = 0, 4095
    words = pixels.copy()
    words[block] |= 1 << bit
    path = with_bits(encoded(words, "JPEG 2000", tmp_path / "image.dcm"), 12, 11)
    path = save(pydicom.dcmread(path), path, uid.JPEG2000)
    assert np.array_equal(read_image(path), stretched(pixels, 0, 4095))


def test_an_irreversible_codestream_under_the_lossless_transfer_syntax(tmp_path):
    path, decoded = lossy_file(tmp_path / "image.dcm", saturated(0, 4095, "u2"), "JPEG 2000")
    save(pydicom.dcmread(path), path, uid.JPEG2000Lossless)
    assert np.array_equal(read_image(path), stretched(decoded, 0, 4095))


def test_a_component_may_have_its_own_transformation(tmp_path):
    path, decoded = lossy_file(tmp_path / "image.dcm", saturated(0, 4095, "u2"), "JPEG 2000")
    frame = bytearray(next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)))
    coding = frame.index(b"\xff\x52")
    levels = frame[coding + 9 : coding + 14]
    assert levels[-1] == 0
    # COC: length, component 0, style, and the same five bytes. COD then makes all other components reversible.
    frame[coding + 13] = 1
    frame[coding + 14 : coding + 14] = b"\xff\x53\0\x09\0\0" + levels
    assert np.array_equal(openjpeg.decode(bytes(frame), j2k_format=0), decoded)
    image = pydicom.dcmread(path)
    image.PixelData = encapsulate([bytes(frame)])
    assert np.array_equal(read_image(save(image, path, uid.JPEG2000Lossless)), stretched(decoded, 0, 4095))


@pytest.mark.parametrize(("padding", "dtype"), [(65535, "u2"), (-32768, "i2")])
def test_padding_outside_the_stored_bits_of_a_lossy_codec(tmp_path, padding, dtype):
    signed = int(dtype == "i2")
    pixels = np.full((64, 64), padding, dtype)
    pixels[:, 32:] = np.add.outer(np.arange(64), np.arange(32))
    frame = lossy_frame(pixels, "JPEG-LS" if not signed else "JPEG 2000")
    image = jpeg_dataset(frame, pixels.shape, BitsAllocated=16, BitsStored=12, PixelRepresentation=signed)
    image.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    syntax = uid.JPEG2000 if signed else uid.JPEGLSNearLossless
    read = read_image(save(image, tmp_path / "image.dcm", syntax))
    assert (read[:, :30] == 0).all()
    assert read[60:, 60:].min() > 200
