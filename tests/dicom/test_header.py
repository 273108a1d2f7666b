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
def test_headers_that_are_refused(tmp_path, attributes, error, reason):
    path = save(dataset(GRADIENT, **attributes), tmp_path / "image.dcm")
    with pytest.raises(error, match=reason) as caught:
        read_image(path)
    assert type(caught.value) is error
    assert str(caught.value) == f"{path}: {caught.value.reason}. {caught.value.remedy}"
