"""Grey levels as displayed: rescale, lookup tables, windows, inversion and padding."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydicom import uid

from pneumoseg.dicom import read_image
from tests.dicom.builders import dataset, displayed, lookup_table, save


def test_eight_bit_values_without_rescale_or_window_are_unchanged(tmp_path):
    assert displayed(tmp_path, [[3, 10, 200], [0, 7, 90]], "u1") == [[3, 10, 200], [0, 7, 90]]


def test_an_identity_rescale_changes_nothing(tmp_path):
    assert displayed(tmp_path, [[3, 10, 200]], "u1", RescaleSlope=1, RescaleIntercept=0) == [[3, 10, 200]]


def test_monochrome1_is_inverted(tmp_path):
    assert displayed(tmp_path, [[0, 10, 255]], "u1", PhotometricInterpretation="MONOCHROME1") == [[255, 245, 0]]


def test_presentation_lut_shape_does_not_invert_again(tmp_path):
    attributes = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert displayed(tmp_path, [[0, 10, 255]], "u1", **attributes) == [[255, 245, 0]]


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
    assert displayed(tmp_path, [pixels], BitsStored=12, WindowCenter=center, WindowWidth=width, **attributes) == [
        expected
    ]


@pytest.mark.parametrize(
    ("centers", "widths", "expected"),
    [
        ([100, 2000], [51, 4000], [0, 28, 255]),  # the first of two
        ([0, 100], [0, 51], [0, 28, 255]),  # a width of 0 is invalid
        (100, -5, [0, 51, 255]),  # no valid window: 50 to 200 is stretched, 80 is 30 / 150 of white
        (100, 0.5, [0, 51, 255]),
        (100, None, [0, 51, 255]),
    ],
)
def test_the_first_valid_window_is_applied(tmp_path, centers, widths, expected):
    attributes = {"WindowCenter": centers} if widths is None else {"WindowCenter": centers, "WindowWidth": widths}
    assert displayed(tmp_path, [[50, 80, 200]], **attributes) == [expected]


@pytest.mark.parametrize(
    ("slope", "function", "center", "width", "expected"),
    [
        # Values 0, 0.1, 0.2, 0.3 and 0.4: the window is from 0.1 to 0.3.
        ("0.0001", None, 0.2, 0.2, [0, 0, 128, 255, 255]),
        ("-0.0001", "LINEAR", -0.2, 0.2, [255, 255, 128, 0, 0]),
        # Values from 0 to 4 in steps of 0.001: LINEAR subtracts 1 from the width, which would leave a threshold at 1.5.
        ("0.001", "LINEAR", 2, 1, [0, 0, 128, 255, 255]),
        ("0.001", "LINEAR", 2, 1.5, [0, 0, 128, 255, 255]),
        # Wide enough for the standard's formula: centre 1.5 and width 1, so from 1 to 2.
        ("0.001", "LINEAR", 2, 2, [0, 0, 255, 255, 255]),
        # Narrower than a step: ignored, so the values are stretched.
        ("0.0001", None, 0.2, 0.00009, [0, 64, 128, 191, 255]),
        ("0.5", None, 800, 0.4, [0, 64, 128, 191, 255]),
        ("2", None, 4000, 0.9, [0, 64, 128, 191, 255]),
    ],
)
def test_linear_windows_of_values_less_than_one_apart(tmp_path, slope, function, center, width, expected):
    attributes = {"RescaleSlope": slope, "RescaleIntercept": 0, "WindowCenter": center, "WindowWidth": width}
    if function is not None:
        attributes["VOILUTFunction"] = function
    assert displayed(tmp_path, [[0, 1000, 2000, 3000, 4000]], **attributes) == [expected]


def test_a_narrow_window_after_a_modality_lut_is_ignored(tmp_path):
    attributes = {"WindowCenter": 20, "WindowWidth": 0.4, "RescaleSlope": "0.1"}
    sequence = lookup_table([3, 0, 16], [10, 20, 30])
    assert displayed(tmp_path, [[0, 1, 2]], "u1", ModalityLUTSequence=sequence, **attributes) == [[0, 128, 255]]


def test_an_unknown_voi_lut_function_matters_only_to_a_window(tmp_path):
    assert displayed(tmp_path, [[50, 80, 200]], VOILUTFunction="CUBIC") == [[0, 51, 255]]
    assert displayed(tmp_path, [[50, 80, 200]], VOILUTFunction="CUBIC", WindowCenter=9, WindowWidth=0) == [[0, 51, 255]]


def test_signed_with_rescale_and_window(tmp_path):
    # Modality values 2 x - 1000: -1002, -500, 0, 500, 1000. With centre -0.5 and width 2000, -500 is 0.25025 of white.
    attributes = {
        "BitsStored": 12,
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "WindowCenter": 0,
        "WindowWidth": 2001,
    }
    expected = [[0, 64, 128, 191, 255]]
    assert displayed(tmp_path, [[-1, 250, 500, 750, 1000]], "i2", **attributes) == expected
    # The same with zeros or an overlay above the 12 bits instead of the sign.
    assert displayed(tmp_path, [[0xFFF, 250, 0x31F4, 750, 1000]], "u2", PixelRepresentation=1, **attributes) == expected


def test_rescaled_eight_bit_values_are_stretched(tmp_path):
    assert displayed(tmp_path, [[10, 20, 50]], "u1", RescaleSlope=-1, RescaleIntercept=0) == [[255, 191, 0]]


def test_modality_lut(tmp_path):
    # Entries 0, 1000, 3000, 4000 for 10, 11, 12, 13. Values outside take the first or last entry. Then stretched.
    sequence = lookup_table([4, 10, 16], [0, 1000, 3000, 4000])
    expected = [[0, 0, 64, 191, 255, 255]]
    assert displayed(tmp_path, [[9, 10, 11, 12, 13, 200]], "u1", ModalityLUTSequence=sequence) == expected


def test_voi_lut_comes_before_a_window(tmp_path):
    sequence = lookup_table([3, 5, 8], [0, 100, 255])
    attributes = {"VOILUTSequence": sequence, "WindowCenter": 128, "WindowWidth": 256}
    assert displayed(tmp_path, [[4, 5, 6, 7, 8]], "u1", **attributes) == [[0, 0, 100, 255, 255]]


def test_voi_lut_of_twelve_bits_from_a_negative_value(tmp_path):
    # 2048 / 4095 of white is 127.5.., 1024 / 4095 is 63.8.
    sequence = lookup_table([3, -2, 12], [0, 1024, 2048], "SS")
    assert displayed(tmp_path, [[-3, -2, -1, 0, 9]], "i2", VOILUTSequence=sequence) == [[0, 0, 64, 128, 128]]


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
        (4, 8, [0, 100, 200, 255], "u1"),  # two entries per word
        (3, 8, [0, 100, 255, 77], "u1"),  # with one byte that makes the length even
        (3, 8, [0, 100, 255, 77, 0, 0], "<u2"),  # more entries than the descriptor announces
    ],
)
def test_lut_data_of_bytes_and_words(tmp_path, entries, bits, data, dtype):
    sequence = lookup_table([entries, 5, bits], data, dtype=dtype)
    expected = [[data[0], data[1], data[entries - 1]]]
    assert displayed(tmp_path, [[4, 6, 200]], "u1", VOILUTSequence=sequence) == expected


def test_a_lut_of_65536_entries_has_0_in_its_descriptor(tmp_path):
    sequence = lookup_table([0, 0, 16], np.arange(65536)[::-1])
    assert displayed(tmp_path, [[0, 32768, 65535]], VOILUTSequence=sequence) == [[255, 127, 0]]


@pytest.mark.parametrize(
    ("bits", "data", "expected"),
    [
        # The descriptor announces too many bits, by two or more, or too few: white is the highest entry.
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
        # The descriptor announces no bits, or an impossible number.
        (0, [0, 1000, 2000, 4000], [0, 64, 128, 255]),
        (0, [0, 100, 200, 250], [0, 100, 200, 250]),
        (7, [0, 100, 200, 250], [0, 100, 200, 250]),
    ],
)
def test_white_is_the_highest_entry_if_a_voi_lut_contradicts_its_descriptor(tmp_path, bits, data, expected):
    sequence = lookup_table([4, 10, bits], data)
    with pytest.warns(UserWarning, match=rf"image.dcm: its VOI LUT announces {bits} bits.* up to {max(data)}, "):
        assert displayed(tmp_path, [[10, 11, 12, 13]], "u1", VOILUTSequence=sequence) == [expected]


def test_a_voi_lut_of_bytes_that_announces_16_bits(tmp_path):
    sequence = lookup_table([4, 10, 16], [0, 100, 200, 255], dtype="u1")
    with pytest.warns(UserWarning, match="announces 16 bits"):
        assert displayed(tmp_path, [[10, 11, 12, 13]], "u1", VOILUTSequence=sequence) == [[0, 100, 200, 255]]


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
        (16, [0, 0, 0, 40000, 65535], [0, 0, 0, 156]),  # the fifth entry does not belong to the LUT
    ],
)
def test_a_consistent_voi_lut_may_leave_white_unused(tmp_path, bits, data, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sequence = lookup_table([4, 10, bits], data)
        assert displayed(tmp_path, [[10, 11, 12, 13]], "u1", VOILUTSequence=sequence) == [expected]


def test_the_bits_of_a_modality_lut_do_not_matter(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bits in (0, 8, 12, 16):
            sequence = lookup_table([3, 0, bits], [0, 1000, 4000])
            assert displayed(tmp_path, [[0, 1, 2]], "u1", ModalityLUTSequence=sequence) == [[0, 64, 255]]


def test_a_contradictory_voi_lut_is_warned_about_once_per_file(tmp_path):
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
        # Entries 0, 100, 200, 255 for -100, -99, -98 and -97; -100 may be written as 65436 = -100 + 65536.
        ([-200, -100, -99, -98, -97, 50], "i2", None, 65436, "US"),
        ([-200, -100, -99, -98, -97, 50], "i2", None, -100, "SS"),
        ([0, 924, 925, 926, 927, 4000], "u2", -1024, 65436, "US"),
        ([0, 924, 925, 926, 927, 4000], "u2", -1024, -100, "SS"),
        # For 40000 and above, written as a signed number or correctly.
        ([0, 40000, 40001, 40002, 40003, 65535], "u2", None, 40000 - 65536, "SS"),
        ([0, 40000, 40001, 40002, 40003, 65535], "u2", None, 40000, "US"),
        ([0, 40024, 40025, 40026, 40027, 65535], "u2", -24, 40000, "US"),
    ],
)
def test_the_first_value_of_a_voi_lut_may_have_the_wrong_sign(tmp_path, syntax, pixels, dtype, rescale, first, vr):
    image = dataset(np.array([pixels], dtype), VOILUTSequence=lookup_table([4, first, 8], [0, 100, 200, 255], vr))
    if rescale is not None:
        image.RescaleSlope, image.RescaleIntercept = 1, rescale
    path = save(image, tmp_path / "image.dcm", syntax)
    assert read_image(path).tolist() == [[0, 0, 100, 200, 255, 255]]


def test_a_long_lut_of_unsigned_values_may_begin_below_zero(tmp_path):
    # Entry 100 is for the value 0, entry 4195 for 4095. A first value of 65436 would be above all values of the image.
    sequence = lookup_table([4196, 65436, 16], np.linspace(0, 65535, 4196).round())
    # 100 / 4195 of white is 6.1, 2100 / 4195 is 127.7.
    assert displayed(tmp_path, [[0, 2000, 4095]], VOILUTSequence=sequence) == [[6, 128, 255]]
    # The padding, 65535, is one value that the other reading covers.
    assert displayed(tmp_path, [[0, 2000, 4095, 65535]], VOILUTSequence=sequence) == [[6, 128, 255, 255]]


@pytest.mark.parametrize(("slope", "expected"), [("1e300", [0, 255, 255]), ("-1e30", [0, 0, 0]), ("1e-300", [0, 0, 0])])
def test_a_voi_lut_of_values_beyond_the_integer_range(tmp_path, slope, expected):
    attributes = {"RescaleSlope": slope, "RescaleIntercept": 0, "VOILUTSequence": lookup_table([2, 0, 8], [0, 255])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert displayed(tmp_path, [[0, 1, 4000]], **attributes) == [expected]


def test_the_first_value_of_a_modality_lut_may_have_the_wrong_sign(tmp_path):
    sequence = lookup_table([3, 65434, 16], [0, 1000, 4000])
    assert displayed(tmp_path, [[-102, -101, -100]], "i2", ModalityLUTSequence=sequence) == [[0, 64, 255]]


def test_deep_values_are_stretched_and_padding_is_black(tmp_path):
    pixels = [[100, 300, 250, 4000]]
    assert displayed(tmp_path, pixels, BitsStored=12, PixelPaddingValue=4000) == [[0, 255, 191, 0]]
    ranged = {"PixelPaddingValue": 3900, "PixelPaddingRangeLimit": 4095}
    assert displayed(tmp_path, pixels, BitsStored=12, PhotometricInterpretation="MONOCHROME1", **ranged) == [
        [255, 0, 64, 0]
    ]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_shown_as_stored_without_stretching(tmp_path, photometric):
    plain = {"PhotometricInterpretation": photometric}
    for pixels, attributes in (([[0, 9, 255]], {}), ([[0, 80, 4095]], {"WindowCenter": 100, "WindowWidth": 51})):
        dtype = "u2" if attributes else "u1"
        expected = displayed(tmp_path, pixels, dtype, **plain, **attributes)
        assert displayed(tmp_path, pixels, dtype, PixelPaddingValue=pixels[0][2], **plain, **attributes) == expected


def test_signed_padding(tmp_path):
    image = dataset(np.array([[-2000, 100, 300, 250]], "i2"))
    image.add_new("PixelPaddingValue", "SS", -2000)
    assert read_image(save(image, tmp_path / "image.dcm")).tolist() == [[0, 0, 255, 191]]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_constant_image_is_zeros(tmp_path, photometric):
    assert displayed(tmp_path, [[700, 700]], PhotometricInterpretation=photometric) == [[0, 0]]
