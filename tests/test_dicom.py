import io
import os
import pickle
import random
import struct
import tracemalloc
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gdcm
import jpeg_ls
import numpy as np
import openjpeg
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from pneumoseg.dicom import (
    DamagedError,
    DicomError,
    NoPixelsError,
    NotDicomError,
    TooLargeError,
    UnsupportedError,
    codecs,
    elements,
    read_dicom,
    read_image,
)
from pneumoseg.dicom.header import parse_age

CORPUS = Path(pydicom.__file__).parent / "data/test_files"
REAL = Path(__file__).parents[1] / "../shared/siim-mini"
SEED = 20190904

GRADIENT = np.add.outer(np.arange(37) * 4, np.arange(34) * 3).astype(np.uint8)


def dataset(pixels: np.ndarray, **attributes) -> Dataset:
    """An uncompressed greyscale image with the attributes given; those set to None are left out."""
    bits = 8 * pixels.dtype.itemsize
    signed = int(pixels.dtype.kind == "i")
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.SOPClassUID = uid.SecondaryCaptureImageStorage
    image.SOPInstanceUID = "1.2.3.4"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = bits
    image.HighBit, image.PixelRepresentation = bits - 1, signed
    image.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    image["PixelData"].VR = "OW" if bits == 16 else "OB"
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    if attributes.get("BitsStored") and "HighBit" not in attributes:
        image.HighBit = attributes["BitsStored"] - 1
    return image


def save(image: Dataset, path: Path, syntax: str | None = None) -> Path:
    if syntax is not None:
        image.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save_as(path, enforce_file_format=True)
    return path


def lookup_table(descriptor: list[int], data: list[int] | np.ndarray, vr: str = "US", dtype: str = "<u2") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, descriptor)
    item.add_new("LUTData", "OW", np.array(data, dtype).tobytes())
    return Sequence([item])


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def jpeg_dataset(frame: bytes, shape: tuple[int, int] = GRADIENT.shape, table: bool = True, **attributes) -> Dataset:
    image = dataset(np.zeros(shape, np.uint8), **attributes)
    image.PixelData = encapsulate([frame], has_bot=table)
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    return image


def shown(tmp_path: Path, pixels: list | np.ndarray, dtype: str = "u2", **attributes) -> list:
    return read_image(save(dataset(np.array(pixels, dtype), **attributes), tmp_path / "image.dcm")).tolist()


def outcome(path: Path) -> str:
    """'image', or the name of the error, which must name the file, the reason and the remedy."""
    try:
        image = read_image(path)
    except DicomError as caught:
        error = caught
    else:
        assert image.dtype == np.uint8
        assert image.ndim == 2
        return "image"
    assert str(error) == f"{path}: {error.reason}. {error.remedy}."
    assert error.reason
    assert error.remedy
    return type(error).__name__


# Display ---------------------------------------------------------------------------------------------------------


def test_eight_bits_without_rescale_or_window_stay_as_they_are(tmp_path):
    assert shown(tmp_path, [[3, 10, 200], [0, 7, 90]], "u1") == [[3, 10, 200], [0, 7, 90]]


def test_an_identity_rescale_changes_nothing(tmp_path):
    assert shown(tmp_path, [[3, 10, 200]], "u1", RescaleSlope=1, RescaleIntercept=0) == [[3, 10, 200]]


def test_monochrome1_is_inverted(tmp_path):
    assert shown(tmp_path, [[0, 10, 255]], "u1", PhotometricInterpretation="MONOCHROME1") == [[255, 245, 0]]


def test_presentation_lut_shape_does_not_invert_once_more(tmp_path):
    attributes = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert shown(tmp_path, [[0, 10, 255]], "u1", **attributes) == [[255, 245, 0]]


@pytest.mark.parametrize(
    ("function", "center", "width", "pixels", "expected"),
    [
        # Centre 99.5, width 50: 80 is (80 - 99.5) / 50 + 0.5 = 0.11 of white, 99 is 0.49, 100 is 0.51.
        (None, 100, 51, [0, 74, 80, 99, 100, 125, 4095], [0, 0, 28, 125, 130, 255, 255]),
        ("LINEAR", 100, 51, [0, 74, 80, 99, 100, 125, 4095], [0, 0, 28, 125, 130, 255, 255]),
        # 76 is (76 - 100) / 50 + 0.5 = 0.02 of white, 101 is 0.52.
        ("LINEAR_EXACT", 100, 50, [75, 76, 101, 125], [0, 5, 133, 255]),
        # 80 is 1 / (1 + e^2) = 0.1192 of white, 110 is 1 / (1 + e^-1) = 0.7311.
        ("SIGMOID", 100, 40, [0, 80, 110, 4095], [0, 30, 186, 255]),
        ("SIGMOID", 100, 0.001, [0, 99, 101, 4095], [0, 0, 255, 255]),
        # The narrowest linear window is a threshold at centre - 0.5.
        ("LINEAR", 100, 1, [0, 99, 100, 4095], [0, 0, 255, 255]),
        ("LINEAR_EXACT", 100, 0.5, [99, 100, 101], [0, 128, 255]),
    ],
)
def test_windows(tmp_path, function, center, width, pixels, expected):
    attributes = {} if function is None else {"VOILUTFunction": function}
    assert shown(tmp_path, [pixels], BitsStored=12, WindowCenter=center, WindowWidth=width, **attributes) == [expected]


@pytest.mark.parametrize(
    ("centers", "widths", "expected"),
    [
        ([100, 2000], [51, 4000], [0, 28, 255]),  # the first of two
        ([0, 100], [0, 51], [0, 28, 255]),  # a width of 0 says nothing
        (100, -5, [0, 51, 255]),  # no valid window: 50 to 200 is spread, 80 is 30 / 150 of white
        (100, 0.5, [0, 51, 255]),
        (100, None, [0, 51, 255]),
    ],
)
def test_which_window(tmp_path, centers, widths, expected):
    attributes = {"WindowCenter": centers} if widths is None else {"WindowCenter": centers, "WindowWidth": widths}
    assert shown(tmp_path, [[50, 80, 200]], **attributes) == [expected]


@pytest.mark.parametrize("text", [b"nan ", b"inf ", b"x ", b"1e999 "])
def test_a_window_that_is_no_number_says_nothing(tmp_path, text):
    path = save(
        dataset(np.array([[50, 80, 200]], "u2"), WindowCenter=100, WindowWidth="51.000"), tmp_path / "image.dcm"
    )
    path.write_bytes(path.read_bytes().replace(b"51.000", text.ljust(6)))
    assert read_image(path).tolist() == [[0, 51, 255]]


@pytest.mark.parametrize(("vr", "code"), [("FD", "d"), ("FL", "f"), ("US", "H"), ("SS", "h"), ("UL", "L"), ("SL", "l")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_windows(tmp_path, vr, code, order):
    image = dataset(np.array([[50, 80, 200]], f"{order}u2"), WindowCenter="10.0", WindowWidth="5.10")
    path = save(image, tmp_path / "image.dcm", uid.ExplicitVRBigEndian if order == ">" else None)
    content = path.read_bytes()
    for text, number in ((b"10.0", 100), (b"5.10", 51)):
        value = struct.pack(order + code, number)
        header = b"DS" + struct.pack(order + "H", 4) + text
        assert content.count(header) == 1
        content = content.replace(header, vr.encode() + struct.pack(order + "H", len(value)) + value)
    path.write_bytes(content)
    assert read_image(path).tolist() == [[0, 28, 255]]


def test_decimal_commas(tmp_path):
    path = save(
        dataset(np.array([[50, 80, 200]], "u2"), WindowCenter="100.0", WindowWidth="51.000"), tmp_path / "image.dcm"
    )
    path.write_bytes(path.read_bytes().replace(b"51.000", b"51,000").replace(b"100.0", b"100,0"))
    assert read_image(path).tolist() == [[0, 28, 255]]


@pytest.mark.parametrize(
    ("slope", "function", "center", "width", "expected"),
    [
        # Values 0, 0.1, 0.2, 0.3 and 0.4: the window is from 0.1 to 0.3.
        ("0.0001", None, 0.2, 0.2, [0, 0, 128, 255, 255]),
        ("-0.0001", "LINEAR", -0.2, 0.2, [255, 255, 128, 0, 0]),
        # Values from 0 to 4 in steps of 0.001: the window of LINEAR, less 1 wide, would be a threshold at 1.5.
        ("0.001", "LINEAR", 2, 1, [0, 0, 128, 255, 255]),
        ("0.001", "LINEAR", 2, 1.5, [0, 0, 128, 255, 255]),
        # Wide enough for the standard's formula: centre 1.5, width 1, so from 1 to 2.
        ("0.001", "LINEAR", 2, 2, [0, 0, 255, 255, 255]),
        # Narrower than a step: spread.
        ("0.0001", None, 0.2, 0.00009, [0, 64, 128, 191, 255]),
        ("0.5", None, 800, 0.4, [0, 64, 128, 191, 255]),
        ("2", None, 4000, 0.9, [0, 64, 128, 191, 255]),
    ],
)
def test_linear_windows_of_values_less_than_one_apart(tmp_path, slope, function, center, width, expected):
    attributes = {"RescaleSlope": slope, "RescaleIntercept": 0, "WindowCenter": center, "WindowWidth": width}
    if function is not None:
        attributes["VOILUTFunction"] = function
    assert shown(tmp_path, [[0, 1000, 2000, 3000, 4000]], **attributes) == [expected]


def test_a_narrow_window_after_a_modality_lut_says_nothing(tmp_path):
    attributes = {"WindowCenter": 20, "WindowWidth": 0.4, "RescaleSlope": "0.1"}
    sequence = lookup_table([3, 0, 16], [10, 20, 30])
    assert shown(tmp_path, [[0, 1, 2]], "u1", ModalityLUTSequence=sequence, **attributes) == [[0, 128, 255]]


def test_an_unknown_voi_lut_function_matters_only_to_a_window(tmp_path):
    assert shown(tmp_path, [[50, 80, 200]], VOILUTFunction="CUBIC") == [[0, 51, 255]]
    assert shown(tmp_path, [[50, 80, 200]], VOILUTFunction="CUBIC", WindowCenter=9, WindowWidth=0) == [[0, 51, 255]]


def test_signed_with_rescale_and_window(tmp_path):
    # Modality values 2 x - 1000: -1002, -500, 0, 500, 1000; centre -0.5, width 2000: -500 is 0.25025 of white.
    attributes = {
        "BitsStored": 12,
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "WindowCenter": 0,
        "WindowWidth": 2001,
    }
    expected = [[0, 64, 128, 191, 255]]
    assert shown(tmp_path, [[-1, 250, 500, 750, 1000]], "i2", **attributes) == expected
    # The same with nothing, or an overlay, above the 12 bits instead of the sign.
    assert shown(tmp_path, [[0xFFF, 250, 0x31F4, 750, 1000]], "u2", PixelRepresentation=1, **attributes) == expected


def test_high_bit_above_the_stored_bits(tmp_path):
    pixels = (np.array([[100, 300, 250]]) << 4) | 0xF
    assert shown(tmp_path, pixels, BitsStored=12, HighBit=15) == [[0, 255, 191]]


def test_an_absent_high_bit(tmp_path):
    assert shown(tmp_path, [[0x7100, 0x300, 0x250]], BitsStored=12, HighBit=None) == [[0, 255, 167]]


def test_rescale_of_eight_bits_is_spread(tmp_path):
    assert shown(tmp_path, [[10, 20, 50]], "u1", RescaleSlope=-1, RescaleIntercept=0) == [[255, 191, 0]]


def test_modality_lut(tmp_path):
    # Entries 0, 1000, 3000, 4000 for 10, 11, 12, 13; what is below or above takes the first or last; then spread.
    sequence = lookup_table([4, 10, 16], [0, 1000, 3000, 4000])
    expected = [[0, 0, 64, 191, 255, 255]]
    assert shown(tmp_path, [[9, 10, 11, 12, 13, 200]], "u1", ModalityLUTSequence=sequence) == expected


def test_voi_lut_comes_before_a_window(tmp_path):
    sequence = lookup_table([3, 5, 8], [0, 100, 255])
    attributes = {"VOILUTSequence": sequence, "WindowCenter": 128, "WindowWidth": 256}
    assert shown(tmp_path, [[4, 5, 6, 7, 8]], "u1", **attributes) == [[0, 0, 100, 255, 255]]


def test_voi_lut_of_twelve_bits_from_a_negative_value(tmp_path):
    # 2048 / 4095 of white is 127.5.., 1024 / 4095 is 63.8.
    sequence = lookup_table([3, -2, 12], [0, 1024, 2048], "SS")
    assert shown(tmp_path, [[-3, -2, -1, 0, 9]], "i2", VOILUTSequence=sequence) == [[0, 0, 64, 128, 128]]


def test_voi_lut_in_implicit_vr_and_undefined_length(tmp_path):
    sequence = lookup_table([3, -2, 12], [0, 1024, 2048], "SS")
    sequence.is_undefined_length = True
    sequence[0].is_undefined_length_sequence_item = True
    image = dataset(np.array([[-3, -2, -1, 0, 9]], "i2"), VOILUTSequence=sequence)
    path = save(image, tmp_path / "image.dcm", uid.ImplicitVRLittleEndian)
    assert read_image(path).tolist() == [[0, 0, 64, 128, 128]]


def test_voi_lut_in_big_endian(tmp_path):
    sequence = lookup_table([3, -2, 12], [0, 1024, 2048], "SS", dtype=">u2")
    image = dataset(np.array([[-3, -2, -1, 0, 9]], ">i2"), VOILUTSequence=sequence)
    path = save(image, tmp_path / "image.dcm", uid.ExplicitVRBigEndian)
    assert read_image(path).tolist() == [[0, 0, 64, 128, 128]]


@pytest.mark.parametrize(
    ("entries", "bits", "data", "dtype"),
    [
        (4, 8, [0, 100, 200, 255], "u1"),  # two entries a word
        (3, 8, [0, 100, 255, 77], "u1"),  # and one byte to make the length even
        (3, 8, [0, 100, 255, 77, 0, 0], "<u2"),  # more entries than the descriptor says
    ],
)
def test_what_lut_data_may_be(tmp_path, entries, bits, data, dtype):
    sequence = lookup_table([entries, 5, bits], data, dtype=dtype)
    expected = [[data[0], data[1], data[entries - 1]]]
    assert shown(tmp_path, [[4, 6, 200]], "u1", VOILUTSequence=sequence) == expected


def test_a_lut_of_65536_entries_says_0(tmp_path):
    sequence = lookup_table([0, 0, 16], np.arange(65536)[::-1])
    assert shown(tmp_path, [[0, 32768, 65535]], VOILUTSequence=sequence) == [[255, 127, 0]]


@pytest.mark.parametrize(
    ("bits", "data", "expected"),
    [
        # The descriptor says more by two bits or more, or fewer: white is the highest entry.
        (16, [0, 1000, 2000, 4095], [0, 62, 125, 255]),
        (16, [4095, 2000, 1000, 0], [255, 125, 62, 0]),
        (16, [0, 1000, 2000, 4000], [0, 64, 128, 255]),
        (16, [0, 1000, 2000, 4096], [0, 62, 125, 255]),
        (16, [0, 100, 200, 255], [0, 100, 200, 255]),
        (12, [0, 100, 200, 1023], [0, 25, 50, 255]),
        (12, [0, 1, 2, 3], [0, 1, 2, 3]),
        (12, [0, 10000, 40000, 65535], [0, 39, 156, 255]),
        (8, [0, 1000, 2000, 4095], [0, 62, 125, 255]),
        (12, [0, 1024, 2048, 4096], [0, 64, 128, 255]),
        (8, [0x0000, 0x6464, 0xC8C8, 0xFFFF], [0, 100, 200, 255]),  # each byte doubled
        (8, [0x0000, 0x6400, 0xC800, 0xFF00], [0, 100, 200, 255]),  # in the high byte
        # Nothing at all, or nothing possible.
        (0, [0, 1000, 2000, 4000], [0, 64, 128, 255]),
        (0, [0, 100, 200, 250], [0, 100, 200, 250]),
        (7, [0, 100, 200, 250], [0, 100, 200, 250]),
    ],
)
def test_a_voi_lut_goes_by_its_data_where_its_bits_are_wrong(tmp_path, bits, data, expected):
    sequence = lookup_table([4, 10, bits], data)
    with pytest.warns(UserWarning, match=rf"image.dcm: its VOI LUT says {bits} bits.* up to {max(data)}, "):
        assert shown(tmp_path, [[10, 11, 12, 13]], "u1", VOILUTSequence=sequence) == [expected]


def test_a_voi_lut_of_bytes_that_says_16_bits(tmp_path):
    sequence = lookup_table([4, 10, 16], [0, 100, 200, 255], dtype="u1")
    with pytest.warns(UserWarning, match="says 16 bits"):
        assert shown(tmp_path, [[10, 11, 12, 13]], "u1", VOILUTSequence=sequence) == [[0, 100, 200, 255]]


@pytest.mark.parametrize(
    ("bits", "data", "expected"),
    [
        (16, [0, 10000, 20000, 40000], [0, 39, 78, 156]),
        (16, [0, 10000, 20000, 30000], [0, 39, 78, 117]),  # 30000 needs 15 bits: no contradiction yet
        (12, [0, 1000, 2000, 2047], [0, 62, 125, 127]),
        (12, [0, 1000, 2048, 2048], [0, 62, 128, 128]),
        (8, [0, 1, 2, 100], [0, 1, 2, 100]),
        (16, [0, 0, 0, 0], [0, 0, 0, 0]),
        (0, [0, 0, 0, 0], [0, 0, 0, 0]),
        (16, [0, 0, 0, 40000, 65535], [0, 0, 0, 156]),  # the fifth entry is not one of the LUT
    ],
)
def test_a_voi_lut_that_leaves_white_unused_is_not_doubted(tmp_path, bits, data, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sequence = lookup_table([4, 10, bits], data)
        assert shown(tmp_path, [[10, 11, 12, 13]], "u1", VOILUTSequence=sequence) == [expected]


def test_the_bits_of_a_modality_lut_do_not_matter(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bits in (0, 8, 12, 16):
            sequence = lookup_table([3, 0, bits], [0, 1000, 4000])
            assert shown(tmp_path, [[0, 1, 2]], "u1", ModalityLUTSequence=sequence) == [[0, 64, 255]]


def test_a_wrong_voi_lut_is_warned_about_once_a_file(tmp_path):
    image = dataset(np.array([[0, 1]], "u1"), VOILUTSequence=lookup_table([2, 0, 16], [0, 4095]))
    paths = [save(image, tmp_path / f"{name}.dcm") for name in "abc"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with ThreadPoolExecutor(2) as pool:
            for read in pool.map(read_image, paths * 3):
                assert read.tolist() == [[0, 255]]
    assert sorted(str(warning.message).split(": ")[0] for warning in caught) == [str(path) for path in paths]
    assert {warning.category for warning in caught} == {UserWarning}


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("pixels", "dtype", "rescale", "first", "vr"),
    [
        # Entries 0, 100, 200, 255 for -100, -99, -98 and -97, the first being written as 65436 = -100 + 65536.
        ([-200, -100, -99, -98, -97, 50], "i2", None, 65436, "US"),
        ([-200, -100, -99, -98, -97, 50], "i2", None, -100, "SS"),
        ([0, 924, 925, 926, 927, 4000], "u2", -1024, 65436, "US"),
        ([0, 924, 925, 926, 927, 4000], "u2", -1024, -100, "SS"),
        # For 40000 and more, written as a signed number or rightly.
        ([0, 40000, 40001, 40002, 40003, 65535], "u2", None, 40000 - 65536, "SS"),
        ([0, 40000, 40001, 40002, 40003, 65535], "u2", None, 40000, "US"),
        ([0, 40024, 40025, 40026, 40027, 65535], "u2", -24, 40000, "US"),
    ],
)
def test_the_first_value_of_a_voi_lut_may_be_of_the_wrong_sign(tmp_path, syntax, pixels, dtype, rescale, first, vr):
    image = dataset(np.array([pixels], dtype), VOILUTSequence=lookup_table([4, first, 8], [0, 100, 200, 255], vr))
    if rescale is not None:
        image.RescaleSlope, image.RescaleIntercept = 1, rescale
    path = save(image, tmp_path / "image.dcm", syntax)
    assert read_image(path).tolist() == [[0, 0, 100, 200, 255, 255]]


def test_a_long_lut_of_unsigned_values_may_begin_below_zero(tmp_path):
    # Entry 100 is for the value 0, entry 4195 for 4095; as 65436 the first value would be beyond every one there is.
    sequence = lookup_table([4196, 65436, 16], np.linspace(0, 65535, 4196).round())
    # 100 / 4195 of white is 6.1, 2100 / 4195 is 127.7.
    assert shown(tmp_path, [[0, 2000, 4095]], VOILUTSequence=sequence) == [[6, 128, 255]]
    # White is padding, one value that the other reading covers.
    assert shown(tmp_path, [[0, 2000, 4095, 65535]], VOILUTSequence=sequence) == [[6, 128, 255, 255]]


@pytest.mark.parametrize(("slope", "expected"), [("1e300", [0, 255, 255]), ("-1e30", [0, 0, 0]), ("1e-300", [0, 0, 0])])
def test_a_voi_lut_of_values_beyond_every_integer(tmp_path, slope, expected):
    attributes = {"RescaleSlope": slope, "RescaleIntercept": 0, "VOILUTSequence": lookup_table([2, 0, 8], [0, 255])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shown(tmp_path, [[0, 1, 4000]], **attributes) == [expected]


def test_the_first_value_of_a_modality_lut_may_be_of_the_wrong_sign(tmp_path):
    sequence = lookup_table([3, 65434, 16], [0, 1000, 4000])
    assert shown(tmp_path, [[-102, -101, -100]], "i2", ModalityLUTSequence=sequence) == [[0, 64, 255]]


def test_deep_values_are_spread_and_padding_is_black(tmp_path):
    pixels = [[100, 300, 250, 4000]]
    assert shown(tmp_path, pixels, BitsStored=12, PixelPaddingValue=4000) == [[0, 255, 191, 0]]
    ranged = {"PixelPaddingValue": 3900, "PixelPaddingRangeLimit": 4095}
    assert shown(tmp_path, pixels, BitsStored=12, PhotometricInterpretation="MONOCHROME1", **ranged) == [
        [255, 0, 64, 0]
    ]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_that_is_not_spread_is_shown_as_stored(tmp_path, photometric):
    plain = {"PhotometricInterpretation": photometric}
    for pixels, attributes in (([[0, 9, 255]], {}), ([[0, 80, 4095]], {"WindowCenter": 100, "WindowWidth": 51})):
        dtype = "u2" if attributes else "u1"
        expected = shown(tmp_path, pixels, dtype, **plain, **attributes)
        assert shown(tmp_path, pixels, dtype, PixelPaddingValue=pixels[0][2], **plain, **attributes) == expected


def test_signed_padding(tmp_path):
    image = dataset(np.array([[-2000, 100, 300, 250]], "i2"))
    image.add_new("PixelPaddingValue", "SS", -2000)
    assert read_image(save(image, tmp_path / "image.dcm")).tolist() == [[0, 0, 255, 191]]


WORDS = [[100, 4095, 300, 250, 65535]]
NUMBERS = [[-32768, -2048, 0, 2047, -1]]


@pytest.mark.parametrize(
    ("pixels", "dtype", "attributes", "expected"),
    [
        # 250 is 150 / 200 of white; 65535 masked to 12 bits is 4095, beside which all would be nearly black.
        ([[100, 300, 250, 65535]], "u2", {"PixelPaddingValue": 65535}, [[0, 255, 191, 0]]),
        # A true 4095 is white.
        (WORDS, "u2", {"PixelPaddingValue": 65535}, [[0, 255, 13, 10, 0]]),
        (
            WORDS,
            "u2",
            {"PixelPaddingValue": 65535, "PhotometricInterpretation": "MONOCHROME1"},
            [[255, 0, 242, 245, 0]],
        ),
        # 65534 is none here; masked it is 4094.
        ([[100, 300, 250, 65535]], "u2", {"PixelPaddingValue": 65534}, [[0, 13, 10, 255]]),
        (
            [[100, 300, 5000, 65535]],
            "u2",
            {"PixelPaddingValue": 5000, "PixelPaddingRangeLimit": 65535},
            [[0, 255, 0, 0]],
        ),
        ([[100, 300, 5000, 65535]], "u2", {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 300}, [[0, 0, 0, 0]]),
        # Only the padding is black outside the 12 bits, an overlay is masked: 4096 + 100 and 4096 + 250.
        ([[4196, 300, 4346, 65535]], "u2", {"PixelPaddingValue": 65535}, [[0, 255, 191, 0]]),
        # -32768 masked to 12 bits is 0, which is not padding: 2048 / 4095 of white is 127.5, 2047 / 4095 is 127.5 too.
        (NUMBERS, "i2", {"PixelPaddingValue": -32768}, [[0, 0, 128, 255, 127]]),
        (
            [[-32768, -3000, -2048, 0, 200]],
            "i2",
            {"PixelPaddingValue": -32768, "PixelPaddingRangeLimit": -2000},
            [[0, 0, 0, 0, 255]],
        ),
        # A window does not show it as any value: it is none.
        (WORDS, "u2", {"PixelPaddingValue": 65535, "WindowCenter": 100, "WindowWidth": 51}, [[130, 255, 255, 255, 0]]),
        # High Bit 15: the words as they lie there, 16 times what is stored.
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


def test_a_frame_without_room_for_padding_has_none(tmp_path):
    pixels = np.random.default_rng(SEED).integers(0, 4096, (40, 40)).astype("u2")
    pixels[0, :2] = 0, 4095
    image = pydicom.dcmread(encoded(pixels, "JPEG 2000", tmp_path / "image.dcm", BitsStored=12))
    image.add_new("PixelPaddingValue", "US", 65535)
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm")), spread(pixels, 0, 4095))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_constant_image_is_zeros(tmp_path, photometric):
    assert shown(tmp_path, [[700, 700]], PhotometricInterpretation=photometric) == [[0, 0]]


# Encodings -------------------------------------------------------------------------------------------------------


NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}
COMPRESSED = {"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless, "JPEG 2000": uid.JPEG2000Lossless}
LOSSLESS = {"lossless": "JPEGLosslessProcess14", "lossless SV1": "JPEGLosslessProcess14_1"}
ENCODINGS = [*NATIVE, *COMPRESSED, *LOSSLESS]


def gdcm_encoded(path: Path, syntax: int) -> Path:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def encoded(pixels: np.ndarray, encoding: str, path: Path, **attributes) -> Path:
    image = dataset(pixels, **attributes)
    if encoding == "JPEG 2000":
        frame = openjpeg.encode(pixels, bits_stored=image.BitsStored, photometric_interpretation=2)
        image.PixelData = encapsulate([bytes(frame)])
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    elif encoding in COMPRESSED:
        image.compress(COMPRESSED[encoding], generate_instance_uid=False)
    if encoding == "big endian" and pixels.itemsize == 2:
        image.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    save(image, path, NATIVE.get(encoding))
    return gdcm_encoded(path, getattr(gdcm.TransferSyntax, LOSSLESS[encoding])) if encoding in LOSSLESS else path


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


def with_bits(path: Path, stored: int, high: int) -> Path:
    """The file with another BitsStored and HighBit, its pixels as they are."""
    image = pydicom.dcmread(path)
    image.BitsStored, image.HighBit = stored, high
    return save(image, path)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("high", [13, 15])
def test_stored_bits_that_are_not_the_lowest(tmp_path, encoding, high):
    chance = np.random.default_rng(SEED)
    pixels = chance.integers(0, 2**12, (35, 40)).astype("u2")
    pixels[0, :2] = 0, 4095
    around = chance.integers(0, 2**16, pixels.shape).astype("u2") & ~np.uint16(0xFFF << high - 11)
    path = with_bits(encoded(pixels << high - 11 | around, encoding, tmp_path / "image.dcm"), 12, high)
    assert np.array_equal(read_image(path), np.rint(pixels / 4095 * 255))


@pytest.mark.parametrize("encoding", ["JPEG-LS", "JPEG 2000"])
def test_a_frame_of_the_stored_bits_alone_is_not_shifted(tmp_path, encoding):
    pixels = np.random.default_rng(SEED).integers(0, 2**12, (35, 40)).astype("u2")
    pixels[0, :2] = 0, 4095
    path = with_bits(encoded(pixels, encoding, tmp_path / "image.dcm", BitsStored=12), 12, 15)
    assert np.array_equal(read_image(path), np.rint(pixels / 4095 * 255))


def saturated(low: int, high: int, dtype: str) -> np.ndarray:
    """A third at the low end, one of noise between, one at the high end, so that a lossy codec overshoots at edges."""
    pixels = np.empty((48, 60), int)
    pixels[:, :20], pixels[:, 40:] = low, high
    pixels[:, 20:40] = np.random.default_rng(SEED).integers(low, high + 1, (48, 20))
    return pixels.astype(dtype)


def lossy_frame(pixels: np.ndarray, codec: str) -> bytes:
    """A frame of 16-bit samples, of the pixels' own sign where the codec knows signs."""
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


LOSSY = {"JPEG 2000": uid.JPEG2000, "JPEG 2000 5-3": uid.JPEG2000, "JPEG-LS": uid.JPEGLSNearLossless}


def lossy_file(path: Path, pixels: np.ndarray, codec: str, **attributes) -> tuple[Path, np.ndarray]:
    """A file of 12 stored bits in 16-bit samples; and what these decode to."""
    frame = lossy_frame(pixels, codec)
    image = jpeg_dataset(frame, pixels.shape, BitsAllocated=16, BitsStored=12, **attributes)
    if codec == "JPEG-LS":
        decoded = np.frombuffer(jpeg_ls.decode_pixel_data(frame)[0], "u2").reshape(pixels.shape)
    else:
        decoded = openjpeg.decode(frame, j2k_format=0)
    return save(image, path, LOSSY[codec]), decoded.astype(int)


def spread(values: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.rint((np.clip(values, low, high) - low) / (high - low) * 255)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize(
    ("codec", "dtype", "low", "center"),
    [(codec, "u2", 0, 2048) for codec in LOSSY] + [("JPEG 2000", "i2", -2048, 0)],
)
def test_what_a_lossy_codec_overshoots_is_clamped(tmp_path, codec, dtype, low, center, window):
    high = low + 4095
    # This window is the whole range, so that it shows what spreading does.
    attributes = {"WindowCenter": center, "WindowWidth": 4096} if window else {}
    signed = int(dtype == "i2")
    pixels = saturated(low, high, dtype)
    path, decoded = lossy_file(tmp_path / "image.dcm", pixels, codec, PixelRepresentation=signed, **attributes)
    assert decoded.max() > high
    assert decoded.min() < low or not signed
    image = read_image(path)
    assert np.array_equal(image, spread(decoded, low, high))
    assert image[:, 45:].min() > 240
    assert image[:, :15].max() < 15


def test_overshot_values_of_the_sign_that_pixel_representation_does_not_say(tmp_path):
    path = tmp_path / "image.dcm"
    # Unsigned pixels in signed samples: what is below black stays black.
    _, decoded = lossy_file(path, saturated(0, 4095, "i2"), "JPEG 2000", PixelRepresentation=0)
    assert decoded.min() < 0
    assert decoded.max() > 4095
    assert np.array_equal(read_image(path), spread(decoded, 0, 4095))
    # Signed pixels as unsigned samples, two's complement of 16 bits.
    for codec in ("JPEG 2000", "JPEG-LS"):
        pixels = saturated(-2048, 2047, "i2").view("u2")
        _, decoded = lossy_file(path, pixels, codec, PixelRepresentation=1)
        decoded = decoded.astype("u2").view("i2")
        assert decoded.min() < -2048
        assert decoded.max() > 2047
        assert np.array_equal(read_image(path), spread(decoded, -2048, 2047))
    # None of them negative.
    _, decoded = lossy_file(path, saturated(0, 2047, "u2"), "JPEG 2000", PixelRepresentation=1)
    assert decoded.max() > 2047
    assert np.array_equal(read_image(path), spread(decoded, 0, 2047))
    # Two's complement of the 12 stored bits alone: what is beyond 4095 is -1, as 4095 is.
    _, decoded = lossy_file(path, saturated(0, 4095, "u2"), "JPEG 2000", PixelRepresentation=1)
    assert decoded.max() > 4095
    codes = np.minimum(decoded, 4095)
    assert np.array_equal(read_image(path), spread(np.where(codes < 2048, codes, codes - 4096), -2048, 2047))


def test_large_unsigned_values_in_signed_samples_of_a_lossy_codec(tmp_path):
    frame = lossy_frame(saturated(20000, 45000, "u2").view("i2"), "JPEG 2000")
    image = jpeg_dataset(frame, (48, 60), BitsAllocated=16, BitsStored=16)
    decoded = openjpeg.decode(frame, j2k_format=0)
    assert decoded.dtype == np.int16
    assert decoded.min() < 0
    decoded = decoded.view("u2").astype(int)
    expected = spread(decoded, decoded.min(), decoded.max())
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm", uid.JPEG2000)), expected)


@pytest.mark.parametrize(("signed", "low"), [(0, 0), (1, -2048)])
def test_overshot_values_that_are_not_the_lowest_bits(tmp_path, signed, low):
    pixels = saturated(low, low + 4095, "i2" if signed else "u2") * 4  # High Bit 13
    path, decoded = lossy_file(tmp_path / "image.dcm", pixels, "JPEG 2000", PixelRepresentation=signed, HighBit=13)
    assert decoded.max() // 4 > low + 4095
    assert np.array_equal(read_image(path), spread(decoded // 4, low, low + 4095))


def jpeg_of_twelve_bits(pixels: np.ndarray) -> bytes:
    """A JPEG Extended frame of 16 times the 8-bit pixels: steps 16 times as large, and 2048 for 128 as the middle."""
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
    assert np.array_equal(image, spread(decoded, 0, 1023))
    assert image[:, :24].min() > 230


def test_a_frame_of_more_bits_than_are_stored_is_not_offered(tmp_path):
    pixels = np.zeros(GRADIENT.shape, np.uint8)
    pixels[:, :13] = 127
    frame = jpeg(pixels, 40)
    decoded = np.asarray(Image.open(io.BytesIO(frame)))
    assert decoded.max() > 127
    # This window maps 0 to 127 onto themselves.
    image = jpeg_dataset(frame, BitsStored=7, WindowCenter=128, WindowWidth=256)
    shown, header = read_dicom(save(image, tmp_path / "image.dcm"))
    assert np.array_equal(shown, np.minimum(decoded, 127))
    assert (header.frame_offset, header.frame_length) == (0, 0)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEG2000])
@pytest.mark.parametrize(("bit", "signed"), [(12, 0), (15, 0), (12, 1)])
@pytest.mark.parametrize("row", [2, 20, 34])
def test_an_overlay_above_the_stored_bits_of_a_reversible_codestream_is_masked(tmp_path, syntax, bit, signed, row):
    noise = np.random.default_rng(SEED).integers(0, 60, (40, 40))
    pixels = np.add.outer(np.arange(40) * 100, np.arange(40)) + noise - 2048 * signed  # dark above, bright below
    pixels[0, 0], pixels[39, 39] = -2048 * signed, 4095 - 2048 * signed
    words = (pixels & 0xFFF).astype("u2")
    words[row : row + 5, 5:30:3] |= 1 << bit
    path = with_bits(encoded(words, "JPEG 2000", tmp_path / "image.dcm", PixelRepresentation=signed), 12, 11)
    path = save(pydicom.dcmread(path), path, syntax)
    assert np.array_equal(read_image(path), spread(pixels, -2048 * signed, 4095 - 2048 * signed))


@pytest.mark.parametrize("bit", [12, 15])
@pytest.mark.parametrize("block", [np.s_[10:20, 10:20], np.s_[5:35, 3:38], np.s_[:, :20], np.s_[:, :]])
@pytest.mark.parametrize("mean", [200, 2000, 3800])
def test_a_block_above_the_stored_bits_of_what_may_have_been_cut_is_masked(tmp_path, bit, block, mean):
    """However large the block and rough the image: its seam is smooth once the bit is gone."""
    pixels = np.random.default_rng(SEED).normal(mean, 40, (40, 40)).clip(0, 4095).astype("u2")
    pixels[0, 0], pixels[39, 39] = 0, 4095
    words = pixels.copy()
    words[block] |= 1 << bit
    path = with_bits(encoded(words, "JPEG 2000", tmp_path / "image.dcm"), 12, 11)
    path = save(pydicom.dcmread(path), path, uid.JPEG2000)
    assert np.array_equal(read_image(path), spread(pixels, 0, 4095))


def test_an_irreversible_codestream_under_the_lossless_transfer_syntax(tmp_path):
    path, decoded = lossy_file(tmp_path / "image.dcm", saturated(0, 4095, "u2"), "JPEG 2000")
    save(pydicom.dcmread(path), path, uid.JPEG2000Lossless)
    assert np.array_equal(read_image(path), spread(decoded, 0, 4095))


def test_a_component_may_have_a_transformation_of_its_own(tmp_path):
    path, decoded = lossy_file(tmp_path / "image.dcm", saturated(0, 4095, "u2"), "JPEG 2000")
    frame = bytearray(next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)))
    coding = frame.index(b"\xff\x52")
    levels = frame[coding + 9 : coding + 14]
    assert levels[-1] == 0
    # COC: length, component 0, style, and the same five bytes; COD then says reversible of all other components.
    frame[coding + 13] = 1
    frame[coding + 14 : coding + 14] = b"\xff\x53\0\x09\0\0" + levels
    assert np.array_equal(openjpeg.decode(bytes(frame), j2k_format=0), decoded)
    image = pydicom.dcmread(path)
    image.PixelData = encapsulate([bytes(frame)])
    assert np.array_equal(read_image(save(image, path, uid.JPEG2000Lossless)), spread(decoded, 0, 4095))


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
        b"\x80\x02\1\2\3\x80\xff\7\x00\4\0\x80",  # with nothing in between, and padding
        b"\x02\1\2\3\xff\7\x01\4\5",  # the last one with a pixel too much
        b"\x02\1\2\3\xff\7\x00\4\x00\5",  # a literal too much
        b"\x02\1\2\3\xff\7\x00\4\5",  # a byte too much
    ],
)
def test_run_lengths(tmp_path, segment):
    assert read_image(run_length_file(tmp_path / "image.dcm", (2, 3), segment)).tolist() == [[1, 2, 3], [7, 7, 4]]


@pytest.mark.parametrize(
    "segment",
    [
        b"\x02\1\2\3\xff\7",  # a pixel too few
        b"\x80\x02\1\2\3\xff\7\x00",  # a literal cut off
        b"\x05\1\2\3\7\7",  # and one of several
        b"\x80\x02\1\2\3\xff\7\xff",  # a run cut off
        b"\x02\1\2\3\xff\7\x02\4\5\6",  # two pixels too many
        b"\x02\1\2\3\xff\7\x00\4\xff\1",
        b"\x02\1\2\3\xff\7\x00\4\x01\5\6",
    ],
)
def test_run_lengths_of_another_size(tmp_path, segment):
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


@pytest.mark.parametrize("frames", [0, None, ""])
def test_a_number_of_frames_that_says_nothing(tmp_path, frames):
    image = dataset(GRADIENT)
    if frames is not None:
        image.NumberOfFrames = frames
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm")), GRADIENT)


def test_an_odd_number_of_bytes_is_padded(tmp_path):
    assert np.array_equal(read_image(save(dataset(GRADIENT[:, :23]), tmp_path / "image.dcm")), GRADIENT[:, :23])


@pytest.mark.parametrize("encoding", ["implicit", "explicit", "big endian"])
@pytest.mark.parametrize("keep", ["meta", "data set"])
def test_without_preamble(tmp_path, encoding, keep):
    path = encoded(GRADIENT, encoding, tmp_path / "image.dcm")
    content = path.read_bytes()
    meta_length = struct.unpack_from("<L", content, 140)[0]
    path.write_bytes(content[132 if keep == "meta" else 144 + meta_length :])
    assert np.array_equal(read_image(path), GRADIENT)


@pytest.mark.parametrize("encoding", ["implicit", "explicit", "big endian"])
def test_a_bare_data_set_may_begin_at_any_group(tmp_path, encoding):
    path = encoded(GRADIENT, encoding, tmp_path / "image.dcm")
    content = path.read_bytes()
    samples = b"\0\x28\0\2" if encoding == "big endian" else b"\x28\0\2\0"
    path.write_bytes(content[content.index(samples) :])
    assert np.array_equal(read_image(path), GRADIENT)


def unknown_sequence(*elements_of_items: bytes) -> bytes:
    """A private element of unknown VR and undefined length whose items are of undefined length too."""
    items = [b"\xfe\xff\0\xe0\xff\xff\xff\xff" + item + b"\xfe\xff\x0d\xe0\0\0\0\0" for item in elements_of_items]
    return b"\x09\0\1\x10UN\0\0\xff\xff\xff\xff" + b"".join(items) + b"\xfe\xff\xdd\xe0\0\0\0\0"


def test_items_of_unknown_sequences_may_be_in_either_vr(tmp_path):
    implicit = b"\x28\0\x10\0\2\0\0\0\1\0"
    explicit = b"\x28\0\x10\0US\2\0\1\0"
    # The length of the second element, 0x4c54 = 19540, looks like the value representation LT.
    letters = implicit + b"\x29\0\x10\x10TL\0\0" + b"\xee" * 0x4C54
    content = save(dataset(GRADIENT), tmp_path / "image.dcm").read_bytes()
    start = content.index(b"\x28\0\2\0US")
    for items in ([], [b""], [implicit], [explicit], [letters], [implicit, explicit, b"", letters, explicit]):
        path = tmp_path / "unknown.dcm"
        path.write_bytes(content[:start] + unknown_sequence(*items) + content[start:])
        assert np.array_equal(read_image(path), GRADIENT)


def test_a_voi_lut_of_unknown_vr(tmp_path):
    # The length of the LUT data, 0x4c54 = 19540, looks like the value representation LT.
    entries = 0x4C54 // 2
    descriptor = struct.pack("<HHL3H", 0x28, 0x3002, 6, entries, 0, 16)
    data = struct.pack("<HHL", 0x28, 0x3006, 2 * entries) + bytes(2 * entries - 2) + b"\xff\xff"
    item = b"\xfe\xff\0\xe0" + struct.pack("<L", len(descriptor + data)) + descriptor + data
    sequence = b"\x28\0\x10\x30UN\0\0" + struct.pack("<L", len(item)) + item
    path = save(dataset(np.array([[0, 1, entries]], "u2")), tmp_path / "image.dcm")
    path.write_bytes(path.read_bytes().replace(b"\xe0\x7f\x10\0OW", sequence + b"\xe0\x7f\x10\0OW"))
    assert read_image(path).tolist() == [[0, 0, 255]]


def test_nested_sequences_are_passed_over(tmp_path):
    icon = dataset(np.zeros((2, 2), np.uint8))
    del icon.file_meta
    icon.is_undefined_length_sequence_item = True
    outer = Dataset()
    outer.IconImageSequence = Sequence([icon])
    outer["IconImageSequence"].is_undefined_length = True
    image = dataset(GRADIENT, ReferencedImageSequence=Sequence([outer, outer]))
    image["ReferencedImageSequence"].is_undefined_length = True
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        assert np.array_equal(read_image(save(image, tmp_path / "image.dcm", syntax)), GRADIENT)


def test_jpeg_extended_of_twelve_bits():
    # The stored values at these places, 244 and 95 of 0 to 264, are those of pydicom's own tests.
    image = read_image(CORPUS / "JPGExtended.dcm")
    assert image.shape == (1024, 256)
    assert (image[420, 140], image[230, 120]) == (236, 92)


# Frames for TensorFlow -------------------------------------------------------------------------------------------


def tensorflow_decodes(path: Path, offset: int, length: int) -> np.ndarray:
    tf = pytest.importorskip("tensorflow")
    frame = tf.strings.substr(tf.io.read_file(str(path)), offset, length)
    return tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE").numpy()[..., 0]


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("quality", [30, 90, 95])
@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_the_frame_decodes_to_the_image(tmp_path, table, quality, syntax):
    noise = np.random.default_rng(SEED).integers(0, 256, (45, 61), np.uint8)
    frame = jpeg(noise, quality)
    path = save(jpeg_dataset(frame, noise.shape, table), tmp_path / "image.dcm", syntax)
    image, header = read_dicom(path)
    content = path.read_bytes()
    assert content[header.frame_offset :][: len(frame)] == frame
    assert header.frame_length == len(frame) + len(frame) % 2
    assert np.array_equal(tensorflow_decodes(path, header.frame_offset, header.frame_length), image)


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({"WindowCenter": 128, "WindowWidth": 256}, True),  # this window maps 0 to 255 onto themselves
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, True),
        ({"PixelPaddingValue": 0}, True),
        ({"WindowCenter": 100, "WindowWidth": 51}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, False),
        ({"RescaleSlope": 2, "RescaleIntercept": 0}, False),
        ({"VOILUTSequence": lookup_table([2, 0, 8], [0, 255])}, False),
        ({"PixelPaddingValue": 255}, True),
    ],
)
def test_only_an_unchanged_frame_is_offered(tmp_path, attributes, kept):
    path = save(jpeg_dataset(jpeg(GRADIENT), **attributes), tmp_path / "image.dcm")
    image, header = read_dicom(path)
    assert (header.frame_offset > 0) == (header.frame_length > 0) == kept
    if kept:
        assert np.array_equal(tensorflow_decodes(path, header.frame_offset, header.frame_length), image)


def test_a_sequential_frame_of_eight_bits_may_be_marked_extended(tmp_path):
    frame = jpeg(GRADIENT).replace(b"\xff\xc0", b"\xff\xc1")
    path = save(jpeg_dataset(frame), tmp_path / "image.dcm")
    image, header = read_dicom(path)
    assert header.frame_offset > 0
    assert np.array_equal(tensorflow_decodes(path, header.frame_offset, header.frame_length), image)


def test_a_progressive_frame_is_read_but_not_offered(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, "JPEG", progressive=True)
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1):
        image, header = read_dicom(save(jpeg_dataset(buffer.getvalue()), tmp_path / "image.dcm", syntax))
        assert np.array_equal(image, np.asarray(Image.open(buffer)))
        assert (header.frame_offset, header.frame_length) == (0, 0)


def test_a_frame_in_two_fragments_is_read_but_not_offered(tmp_path):
    frame = jpeg(GRADIENT)
    image = jpeg_dataset(frame)
    image.PixelData = encapsulate([frame], fragments_per_frame=2)
    pixels, header = read_dicom(save(image, tmp_path / "image.dcm"))
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(frame))))
    assert (header.frame_offset, header.frame_length) == (0, 0)


def items(*values: bytes) -> bytes:
    padded = [value + b"\0" * (len(value) % 2) for value in values]
    return b"".join(b"\xfe\xff\0\xe0" + struct.pack("<L", len(value)) + value for value in padded)


DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
FRAME = jpeg(GRADIENT)
HALVES = FRAME[:300], FRAME[300:]


def encapsulated_file(path: Path, content: bytes, length: int, syntax: str = uid.JPEGBaseline8Bit) -> Path:
    """A file whose Pixel Data are the content, their length as given."""
    save(jpeg_dataset(FRAME), path, syntax)
    before = path.read_bytes()
    start = before.index(b"\xe0\x7f\x10\0OB")
    path.write_bytes(before[: start + 8] + struct.pack("<L", length) + content)
    return path


@pytest.mark.parametrize(
    "values", [(b"", FRAME), (bytes(4), FRAME), (FRAME,), (b"", *HALVES), (bytes(4), *HALVES), HALVES]
)
@pytest.mark.parametrize("kind", ["undefined", "explicit", "explicit and delimited"])
def test_how_a_frame_may_be_encapsulated(tmp_path, values, kind):
    content = items(*values) + (b"" if kind == "explicit" else DELIMITER)
    length = 0xFFFFFFFF if kind == "undefined" else len(content)
    image, header = read_dicom(encapsulated_file(tmp_path / "image.dcm", content, length))
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(FRAME))))
    assert (header.frame_offset > 0) == (FRAME in values)
    if header.frame_offset:
        offset = (tmp_path / "image.dcm").read_bytes().index(FRAME)
        assert (header.frame_offset, header.frame_length) == (offset, len(FRAME) + len(FRAME) % 2)


@pytest.mark.parametrize("encoding", ["RLE", "JPEG-LS", "JPEG 2000", "lossless"])
def test_other_frames_without_an_offset_table(tmp_path, encoding):
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
        (items(b"", FRAME, FRAME) + DELIMITER, 0xFFFFFFFF, "hold 2 frames where its header says 1"),
        (items(FRAME, FRAME), 2 * len(items(FRAME)), "hold 2 frames where its header says 1"),
        (items(b"", FRAME), 0xFFFFFFFF, "cut short or broken"),
        (items(b"", FRAME), len(items(b"", FRAME)) - 2, "cut short or broken"),
        (items(b"", FRAME) + bytes(6), len(items(b"", FRAME)) + 6, "cut short or broken"),
        (items(b"", FRAME) + DELIMITER, len(items(b"", FRAME)) + 4, "cut short or broken"),
    ],
)
def test_what_encapsulated_pixel_data_may_hold(tmp_path, content, length, reason):
    with pytest.raises(DamagedError, match=reason):
        read_image(encapsulated_file(tmp_path / "image.dcm", content, length))


def test_encapsulated_pixel_data_in_an_uncompressed_transfer_syntax(tmp_path):
    path = encapsulated_file(tmp_path / "image.dcm", items(b"", FRAME) + DELIMITER, 0xFFFFFFFF)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1\0\0\0"))
    with pytest.raises(DamagedError, match="its Pixel Data are encapsulated but its transfer syntax is"):
        read_image(path)


# Header ----------------------------------------------------------------------------------------------------------


def test_header(tmp_path):
    patient = {"PatientID": "p 7 ", "PatientSex": "F", "PatientAge": "038Y", "ViewPosition": "PA"}
    image = dataset(GRADIENT, PixelSpacing=["0.143", "0.2"], **patient)
    header = read_dicom(save(image, tmp_path / "image.dcm"))[1]
    assert (header.sop_instance_uid, header.patient_id, header.view, header.sex) == ("1.2.3.4", "p 7", "PA", "F")
    assert (header.age, header.rows, header.columns, header.bits_stored) == (38.0, 37, 34, 8)
    assert (header.photometric, header.transfer_syntax) == ("MONOCHROME2", uid.ExplicitVRLittleEndian)
    assert header.pixel_spacing == (0.143, 0.2)


def test_a_silent_header(tmp_path):
    header = read_dicom(save(dataset(GRADIENT, SOPInstanceUID="1.2"), tmp_path / "image.dcm"))[1]
    assert (header.patient_id, header.view, header.sex, header.age, header.pixel_spacing) == ("", "", "", None, None)


def test_text_that_is_not_utf_8_is_latin_1(tmp_path):
    path = save(dataset(GRADIENT, PatientID="Muessler"), tmp_path / "image.dcm")
    path.write_bytes(path.read_bytes().replace(b"Muessler", b"M\xfc\xdfler  "))
    assert read_dicom(path)[1].patient_id == "Müßler"


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("38", 38.0),
        ("038Y", 38.0),
        (" 38y ", 38.0),
        ("06M", 0.5),
        ("10D", 10 / 365.25),
        ("3W", 21 / 365.25),
        ("0", 0.0),
        ("", None),
        ("Y", None),
        ("-4", None),
        ("3.5", None),
        ("12X", None),
        ("038Y\\040Y", None),
        ("413", None),
        ("413M", 413 / 12),
    ],
)
def test_parse_age(text, years):
    assert parse_age(text) == (None if years is None else pytest.approx(years))


# Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", NotDicomError),
        (b"plain text, no image\n" * 50, NotDicomError),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), NotDicomError),
        (bytes(1000), NotDicomError),
        (random.Random(SEED).randbytes(5000), NotDicomError),
        (b"\x10\0\x10\0PN\x04\0Ross", NotDicomError),
        (bytes(128) + b"DICM", NoPixelsError),
        (bytes(128) + b"DICM" + b"\x02\0\x10\0UI\xff\xff1.2", DamagedError),
    ],
)
def test_what_is_not_dicom(tmp_path, content, error):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(error, match="file"):
        read_image(path)


@pytest.mark.parametrize("name", ["absent.dcm", "", "null\0byte", "x" * 5000])
def test_what_cannot_be_opened(tmp_path, name):
    with pytest.raises(DicomError) as caught:
        read_image(os.path.join(tmp_path, name))
    assert type(caught.value) is DicomError


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read(tmp_path):
    path = save(dataset(GRADIENT), tmp_path / "image.dcm")
    path.chmod(0)
    with pytest.raises(DicomError, match="cannot be opened"):
        read_image(path)


@pytest.mark.parametrize(
    ("attributes", "error", "reason"),
    [
        ({"PixelData": None}, DamagedError, "before its Pixel Data"),
        ({"PixelData": None, "Rows": None}, NoPixelsError, "no pixels"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, UnsupportedError, "not greyscale"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedError, "not greyscale"),
        ({"NumberOfFrames": 2}, UnsupportedError, "2 frames"),
        ({"NumberOfFrames": -1}, DamagedError, "NumberOfFrames"),
        ({"BitsAllocated": 32, "BitsStored": 32}, UnsupportedError, "32 bits"),
        ({"BitsStored": 12}, DamagedError, "12 bits"),
        ({"BitsStored": None}, DamagedError, "BitsStored is absent"),
        ({"Rows": 0}, DamagedError, "0 x 34"),
        ({"Rows": 38}, DamagedError, "1258 bytes"),
        ({"Rows": 30}, DamagedError, "1258 bytes"),
        ({"Rows": 65535, "Columns": 65535}, TooLargeError, "4294836225 bytes"),
        ({"NumberOfFrames": 10**9}, TooLargeError, "1258000000000 bytes"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, DamagedError, "slope 0"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 9, "WindowWidth": 9}, UnsupportedError, "CUBIC"),
        ({"VOILUTSequence": lookup_table([5, 0, 8], [0, 255])}, DamagedError, "a LUT holds 4 bytes"),
        ({"VOILUTSequence": lookup_table([2, 0, 32], [0, 255])}, DamagedError, "descriptor"),
    ],
)
def test_what_a_header_may_say(tmp_path, attributes, error, reason):
    path = save(dataset(GRADIENT, **attributes), tmp_path / "image.dcm")
    with pytest.raises(error, match=reason) as caught:
        read_image(path)
    assert type(caught.value) is error
    assert str(caught.value) == f"{path}: {caught.value.reason}. {caught.value.remedy}."


def test_floating_point_pixels(tmp_path):
    image = dataset(GRADIENT, PixelData=None, FloatPixelData=bytes(4 * GRADIENT.size))
    with pytest.raises(UnsupportedError, match="floating-point"):
        read_image(save(image, tmp_path / "image.dcm"))


def test_video_is_named(tmp_path):
    with pytest.raises(UnsupportedError, match="MPEG2"):
        read_image(save(jpeg_dataset(jpeg(GRADIENT)), tmp_path / "image.dcm", uid.MPEG2MPML))


@pytest.mark.parametrize(
    "kind", [DicomError, NotDicomError, NoPixelsError, UnsupportedError, DamagedError, TooLargeError]
)
def test_errors_survive_pickling(kind):
    for error in (kind("a.dcm", "is odd"), kind("a.dcm", "is odd", "Do something")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.path, again.reason, again.remedy, str(again)) == ("a.dcm", "is odd", error.remedy, str(error))


def test_a_file_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(elements, "MAX_FILE_BYTES", 500)
    with pytest.raises(TooLargeError, match="at most 500"):
        read_image(save(dataset(GRADIENT), tmp_path / "image.dcm"))


def test_a_deflate_bomb_is_not_expanded(tmp_path, monkeypatch):
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 2**20)
    path = save(dataset(GRADIENT), tmp_path / "image.dcm", uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    begin = 144 + struct.unpack_from("<L", content, 140)[0]
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(content[:begin] + squeeze.compress(bytes(64 * 2**20)) + squeeze.flush())
    del squeeze
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="expands"):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


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
def test_what_a_frame_may_hold(tmp_path, frame, error, reason):
    with pytest.raises(error, match=reason):
        read_image(save(jpeg_dataset(frame), tmp_path / "image.dcm"))


def entropy_coded(frame: bytes) -> int:
    """Where the compressed data of a frame of one scan begin."""
    start = frame.index(b"\xff\xda")
    return start + 2 + struct.unpack_from(">H", frame, start + 2)[0]


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


def test_a_hole_inside_a_frame_of_jpeg_lossless(tmp_path):
    pixels = np.random.default_rng(SEED).integers(0, 4096, (90, 100)).astype("u2")
    path = encoded(pixels, "lossless", tmp_path / "image.dcm", BitsStored=12)
    content = path.read_bytes()
    start = entropy_coded(content) + 2000
    path.write_bytes(content[:start] + bytes(4096) + content[start + 4096 :])
    with pytest.raises(DamagedError, match="finds them corrupt"):
        read_image(path)


def test_too_many_scans(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, "JPEG", progressive=True)
    frame = buffer.getvalue()
    last = frame.rindex(b"\xff\xda")
    broken = frame[:last] + frame[last:-2] * codecs.MAX_SCANS + b"\xff\xd9"
    with pytest.raises(DamagedError, match="more than 100 scans"):
        read_image(save(jpeg_dataset(broken), tmp_path / "image.dcm"))


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_the_frame_says_more_than_the_transfer_syntax(tmp_path, syntax):
    path = encoded(GRADIENT, "lossless", tmp_path / "image.dcm")
    image = pydicom.dcmread(path)
    assert np.array_equal(read_image(save(image, path, syntax)), GRADIENT)


@pytest.mark.parametrize("kind", ["JPEG-LS", "JPEG 2000"])
def test_a_frame_of_another_family(tmp_path, kind):
    image = pydicom.dcmread(encoded(GRADIENT, kind, tmp_path / "image.dcm"))
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGLSLossless if kind == "JPEG 2000" else uid.JPEG2000):
        with pytest.raises(DicomError) as caught:
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


def boxed(codestream: bytes, kind: str) -> bytes:
    """A JP2 file around a codestream (ITU-T T.800 annex I)."""
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
    image.PixelData = encapsulate([boxed(next(generate_frames(image.PixelData, number_of_frames=1)), kind)])
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
    # Right, bottom, left, top of the image; width and height of a tile; left and top of the tiles.
    values = np.array(struct.unpack_from(">8L", content, size))
    values += left, top, left, top, 0, 0, left, top
    struct.pack_into(">8L", content, size, *values)
    path.write_bytes(content)
    with pytest.raises(UnsupportedError, match="origin"):
        read_image(path)


def test_a_frame_deeper_than_what_is_allocated(tmp_path):
    path = encoded(GRADIENT.astype("u2"), "JPEG 2000", tmp_path / "image.dcm")
    image = pydicom.dcmread(path)
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    with pytest.raises(DamagedError, match="16 bits where 8"):
        read_image(save(image, path))


def test_a_deflated_file_that_does_not_end(tmp_path):
    path = save(dataset(GRADIENT), tmp_path / "image.dcm", uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    begin = 144 + struct.unpack_from("<L", content, 140)[0]
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    whole = zlib.decompress(content[begin:], wbits=-zlib.MAX_WBITS)
    # Every byte of the data set can be had, but nothing says that these are all.
    path.write_bytes(content[:begin] + squeeze.compress(whole) + squeeze.flush(zlib.Z_FULL_FLUSH))
    with pytest.raises(DamagedError, match="deflated data set is cut short"):
        read_image(path)


@pytest.mark.parametrize(("pixels", "bits"), [(GRADIENT, 8), (GRADIENT.astype("u2") * 16, 12)])
def test_a_frame_that_ends_the_process_of_its_decoder(tmp_path, pixels, bits):
    path = encoded(pixels, "lossless", tmp_path / "image.dcm", BitsStored=bits)
    path.write_bytes(path.read_bytes().replace(b"\xff\xc4\0", b"\x80\xc4\0"))  # gdcm aborts without a Huffman table
    with pytest.raises(DamagedError, match="cannot be decoded"):
        read_image(path)


def test_two_frames_in_one(tmp_path):
    image = jpeg_dataset(jpeg(GRADIENT))
    image.PixelData = encapsulate([jpeg(GRADIENT)] * 2)
    with pytest.raises(DamagedError, match="lists 2 frames"):
        read_image(save(image, tmp_path / "image.dcm"))


@pytest.mark.parametrize("rows", [30, 36, 38])
@pytest.mark.parametrize("encoding", ["RLE", "JPEG-LS", "JPEG 2000", "lossless"])
def test_a_compressed_image_of_another_size(tmp_path, encoding, rows):
    path = encoded(GRADIENT, encoding, tmp_path / "image.dcm")
    content = path.read_bytes()
    tag = b"\x28\0\x10\0US\x02\0"
    path.write_bytes(content.replace(tag + b"\x25\0", tag + bytes([rows, 0])))
    with pytest.raises(DamagedError):
        read_image(path)


@pytest.mark.parametrize("encoding", [*ENCODINGS, "JPEG"])
def test_a_file_cut_anywhere_is_an_error(tmp_path, encoding):
    pixels = np.random.default_rng(SEED).integers(0, 256, (33, 34), np.uint8)
    path = tmp_path / "image.dcm"
    if encoding == "JPEG":
        save(jpeg_dataset(jpeg(pixels), pixels.shape), path)
    else:
        encoded(pixels, encoding, path)
    content = path.read_bytes()
    assert outcome(path) == "image"
    # The last byte of a deflated file may be padding.
    for length in range(0, len(content) - 1, 3):
        path.write_bytes(content[:length])
        kind = outcome(path)
        assert kind != "image", length
        if length > len(content) - 300:
            assert kind == "DamagedError", length


# Corpora ---------------------------------------------------------------------------------------------------------


def test_pydicoms_corpus():
    counts = Counter(outcome(path) for path in CORPUS.rglob("*") if path.is_file())
    assert counts == {
        "image": 49,
        "NoPixelsError": 70,
        "UnsupportedError": 41,
        "NotDicomError": 10,
        "DamagedError": 6,
    }


def test_stored_values_and_windows_agree_with_pydicom():
    agreed = 0
    for path in sorted(CORPUS.rglob("*")):
        if not path.is_file() or outcome(path) != "image" or path.name in ("JPGExtended.dcm", "JPEG-lossy.dcm"):
            continue  # pydicom has no decoder of permissive licence for JPEG of 12 bits
        assert np.array_equal(read_image(path), displayed_by_pydicom(path)), path.name
        agreed += 1
    assert agreed == 47


def displayed_by_pydicom(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pydicom.dcmread(path, force=True)
        modality = pydicom.pixels.apply_modality_lut(image.pixel_array, image)
        levels = pydicom.pixels.apply_voi_lut(modality, image).astype(float)
    low, high = levels.min(), levels.max()
    if "WindowCenter" in image:
        half = 2 ** (image.BitsStored - 1) if image.PixelRepresentation else 0
        ends = np.array([-half, 2**image.BitsStored - 1 - half])
        low, high = ends * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
    elif image.BitsStored == 8:
        low, high = 0, 255
    grey = np.rint((levels - low) / (high - low) * 255).astype(np.uint8)
    return 255 - grey if image.PhotometricInterpretation == "MONOCHROME1" else grey


def test_altered_bytes_give_an_image_or_an_error(tmp_path):
    chance = random.Random(SEED)
    seeds = [path.read_bytes() for path in sorted(CORPUS.glob("*.dcm")) if path.stat().st_size < 12000]
    for encoding in ENCODINGS:
        seeds.append(encoded(GRADIENT, encoding, tmp_path / "seed.dcm").read_bytes())
    seeds.append(save(jpeg_dataset(jpeg(GRADIENT)), tmp_path / "seed.dcm").read_bytes())
    path = tmp_path / "altered.dcm"
    counts: Counter[str] = Counter()
    for _ in range(1000):
        path.write_bytes(altered(chance.choice(seeds), chance))
        counts[outcome(path)] += 1
    assert counts["image"] > 50
    assert counts["DamagedError"] > 200


def altered(content: bytes, chance: random.Random) -> bytes:
    """The bytes with some overwritten, a stretch dropped or doubled, or the end cut off."""
    edited = bytearray(content)
    kind = chance.randrange(4)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    if kind == 1:
        start = chance.randrange(len(content))
        edited[start : start + chance.randrange(1, 64)] = edited[start : start + chance.randrange(64)] * 2
        return bytes(edited)
    # Most edits go where the header is, some anywhere.
    end = min(len(content), 1500) if kind == 2 else len(content)
    for _ in range(chance.choice([1, 2, 5, 20])):
        edited[chance.randrange(min(132, end - 1), end)] = chance.choice(
            [0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)]
        )
    return bytes(edited)


def test_nothing_is_warned_about_and_threads_agree(tmp_path):
    paths = sorted(CORPUS.glob("MR_small*.dcm")) * 4
    image = dataset(GRADIENT, SpecificCharacterSet="NONSENSE", PatientAge="038Y")
    odd = save(image, tmp_path / "image.dcm")
    odd.write_bytes(odd.read_bytes().replace(b"038Y", b"38  ").replace(b"1.2.3.4", b"ID_0abc"))
    paths.append(odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = [read_image(path) for path in paths]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(read_image, paths))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.skipif(not REAL.is_dir(), reason="the competition's files are not here")
def test_real_files():
    paths = sorted(REAL.rglob("*.dcm"))[::25]
    assert paths
    for path in paths:
        image, header = read_dicom(path)
        assert image.shape == (1024, 1024)
        assert image.std() > 5
        assert header.frame_offset > 0
        assert np.array_equal(tensorflow_decodes(path, header.frame_offset, header.frame_length), image)
