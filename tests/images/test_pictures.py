"""Pictures: PNG, JPEG and TIFF files of every kind that is read, and of those that are refused."""

import io
import random
import struct
import warnings
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from pneumoseg.image_errors import (
    DamagedError,
    ImageError,
    NotAnImageError,
    TooLargeError,
    UnsupportedError,
)
from pneumoseg.image_header import ImageHeader
from pneumoseg.images import pictures, read_image, read_with_header
from tests.conftest import write_dicom

GREY = np.add.outer(np.arange(17) * 7, np.arange(19) * 5).astype(np.uint8)
RGB = np.dstack([GREY] * 3)
OPAQUE = np.full(GREY.shape, 255, np.uint8)
# 16 bits; 1000 is black, 1000 + 255 * 128 is white.
DEEP = (1000 + np.arange(256, dtype=np.uint16) * 128).reshape(16, 16)
DEEP_GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
FULL = np.full(DEEP.shape, 65535, np.uint16)
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def save(path: Path, image: np.ndarray | Image.Image, kind: str, **options) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, kind, **options)
    return path


def png(path: Path, samples: np.ndarray, colour_type: int, transparent: bytes = b"") -> Path:
    """Write a PNG without a library: Pillow cannot write colour with 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, columns = samples.shape[:2]
    words = samples.astype(samples.dtype.newbyteorder(">"))
    header = struct.pack(">IIBBBBB", columns, rows, 8 * samples.itemsize, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + (chunk(b"tRNS", transparent) if transparent else b"")
    body += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in words))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def tiff(path: Path, samples: np.ndarray, photometric: int, order: str = "<", **tags: int) -> Path:
    """Write an uncompressed TIFF of one strip without a library. `tags` are named t and their number."""
    channels = samples.shape[2] if samples.ndim == 3 else 1
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    entries: dict[int, tuple[int, ...]] = {
        256: (samples.shape[1],),
        257: (samples.shape[0],),
        258: (8 * samples.itemsize,) * channels,
        259: (1,),
        262: (photometric,),
        273: (0,),
        277: (channels,),
        278: (samples.shape[0],),
        279: (len(data),),
    } | {int(name[1:]): (value,) for name, value in tags.items()}
    values, start = b"", 8 + 2 + 12 * len(entries) + 4
    where = {}
    for tag, numbers in entries.items():
        if len(numbers) > 2:
            where[tag] = start + len(values)
            values += struct.pack(f"{order}{len(numbers)}H", *numbers)
    entries[273] = (start + len(values),)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, numbers in sorted(entries.items()):
        inline = struct.pack(f"{order}{len(numbers)}H", *numbers).ljust(4, b"\0") if len(numbers) < 3 else b""
        directory += struct.pack(f"{order}HHL", tag, 3, len(numbers))
        directory += inline or struct.pack(f"{order}L", where[tag])
    start_bytes = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 8)
    path.write_bytes(start_bytes + directory + struct.pack(f"{order}L", 0) + values + data)
    return path


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_8_bit_grey_stays_unchanged(tmp_path, kind, mode):
    image = Image.fromarray(GREY).convert(mode)
    result, header = read_with_header(save(tmp_path / "image", image, kind))
    assert np.array_equal(result, GREY)
    assert result.dtype == np.uint8
    assert header == ImageHeader(kind, "", "", "", "", None, 17, 19, "", 8, "", None, "", 1.0, 0, 0)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("image", [GREY, RGB, DEEP], ids=["grey", "rgb", "deep"])
def test_compressed_tiff(tmp_path, compression, image):
    path = save(tmp_path / "image.tif", image, "TIFF", compression=compression)
    assert np.array_equal(read_image(path), DEEP_GREY if image is DEEP else GREY)


@pytest.mark.parametrize("quality", [60, 95])
def test_jpeg_equals_libjpeg(tmp_path, quality):
    for image in (GREY, RGB):
        path = save(tmp_path / "image.jpg", image, "JPEG", quality=quality)
        result, header = read_with_header(path)
        assert np.array_equal(result, np.asarray(Image.open(path).convert("L")))
        assert (header.file_format, header.bits_stored, header.frame_offset) == ("JPEG", 8, 0)


def test_the_content_counts_and_not_the_name(tmp_path):
    assert np.array_equal(read_image(save(tmp_path / "image.dcm", GREY, "PNG")), GREY)
    path = write_dicom(tmp_path / "image.png", GREY)
    assert read_with_header(path)[1].file_format == "DICOM"


def test_a_file_that_is_dicom_and_tiff_is_dicom(tmp_path):
    path = write_dicom(tmp_path / "image", GREY)
    content = path.read_bytes()
    path.write_bytes(b"II*\0\x08\0\0\0" + content[8:])
    result, header = read_with_header(path)
    assert header.file_format == "DICOM"
    assert np.array_equal(result, GREY)


@pytest.mark.parametrize(
    ("colour_type", "channels"), [(0, [DEEP]), (2, [DEEP] * 3), (4, [DEEP, FULL]), (6, [DEEP, DEEP, DEEP, FULL])]
)
def test_16_bit_png_is_stretched_from_its_own_range(tmp_path, colour_type, channels):
    result, header = read_with_header(png(tmp_path / "image.png", np.dstack(channels), colour_type))
    assert np.array_equal(result, DEEP_GREY)
    assert header.bits_stored == 16


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_is_stretched_from_its_own_range(tmp_path, order):
    path = tmp_path / "image.tif"
    assert np.array_equal(read_image(tiff(path, DEEP, 1, order)), DEEP_GREY)
    assert np.array_equal(read_image(tiff(path, np.dstack([DEEP] * 3), 2, order)), DEEP_GREY)
    signed = (DEEP.astype(np.int32) - 20000).astype(np.int16)
    assert np.array_equal(read_image(tiff(path, signed, 1, order, t339=SIGNED)), DEEP_GREY)
    for compression in (cv2.IMWRITE_TIFF_COMPRESSION_LZW, cv2.IMWRITE_TIFF_COMPRESSION_NONE):
        assert cv2.imwrite(str(path), np.dstack([DEEP] * 3), [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        assert np.array_equal(read_image(path), DEEP_GREY)


def test_16_bit_values_that_are_all_equal_are_black(tmp_path):
    flat = np.full((3, 4), 777, np.uint16)
    assert np.array_equal(read_image(save(tmp_path / "image.png", flat, "PNG")), np.zeros((3, 4)))


def test_a_tiff_whose_zero_is_white_is_inverted(tmp_path):
    assert np.array_equal(read_image(tiff(tmp_path / "8", GREY, 0)), 255 - GREY)
    assert np.array_equal(read_image(tiff(tmp_path / "16", DEEP, 0)), 255 - DEEP_GREY)


def test_values_of_12_bits_are_stretched(tmp_path):
    path = tiff(tmp_path / "image.tif", np.frombuffer(bytes.fromhex("12345a789abc"), np.uint8)[None], 1)
    # Two values of 12 bits in three bytes: 0x123, 0x45a, 0x789, 0xabc.
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<HHL", 258, 3, 1)) + 8] = 12
    content[content.index(struct.pack("<HHL", 256, 3, 1)) + 8] = 4
    path.write_bytes(content)
    expected = [round((value - 0x123) / (0xABC - 0x123) * 255) for value in (0x123, 0x45A, 0x789, 0xABC)]
    result, header = read_with_header(path)
    assert result.tolist() == [expected]
    assert header.bits_stored == 12


@pytest.mark.parametrize(("bits", "packed"), [(4, [0x07, 0xF0]), (2, [0x1B])])
def test_values_of_few_bits_are_spread(tmp_path, bits, packed):
    """White is 15 with 4 bits and 3 with 2 bits."""
    content = bytearray(png(tmp_path / "image.png", np.array([packed], np.uint8), 0).read_bytes())
    content[24] = bits
    content[16:20] = struct.pack(">I", 8 * len(packed) // bits)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "image.png").write_bytes(content)
    result, header = read_with_header(tmp_path / "image.png")
    assert result.tolist() == [[0, 119, 255, 0] if bits == 4 else [0, 85, 170, 255]]
    assert header.bits_stored == bits


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation_is_applied(tmp_path, kind, orientation):
    # The upright image, from the definition: the corner at which the stored row 0 and column 0 are.
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / "image", GREY, kind, exif=exif)
    expected = GREY if kind != "JPEG" else np.asarray(Image.open(path))
    result, header = read_with_header(path)
    assert np.array_equal(result, upright(expected))
    assert (header.rows, header.columns) == result.shape


def test_orientation_of_16_bit_colour(tmp_path):
    path = tiff(tmp_path / "image.tif", np.dstack([DEEP] * 3)[:9], 2, t274=6)
    assert np.array_equal(read_image(path), pictures.stretch(np.rot90(DEEP[:9], -1)))
    content = png(tmp_path / "image.png", np.dstack([DEEP] * 3)[:9], 2).read_bytes()
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLHH", 274, 3, 1, 6, 0) + bytes(4)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    path.write_bytes(content[:33] + chunk + content[33:])
    assert np.array_equal(read_image(path), pictures.stretch(np.rot90(DEEP[:9], -1)))


def test_transparent_pixels_are_blended_over_black(tmp_path):
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[0], alpha[1] = 0, 100
    expected = GREY.copy()
    expected[0], expected[1] = 0, np.rint(GREY[1] * (100 / 255))
    for channels in ([GREY, alpha], [GREY, GREY, GREY, alpha]):
        image = np.dstack(channels)
        assert np.array_equal(read_image(save(tmp_path / "image", image, "PNG")), expected)
        assert np.array_equal(read_image(save(tmp_path / "image", image, "TIFF")), expected)
    # Colour that is not seen does not count.
    image = np.dstack([GREY, GREY, GREY, alpha])
    image[0, :, 0] = 255 - image[0, :, 0]
    assert np.array_equal(read_image(save(tmp_path / "image", image, "PNG")), expected)


def test_transparent_pixels_of_16_bits_are_blended_over_black(tmp_path):
    alpha = FULL.copy()
    alpha[0, :3] = 0, 32768, 65535
    blended = DEEP.astype(float)
    blended[0, :2] = 0, round(int(DEEP[0, 1]) * 32768 / 65535)
    expected = np.rint(blended / blended.max() * 255)
    for colour_type, channels in ((4, [DEEP, alpha]), (6, [DEEP, DEEP, DEEP, alpha])):
        assert np.array_equal(read_image(png(tmp_path / "image.png", np.dstack(channels), colour_type)), expected)


def test_a_value_that_a_png_marks_as_transparent_is_black(tmp_path):
    expected = np.where(GREY[5, 5] == GREY, 0, GREY)
    assert expected.sum() < GREY.sum()
    value = struct.pack(">H", GREY[5, 5])
    assert np.array_equal(read_image(png(tmp_path / "1.png", GREY, 0, value)), expected)
    assert np.array_equal(read_image(png(tmp_path / "2.png", RGB, 2, value * 3)), expected)
    deep = DEEP.astype(float)
    deep[1, 1] = 0
    value, expected = struct.pack(">H", DEEP[1, 1]), np.rint(deep / deep.max() * 255)
    assert np.array_equal(read_image(png(tmp_path / "3.png", DEEP, 0, value)), expected)
    assert np.array_equal(read_image(png(tmp_path / "4.png", np.dstack([DEEP] * 3), 2, value * 3)), expected)


def test_a_palette_may_be_in_any_order_and_partly_transparent(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P")
    image.putpalette([200, 200, 200, 9, 9, 9, 100, 100, 100, 50, 51, 50, 255, 0, 0])  # the last entry is not used
    assert read_image(save(tmp_path / "1.png", image, "PNG")).tolist() == [[200, 9, 100, 51]]
    assert read_image(save(tmp_path / "2.png", image, "PNG", transparency=0)).tolist() == [[0, 9, 100, 51]]
    alphas = bytes([255, 255, 51])
    assert read_image(save(tmp_path / "3.png", image, "PNG", transparency=alphas)).tolist() == [[200, 9, 20, 51]]


def test_channels_may_differ_by_rounding(tmp_path):
    image = RGB.copy()
    image[3, 4, 0] += 2
    result = read_image(save(tmp_path / "image.png", image, "PNG"))
    expected = GREY.copy()
    expected[3, 4] += 1  # 0.299 times 2, rounded
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_true_colour_is_refused_with_its_amount(tmp_path, kind):
    image = RGB.copy()
    image[2, 2:5, 0] += 3
    image[2, 2, 0] += 37
    reason = r"3 of its 323 pixels \(0\.9%\) have colour, with channels up to 40 of 255 grey levels apart"
    with pytest.raises(UnsupportedError, match=reason) as caught:
        read_image(save(tmp_path / "image", image, kind))
    assert "greyscale" in caught.value.remedy


def test_true_colour_of_other_kinds_is_refused(tmp_path):
    image = np.dstack([GREY, 255 - GREY, GREY])
    with pytest.raises(UnsupportedError, match="is a colour image"):
        read_image(save(tmp_path / "image.jpg", image, "JPEG"))
    with pytest.raises(UnsupportedError, match="is a colour image"):
        read_image(save(tmp_path / "image.png", Image.fromarray(image).quantize(16), "PNG"))
    deep = np.dstack([DEEP] * 3)
    deep[0, 0, 1] += 1  # exact with 16 bits
    for path in (png(tmp_path / "image.png", deep, 2), tiff(tmp_path / "image.tif", deep, 2)):
        with pytest.raises(UnsupportedError, match=r"1 of its 256 pixels .* up to 1 of 65535"):
            read_image(path)


def refused(folder: Path, name: str) -> Path:
    path = folder / "image"
    image, floats = Image.fromarray(GREY), GREY.astype(np.float32)
    if name in ("1", "CMYK", "LAB"):
        kinds = {"1": "PNG", "CMYK": "JPEG", "LAB": "TIFF"}
        from PIL import ImageCms

        lab = ImageCms.profileToProfile(
            image.convert("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        return save(path, lab if name == "LAB" else image.convert(name), kinds[name])
    if name in ("pages", "frames"):
        more = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
        return save(path, image, "TIFF" if name == "pages" else "PNG", **more)
    return {
        "float": lambda: tiff(path, floats, 1, t339=FLOAT),
        "double": lambda: tiff(path, GREY.astype(float), 1, t339=FLOAT),
        "half": lambda: tiff(path, GREY.astype(np.float16), 1, t339=FLOAT),
        "32": lambda: tiff(path, GREY.astype(np.uint32), 1),
        "signed 8": lambda: tiff(path, GREY.view(np.int8), 1, t339=SIGNED),
        "signed 32": lambda: tiff(path, GREY.astype(np.int32), 1, t339=SIGNED),
        "grey with alpha": lambda: tiff(path, np.dstack([DEEP, FULL]), 1, t338=2),
        "premultiplied": lambda: tiff(path, np.dstack([DEEP] * 3 + [FULL]), 2, t338=1),
        "planes": lambda: tiff(path, np.dstack([DEEP] * 3), 2, t284=2),
    }[name]()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1", "has 1 bits per sample, expected 2 to 16"),
        ("CMYK", "colour model is CMYK"),
        ("LAB", "colour model is LAB"),
        ("float", "floating-point"),
        ("double", "a kind that is not read"),
        ("half", "a kind that is not read"),
        ("32", "32 bits per sample"),
        ("signed 8", "signed numbers of 8 bits"),
        ("signed 32", "32 bits per sample"),
        ("grey with alpha", "a kind that is not read"),
        ("premultiplied", "an arrangement that is not read"),
        ("planes", "an arrangement that is not read"),
        ("pages", "holds 3 pages or frames"),
        ("frames", "holds 3 pages or frames"),
    ],
)
def test_other_kinds_are_refused(tmp_path, name, reason):
    with pytest.raises(UnsupportedError, match=reason) as caught:
        read_image(refused(tmp_path, name))
    assert str(caught.value) == f"{tmp_path / 'image'}: {caught.value.reason}. {caught.value.remedy}"


def test_two_decoders_that_disagree_are_noticed(tmp_path, monkeypatch):
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decode(*given)[:, ::-1])
    with pytest.raises(UnsupportedError, match="two decoders read differently"):
        read_image(png(tmp_path / "image.png", np.dstack([DEEP] * 3), 2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GIF89a" + bytes(20), "is a GIF file"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "is a BMP file"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "is a WebP file"),
        (b"%PDF-1.7", "is a PDF file"),
        (b"image_id,label\n", "is not an image"),
        (b"", "is empty"),
    ],
)
def test_other_files_are_named(tmp_path, content, reason):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(NotAnImageError, match=reason) as caught:
        read_image(tmp_path / "image.png")
    assert caught.value.remedy == "Give a DICOM, PNG, JPEG or TIFF file"


def test_sizes_are_checked_before_decoding(tmp_path, monkeypatch):
    path = png(tmp_path / "image.png", GREY, 0)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TooLargeError, match="3600000000 bytes, expected at most"):
            read_image(path)
    # Rows, columns, samples and bytes of a sample.
    for limit, outcome in ((16 * 16 * 3 * 2 - 1, "error"), (16 * 16 * 3 * 2, "image")):
        monkeypatch.setattr(pictures, "MAX_PIXEL_BYTES", limit)
        path = png(tmp_path / "image.png", np.dstack([DEEP] * 3), 2)
        if outcome == "error":
            with pytest.raises(TooLargeError, match="take 1536 bytes, expected at most 1535"):
                read_image(path)
        else:
            assert np.array_equal(read_image(path), DEEP_GREY)


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    path = save(tmp_path / "image.jpg", GREY, "JPEG", progressive=True)
    path.write_bytes(path.read_bytes() + b"\xff\xda" * 100)
    with pytest.raises(DamagedError, match="more than 100 scans"):
        read_image(path)


def seeds(folder: Path) -> list[bytes]:
    exif = Image.Exif()
    exif[274] = 6
    path = folder / "seed"
    palette = Image.fromarray(GREY).convert("P")
    written = [
        *(save(path, image, "PNG").read_bytes() for image in (GREY, DEEP, RGB, np.dstack([RGB, OPAQUE]))),
        save(path, palette, "PNG", transparency=3).read_bytes(),
        png(path, np.dstack([DEEP] * 3), 2).read_bytes(),
        *(save(path, image, "JPEG").read_bytes() for image in (GREY, RGB)),
        save(path, GREY, "JPEG", progressive=True, exif=exif).read_bytes(),
        save(path, RGB, "TIFF", compression="jpeg").read_bytes(),
        tiff(path, np.dstack([DEEP] * 3), 2).read_bytes(),
        tiff(path, DEEP, 0).read_bytes(),
    ]
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        written += [save(path, image, "TIFF", compression=compression).read_bytes() for image in (GREY, DEEP)]
    return written


def outcome(path: Path) -> str:
    try:
        image = read_image(path)
    except ImageError as error:
        return type(error).__name__
    assert image.dtype == np.uint8
    assert image.ndim == 2
    return "image"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_picture_cut_anywhere_is_an_error(tmp_path):
    path = tmp_path / "image"
    for number, content in enumerate(seeds(tmp_path)):
        path.write_bytes(content)
        assert outcome(path) == "image"
        for length in range(8, len(content) - 4, 7):
            path.write_bytes(content[:length])
            assert outcome(path) == "DamagedError", (number, length)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_altered_bytes_give_an_image_or_an_error(tmp_path):
    rng = random.Random(20190904)
    path, contents = tmp_path / "image", seeds(tmp_path)
    counts: Counter[str] = Counter()
    for _ in range(600):
        content = bytearray(rng.choice(contents))
        end = min(len(content), 120) if rng.random() < 0.5 else len(content)
        for _ in range(rng.choice([1, 2, 5, 20])):
            content[rng.randrange(end)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        start = rng.randrange(len(content))
        if rng.random() < 0.2:
            content[start : start + rng.randrange(64)] = content[start : start + rng.randrange(64)] * 2
        path.write_bytes(content)
        counts[outcome(path)] += 1
    assert counts["image"] > 50
    assert counts["DamagedError"] > 200


def test_a_changed_byte_of_compressed_pixels_is_noticed(tmp_path):
    """PNG has checksums, and the JPEG decoder is strict; the same decoders without them would return an image."""
    for content in (save(tmp_path / "a", DEEP, "PNG").read_bytes(), png(tmp_path / "a", RGB, 2).read_bytes()):
        altered = bytearray(content)
        altered[content.index(b"IDAT") + 14] ^= 0x10
        (tmp_path / "a").write_bytes(altered)
        assert outcome(tmp_path / "a") == "DamagedError"
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG")
    content = buffer.getvalue()
    start = content.index(b"\xff\xda") + 10
    (tmp_path / "a").write_bytes(content[: start + 20] + content[start + 40 :])
    assert outcome(tmp_path / "a") == "DamagedError"
