"""The objects against an independent validator."""

import shutil
import subprocess

import numpy as np
import pytest

from pneumoseg.dicom import read_dicom
from pneumoseg.dicom_objects import make_objects
from pneumoseg.geometry import pixel_area_mm2
from tests.dicom_objects.builders import HEADERS, NOTHING, SHAPE, errors, finding, needs_dciodvfy, radiograph

SPACINGS = {
    "no spacing": {},
    "aspect": {"pixel_aspect": 4 / 3},
    "spacing": {"spacing_source": "PixelSpacing", "pixel_spacing": (5.0, 5.0), "pixel_area_mm2": 25.0},
    "long spacing": {
        "spacing_source": "PixelSpacing", "pixel_spacing": (10 / 3, 5 / 7), "pixel_area_mm2": 50 / 21,
    },
    "imager spacing": {
        "spacing_source": "ImagerPixelSpacing", "pixel_spacing": (5.0, 6.0), "pixel_area_mm2": 30.0,
    },
}  # fmt: skip


@needs_dciodvfy
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("header", HEADERS)
def test_generated_headers(tmp_path, header, spacing):
    path = radiograph(tmp_path / "image.dcm", **HEADERS[header])
    assert errors(make_objects(path, finding(**SPACINGS[spacing])), tmp_path) == []
    assert errors(make_objects(path, finding(NOTHING, **SPACINGS[spacing])), tmp_path) == []


@needs_dciodvfy
def test_strict(tmp_path):
    path = radiograph(tmp_path / "image.dcm", **HEADERS["type 2"])
    assert errors(make_objects(path, finding(**SPACINGS["spacing"]), strict=True), tmp_path) == []


@needs_dciodvfy
def test_undeclared_latin_1(tmp_path):
    path = radiograph(tmp_path / "image.dcm", PatientName="Doe^Jane", StudyDescription="Thorax")
    content = path.read_bytes().replace(b"Doe^Jane", b"M\xfcller^J").replace(b"Thorax", b"Th\xf6r\xe4x")
    path.write_bytes(content)
    made = make_objects(path, finding())
    assert errors(made, tmp_path) == []
    for dataset in made.values():
        assert (str(dataset.PatientName), dataset.StudyDescription) == ("Müller^J", "Thöräx")
        assert dataset.SpecificCharacterSet == "ISO_IR 192"


@needs_dciodvfy
def test_long_and_malformed_values(tmp_path):
    odd = {
        "StudyDate": "yesterday.", "StudyTime": "9:15 a.m.", "PatientBirthDate": "1961", "PatientAge": "38",
        "PatientSex": "female", "StudyID": "7" * 40, "AccessionNumber": "1" * 40, "PatientID": "P" * 80,
        "StudyDescription": "a" * 100, "BodyPartExamined": "Chest, a.p.", "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "ten", "LossyImageCompressionMethod": "jpeg!", "PatientOrientation": "L",
        "PatientName": "^".join(["name" * 10] * 7), "ReferringPhysicianName": "Roe\\Doe",
        "SpecificCharacterSet": "ISO_IR 192", "BurnedInAnnotation": "maybe",
    }  # fmt: skip
    path = radiograph(tmp_path / "image.dcm", **odd)
    assert errors(make_objects(path, finding(**SPACINGS["spacing"])), tmp_path) == []
    assert errors(make_objects(path, finding(NOTHING)), tmp_path) == []


@needs_dciodvfy
@pytest.mark.parametrize("attributes", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PixelSpacing": ["5", "6"]}])
def test_twelve_bits(tmp_path, attributes):
    pixels = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    path = radiograph(tmp_path / "image.dcm", pixels, BitsStored=12, **attributes)
    assert errors(make_objects(path, finding()), tmp_path) == []


@needs_dciodvfy
def test_files_of_the_competition(mini, tmp_path):
    files = sorted((mini / "dicom-images-train").rglob("*.dcm"))[:20]
    assert len(files) == 20
    for number, path in enumerate(files):
        image, header = read_dicom(path)
        mask = np.zeros(image.shape, bool)
        if number % 2 == 0:
            mask[100:400, 600:800] = True
        facts = {"spacing_source": header.spacing_source, "pixel_spacing": header.pixel_spacing}
        area = pixel_area_mm2(image.shape, header.pixel_spacing)
        assert errors(make_objects(path, finding(mask, pixel_area_mm2=area, **facts)), tmp_path) == []


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dsrdump (dcmtk) is not installed")
def test_report_is_read_by_dcmtk(tmp_path):
    path = radiograph(tmp_path / "image.dcm", **HEADERS["UTF-8"])
    make_objects(path, finding(), ["sr"])["sr"].save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    told = subprocess.run(["dsrdump", "+Pl", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True).stdout
    areas = [line.split('"')[3] for line in told.splitlines() if 'NUM:(,,"Area")' in line]
    assert [float(area) for area in areas] == [70, 36, 8]


@pytest.mark.skipif(shutil.which("dcmpschk") is None, reason="dcmpschk (dcmtk) is not installed")
def test_values_fit_their_representations(tmp_path):
    path = radiograph(tmp_path / "image.dcm", **HEADERS["type 2"])
    make_objects(path, finding(**SPACINGS["long spacing"]), ["sr"])["sr"].save_as(tmp_path / "sr.dcm")
    told = subprocess.run(["dcmpschk", tmp_path / "sr.dcm"], capture_output=True, text=True, check=False)
    assert "Test passed" in told.stdout + told.stderr
    assert "E:" not in told.stdout + told.stderr
