"""The header that a manifest keeps, and headers that are refused."""

import numpy as np
import pytest
from pydicom import uid

from pneumoseg.dicom import read_dicom, read_image
from pneumoseg.dicom.header import parse_age
from pneumoseg.image_errors import DamagedError, NoPixelsError, TooLargeError, UnsupportedError
from tests.dicom.builders import GRADIENT, dataset, lookup_table, save


def test_header(tmp_path):
    patient = {"PatientID": "p 7 ", "PatientSex": "F", "PatientAge": "038Y", "ViewPosition": "PA"}
    image = dataset(GRADIENT, PixelSpacing=["0.143", "0.2"], **patient)
    header = read_dicom(save(image, tmp_path / "image.dcm"))[1]
    assert (header.sop_instance_uid, header.patient_id, header.view, header.sex) == ("1.2.3.4", "p 7", "PA", "F")
    assert (header.age, header.rows, header.columns, header.bits_stored) == (38.0, 37, 34, 8)
    assert (header.photometric, header.transfer_syntax) == ("MONOCHROME2", uid.ExplicitVRLittleEndian)
    assert header.pixel_spacing == (0.143, 0.2)


def test_an_empty_header(tmp_path):
    header = read_dicom(save(dataset(GRADIENT, SOPInstanceUID="1.2"), tmp_path / "image.dcm"))[1]
    assert (header.patient_id, header.view, header.sex, header.age, header.pixel_spacing) == ("", "", "", None, None)


@pytest.mark.parametrize(
    ("attributes", "spacing", "source", "aspect"),
    [
        # Distances between rows come first: 0.3 / 0.15 = 2, so pixels are twice as high as wide.
        ({"PixelSpacing": ["0.3", "0.15"]}, (0.3, 0.15), "PixelSpacing", 2.0),
        ({"ImagerPixelSpacing": ["0.1", "0.2"]}, (0.1, 0.2), "ImagerPixelSpacing", 0.5),
        ({"PixelSpacing": ["0.2", "0.2"], "ImagerPixelSpacing": ["0.1", "0.3"]}, (0.2, 0.2), "PixelSpacing", 1.0),
        # A spacing that is not positive, or not a pair of numbers, counts as absent.
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.1", "0.1"]}, (0.1, 0.1), "ImagerPixelSpacing", 1.0),
        ({"PixelSpacing": ["-0.2", "0.2"]}, None, "", 1.0),
        ({"PixelSpacing": "0.2"}, None, "", 1.0),
        # 1% counts as rounding: 0.2 / 0.198 = 1.0101 does not, 0.2 / 0.1981 = 1.0096 does.
        ({"PixelSpacing": ["0.2", "0.198"]}, (0.2, 0.198), "PixelSpacing", 0.2 / 0.198),
        ({"PixelSpacing": ["0.2", "0.1981"]}, (0.2, 0.1981), "PixelSpacing", 1.0),
        ({"PixelSpacing": ["0.1981", "0.2"]}, (0.1981, 0.2), "PixelSpacing", 1.0),
        ({"PixelSpacing": ["0.1979", "0.2"]}, (0.1979, 0.2), "PixelSpacing", 0.1979 / 0.2),
        ({"PixelAspectRatio": [4, 3]}, None, "", 4 / 3),
        ({"PixelAspectRatio": [1, 2]}, None, "", 0.5),
        ({"PixelAspectRatio": [1, 1]}, None, "", 1.0),
        ({"PixelAspectRatio": [0, 1]}, None, "", 1.0),
        ({"PixelAspectRatio": [1, 0]}, None, "", 1.0),
        ({"PixelAspectRatio": [3, 4], "PixelSpacing": ["0.2", "0.1"]}, (0.2, 0.1), "PixelSpacing", 2.0),
        ({"PixelSpacing": ["0.4", "0.1"]}, (0.4, 0.1), "PixelSpacing", 4.0),
    ],
)
def test_spacing_and_shape_of_pixels(tmp_path, attributes, spacing, source, aspect):
    header = read_dicom(save(dataset(GRADIENT, **attributes), tmp_path / "image.dcm"))[1]
    assert (header.pixel_spacing, header.spacing_source) == (spacing, source)
    assert header.pixel_aspect == pytest.approx(aspect, abs=1e-12)


def test_decimal_commas_in_the_spacing(tmp_path):
    path = save(dataset(GRADIENT, PixelSpacing=["0.25", "0.125"]), tmp_path / "image.dcm")
    path.write_bytes(path.read_bytes().replace(b"0.25\\0.125", b"0,25\\0,125"))
    header = read_dicom(path)[1]
    assert header.pixel_spacing == (0.25, 0.125)
    assert header.pixel_aspect == 2.0


@pytest.mark.parametrize(
    "text", [b"nonsense\\0.125", b"inf\\0.10000000", b"nan\\0.10000000", b"0.100000\\        ", b"0.125000000000000"]
)
def test_a_spacing_that_is_nonsense_counts_as_absent(tmp_path, text):
    path = save(dataset(GRADIENT, PixelSpacing=["0.250000", "0.125"]), tmp_path / "image.dcm")
    content = path.read_bytes()
    assert b"0.250000\\0.125" in content
    path.write_bytes(content.replace(b"0.250000\\0.125", text[:14].ljust(14)))
    header = read_dicom(path)[1]
    assert (header.pixel_spacing, header.spacing_source, header.pixel_aspect) == (None, "", 1.0)


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"PixelSpacing": ["0.1", "1.0"]}, r"image\.dcm: its PixelSpacing is 0\.1\\1, which is ignored"),
        ({"PixelSpacing": ["0.41", "0.1"]}, r"its PixelSpacing is 0\.41\\0\.1"),
        ({"PixelAspectRatio": [100, 1]}, r"its PixelAspectRatio is 100\\1"),
    ],
)
def test_pixels_that_are_too_elongated_count_as_square_with_a_warning(tmp_path, attributes, text):
    with pytest.warns(UserWarning, match=text):
        header = read_dicom(save(dataset(GRADIENT, **attributes), tmp_path / "image.dcm"))[1]
    assert (header.pixel_spacing, header.spacing_source, header.pixel_aspect) == (None, "", 1.0)


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


@pytest.mark.parametrize("frames", [0, None, ""])
def test_an_empty_number_of_frames_is_1(tmp_path, frames):
    image = dataset(GRADIENT)
    if frames is not None:
        image.NumberOfFrames = frames
    assert np.array_equal(read_image(save(image, tmp_path / "image.dcm")), GRADIENT)


@pytest.mark.parametrize(
    ("attributes", "error", "reason"),
    [
        ({"PixelData": None}, DamagedError, "before its Pixel Data"),
        ({"PixelData": None, "Rows": None}, NoPixelsError, "no pixels"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, DamagedError, "announces 3774"),
        ({"PhotometricInterpretation": "HSV"}, UnsupportedError, "the colour model HSV with 1 samples"),
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
def test_headers_that_are_refused(tmp_path, attributes, error, reason):
    path = save(dataset(GRADIENT, **attributes), tmp_path / "image.dcm")
    with pytest.raises(error, match=reason) as caught:
        read_image(path)
    assert type(caught.value) is error
    assert str(caught.value) == f"{path}: {caught.value.reason}. {caught.value.remedy}"
