"""DICOM images in colour that show grey, in every encoding that is read."""

import random
import struct
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import openjpeg
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from pneumoseg.dicom import read_dicom, read_image
from pneumoseg.dicom.colour import decode_colour
from pneumoseg.dicom.elements import read_elements
from pneumoseg.dicom.header import COLOUR_MODELS, read_format
from pneumoseg.image_errors import DamagedError, ImageError, TooLargeError, UnsupportedError
from tests.dicom.builders import CORPUS, GRADIENT, SEED, dataset, save
from tests.dicom.test_read_image import alter

RGB = np.dstack([GRADIENT] * 3)
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)


def colour(pixels: np.ndarray, photometric: str, **attributes) -> Dataset:
    """Return an uncompressed image from its bytes in their order, uint8."""
    image = dataset(GRADIENT, **attributes)
    image.SamplesPerPixel, image.PhotometricInterpretation = 3, photometric
    image.PlanarConfiguration = attributes.get("PlanarConfiguration", 0)
    image.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    return image


def compressed(frame: bytes, syntax: str, photometric: str) -> Dataset:
    image = colour(np.zeros(0, np.uint8), photometric)
    image.PixelData = encapsulate([frame])
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = syntax
    return image


def jpeg(path: Path, pixels: np.ndarray = RGB, **options) -> bytes:
    Image.fromarray(pixels).save(path, "JPEG", quality=95, **options)
    return path.read_bytes()


def written(folder: Path, encoding: str) -> Path:
    """Return a file that shows `GRADIENT`, exactly or, with JPEG, nearly."""
    path, neutral = folder / "image.dcm", np.full(GRADIENT.shape, 128, np.uint8)
    ybr = np.dstack([GRADIENT, neutral, neutral])
    if encoding == "RGB":
        return save(colour(RGB, "RGB"), path)
    if encoding == "RGB by plane":
        return save(colour(RGB.transpose(2, 0, 1), "RGB", PlanarConfiguration=1), path)
    if encoding == "RGB implicit":
        return save(colour(RGB, "RGB"), path, uid.ImplicitVRLittleEndian)
    if encoding == "RGB deflated":
        return save(colour(RGB, "RGB"), path, uid.DeflatedExplicitVRLittleEndian)
    if encoding == "YBR_FULL":
        return save(colour(ybr, "YBR_FULL"), path)
    if encoding == "YBR_FULL_422":
        pairs = GRADIENT.reshape(-1, 2)
        shared = np.full_like(pairs, 128)
        return save(colour(np.hstack([pairs, shared]), "YBR_FULL_422"), path)
    if encoding in ("RLE", "JPEG-LS"):
        image = colour(RGB, "RGB")
        image.compress(uid.RLELossless if encoding == "RLE" else uid.JPEGLSLossless, generate_instance_uid=False)
        return save(image, path)
    if encoding == "RLE YBR_FULL":
        image = colour(ybr, "YBR_FULL")
        image.compress(uid.RLELossless, generate_instance_uid=False)
        return save(image, path)
    if encoding in ("YBR_RCT", "YBR_ICT"):
        rate = {"compression_ratios": [1]} if encoding == "YBR_ICT" else {}
        frame = openjpeg.encode(RGB, bits_stored=8, photometric_interpretation=1, use_mct=True, **rate)
        return save(compressed(bytes(frame), uid.JPEG2000 if rate else uid.JPEG2000Lossless, encoding), path)
    if encoding == "JPEG 2000 RGB":
        frame = openjpeg.encode(RGB, bits_stored=8, photometric_interpretation=1, use_mct=False)
        return save(compressed(bytes(frame), uid.JPEG2000Lossless, "RGB"), path)
    if encoding == "JPEG 2000 YBR_FULL":
        frame = openjpeg.encode(ybr, bits_stored=8, photometric_interpretation=3, use_mct=False)
        return save(compressed(bytes(frame), uid.JPEG2000Lossless, "YBR_FULL"), path)
    assert encoding.startswith("JPEG ")
    photometric = encoding.split()[1]
    return save(compressed(_jpeg_frame(path, encoding), uid.JPEGBaseline8Bit, photometric), path)


def _jpeg_frame(path: Path, encoding: str) -> bytes:
    if encoding == "JPEG YBR_FULL_422":
        return jpeg(path, subsampling=1)
    if encoding in ("JPEG YBR_FULL", "JPEG RGB that is not"):  # with a JFIF segment, which only YCbCr has
        return jpeg(path, subsampling=0)
    frame = jpeg(path, keep_rgb=True)
    if encoding == "JPEG RGB of Adobe":
        return frame
    assert encoding == "JPEG RGB without a name"
    # Components that are called 1, 2 and 3 look like YCbCr.
    start = frame.index(b"\xff\xee")
    frame = frame[:start] + frame[start + 16 :]
    start = frame.index(b"\xff\xc0")
    assert frame[start + 10 : start + 19 : 3] == b"RGB"
    scan = frame.index(b"\xff\xda")
    renamed = bytearray(frame)
    for number in range(3):
        renamed[start + 10 + 3 * number] = renamed[scan + 5 + 2 * number] = number + 1
    return bytes(renamed)


EXACT = [
    "RGB",
    "RGB by plane",
    "RGB implicit",
    "RGB deflated",
    "YBR_FULL",
    "YBR_FULL_422",
    "RLE",
    "RLE YBR_FULL",
    "JPEG-LS",
    "YBR_RCT",
    "JPEG 2000 RGB",
    "JPEG 2000 YBR_FULL",
]
LOSSY = [
    "YBR_ICT",
    "JPEG YBR_FULL",
    "JPEG YBR_FULL_422",
    "JPEG RGB that is not",
    "JPEG RGB of Adobe",
    "JPEG RGB without a name",
]


@pytest.mark.parametrize("encoding", EXACT)
def test_grey_in_colour_is_read_exactly(tmp_path, encoding):
    path = written(tmp_path, encoding)
    image, header = read_dicom(path)
    assert image.dtype == np.uint8
    assert np.array_equal(image, GRADIENT)
    assert header.photometric in COLOUR_MODELS
    # TensorFlow does not decode the frame.
    assert (header.rows, header.columns, header.bits_stored, header.frame_offset) == (37, 34, 8, 0)


@pytest.mark.parametrize("encoding", LOSSY)
def test_grey_in_colour_with_a_lossy_codec(tmp_path, encoding):
    difference = read_image(written(tmp_path, encoding)).astype(int) - GRADIENT
    assert np.abs(difference).max() <= 2


def test_big_endian_words(tmp_path):
    """The bytes of 8-bit pixels in words of 16 bits are swapped."""
    image = colour(RGB, "RGB")
    image.PixelData = RGB.reshape(-1, 2)[:, ::-1].tobytes()
    image["PixelData"].VR = "OW"
    path = save(image, tmp_path / "image.dcm", uid.ExplicitVRBigEndian)
    assert np.array_equal(read_image(path), GRADIENT)


def test_colours_equal_those_of_pydicom():
    agreed = 0
    for path in sorted(CORPUS.rglob("*.dcm")):
        try:
            elements, syntax, _ = read_elements(path)
            pixels = read_format(elements)
            if pixels.photometric not in COLOUR_MODELS:
                continue
            ours = decode_colour(elements, syntax, pixels)
        except ImageError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(ours, pydicom.dcmread(path, force=True).pixel_array), path.name
        agreed += 1
    assert agreed == 25


def test_true_colour_is_refused(tmp_path):
    pixels = RGB.copy()
    pixels[0, :3, 2] += 50
    reason = r"3 of its 1258 pixels \(0\.2%\) have colour, with channels up to 50 of 255 grey levels apart"
    with pytest.raises(UnsupportedError, match=reason):
        read_image(save(colour(pixels, "RGB"), tmp_path / "image.dcm"))


def test_channels_may_differ_by_rounding(tmp_path):
    pixels = RGB.copy()
    pixels[5, 5, 1] += 2
    expected = GRADIENT.copy()
    expected[5, 5] += 1  # 0.587 times 2, rounded
    assert np.array_equal(read_image(save(colour(pixels, "RGB"), tmp_path / "image.dcm")), expected)


def palette(pixels: np.ndarray, entries: list, bits: int, dtype: str = "<u2", first: int = 0, **attributes) -> Dataset:
    """Return an image with a palette; `entries` are of grey, or of (red, green, blue)."""
    image = dataset(pixels, PhotometricInterpretation="PALETTE COLOR", **attributes)
    lut = np.array(entries, dtype)
    lut = lut if lut.ndim == 2 else np.stack([lut] * 3, axis=1)
    for number, name in enumerate(("Red", "Green", "Blue")):
        keyword, vr = f"{name}PaletteColorLookupTable", "SS" if first < 0 else "US"
        image.add_new(f"{keyword}Descriptor", vr, [len(lut), first, bits])
        image.add_new(f"{keyword}Data", "OW", lut[:, number].tobytes())
    return image


@pytest.mark.parametrize(("dtype", "bits", "factor"), [("u1", 8, 1), ("<u2", 8, 1), ("<u2", 16, 257)])
def test_grey_palette(tmp_path, dtype, bits, factor):
    entries = [(255 - 3 * value) * factor for value in range(64)]
    image = palette(RAMP, entries, bits, dtype)
    result, header = read_dicom(save(image, tmp_path / "image.dcm"))
    assert np.array_equal(result, 255 - 3 * RAMP)
    assert (header.photometric, header.frame_offset) == ("PALETTE COLOR", 0)


def test_a_palette_of_12_bit_numbers_begins_where_it_says(tmp_path):
    pixels = np.array([[95, 100, 101, 102, 200]], np.uint16)
    image = palette(pixels, [10, 20, 30], 8, first=100, BitsStored=12)
    assert read_image(save(image, tmp_path / "image.dcm")).tolist() == [[10, 10, 20, 30, 30]]
    signed = palette(pixels.astype(np.int16) - 150, [10, 20, 30], 8, first=-50, BitsStored=12)
    assert read_image(save(signed, tmp_path / "image.dcm")).tolist() == [[10, 10, 20, 30, 30]]


def test_a_palette_with_run_lengths(tmp_path):
    image = palette(RAMP, list(range(64)), 8)
    image.compress(uid.RLELossless, generate_instance_uid=False)
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm")), RAMP)


def test_only_colours_that_occur_count(tmp_path):
    entries = [(value, value, value) for value in range(64)] + [(255, 0, 0)]
    path = save(palette(RAMP, entries, 8), tmp_path / "image.dcm")
    assert np.array_equal(read_image(path), RAMP)
    entries[9] = (9, 9, 90)
    with pytest.raises(UnsupportedError, match=r"1 of its 64 pixels .* up to 81 of 255"):
        read_image(save(palette(RAMP, entries, 8), path))


@pytest.mark.parametrize(
    ("image", "error", "reason"),
    [
        (colour(RGB, "RGB", BitsAllocated=16, BitsStored=16), UnsupportedError, "colour of 16 bits"),
        (colour(RGB, "YBR_PARTIAL_422"), UnsupportedError, "colour model YBR_PARTIAL_422 with 3 samples"),
        (colour(RGB, "MONOCHROME2"), UnsupportedError, "colour model MONOCHROME2 with 3 samples"),
        (dataset(GRADIENT, PhotometricInterpretation="RGB"), UnsupportedError, "colour model RGB with 1 samples"),
        (colour(RGB[1:], "RGB"), DamagedError, "holds 3672 bytes of pixels, its header announces 3774"),
        (colour(RGB, "RGB", NumberOfFrames=2), UnsupportedError, "2 frames"),
        (colour(RGB, "RGB", Rows=20000, Columns=20000), TooLargeError, "1200000000 bytes"),
        (colour(RGB[:, 1:, :2], "YBR_FULL_422", Columns=33), DamagedError, "33 columns"),
        (dataset(GRADIENT, PhotometricInterpretation="PALETTE COLOR"), UnsupportedError, "no palette"),
        (compressed(b"\xff\xd8\xff\xd9", uid.JPEGBaseline8Bit, "RGB"), DamagedError, "frame header"),
        (compressed(bytes(64), uid.RLELossless, "RGB"), DamagedError, "a header of 3 segments"),
        (compressed(bytes(64), uid.HTJ2KLossless, "RGB"), UnsupportedError, "High-Throughput"),
    ],
)
def test_images_that_are_refused(tmp_path, image, error, reason):
    with pytest.raises(error, match=reason) as caught:
        read_image(save(image, tmp_path / "image.dcm"))
    assert type(caught.value) is error


def test_a_short_palette_is_damage(tmp_path):
    image = palette(RAMP, list(range(64)), 8)
    image.GreenPaletteColorLookupTableData = bytes(20)
    with pytest.raises(DamagedError, match="a LUT holds 20 bytes, its descriptor announces 64 entries"):
        read_image(save(image, tmp_path / "image.dcm"))


def test_a_frame_of_another_number_of_components_is_refused(tmp_path):
    image = compressed(jpeg(tmp_path / "grey.jpg", GRADIENT), uid.JPEGBaseline8Bit, "RGB")
    with pytest.raises(UnsupportedError, match="1 colour components"):
        read_image(save(image, tmp_path / "image.dcm"))


@pytest.mark.parametrize("encoding", ["RGB", "YBR_FULL_422", "RLE", "JPEG-LS", "YBR_RCT", "JPEG YBR_FULL_422"])
def test_a_file_cut_anywhere_is_damaged(tmp_path, encoding):
    path = written(tmp_path, encoding)
    content = path.read_bytes()
    start = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    for length in range(start + 12, len(content) - 1, 29):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedError):
            read_image(path)


def test_altered_bytes_give_an_image_or_an_error(tmp_path):
    rng = random.Random(SEED)
    contents = [written(tmp_path, encoding).read_bytes() for encoding in [*EXACT, *LOSSY]]
    contents.append(save(palette(RAMP, list(range(64)), 8), tmp_path / "image.dcm").read_bytes())
    path, counts = tmp_path / "altered.dcm", Counter[str]()
    for _ in range(500):
        path.write_bytes(alter(rng.choice(contents), rng))
        try:
            image = read_image(path)
        except ImageError as error:
            counts[type(error).__name__] += 1
        else:
            assert image.ndim == 2
            counts["image"] += 1
    assert counts["image"] > 20
    assert counts["DamagedError"] > 100
