"""Radiographs with the UIDs of a study, findings on them, and what validators say about objects."""

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pneumoseg.dicom_objects import Finding
from tests.dicom import builders

STUDY, SERIES, IMAGE = "1.2.840.99.1", "1.2.840.99.2", "1.2.840.99.3"
DIGEST = "0123456789abcdef" * 4
SHAPE = (60, 50)
IOD_NAMES = {"seg": "Segmentation", "sr": "Comprehensive3DSR", "sc": "SCImage"}
NOTHING = np.zeros(SHAPE, bool)

needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")


def radiograph(path: Path, pixels: np.ndarray | None = None, **attributes) -> Path:
    """Write a bare image: the UIDs of a study and no other element that is not about pixels."""
    pixels = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint8).reshape(SHAPE) if pixels is None else pixels
    image = builders.dataset(pixels)
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": IMAGE}
    for keyword, value in (uids | attributes).items():
        # Not validated, since many of these values break the standard on purpose. Text in place of a number
        # can be written only with a VR of text.
        vr = dictionary_VR(keyword)
        image.add(DataElement(keyword, "LO" if vr == "DS" else vr, value, validation_mode=IGNORE))
    image.HighBit = image.BitsStored - 1
    return builders.save(image, path)


def three_components() -> np.ndarray:
    """Return a mask of three components, two at the border, one with a hole; 8, 36 and 70 pixels."""
    mask = NOTHING.copy()
    mask[:2, :4] = True
    mask[20:30, 20:27] = True
    mask[-6:, -7:] = True
    mask[-3:-1, -4:-1] = False
    return mask


def finding(mask: np.ndarray | None = None, **facts) -> Finding:
    unknown = {
        "mask": three_components() if mask is None else mask,
        "probability": 0.875,
        "pixel_area_mm2": math.nan,
        "spacing_source": "",
        "pixel_spacing": None,
        "pipeline_digest": DIGEST,
    }
    return Finding(**unknown | facts)


def errors(made: dict[str, Dataset], folder: Path) -> list[str]:
    """Return the lines in which dciodvfy finds an error; its exit status says nothing."""
    lines = []
    for kind, dataset in made.items():
        dataset.save_as(folder / f"{kind}.dcm", enforce_file_format=True)
        told = subprocess.run(["dciodvfy", folder / f"{kind}.dcm"], capture_output=True, text=True, check=False).stderr
        # Each object is named, so that a validator that did not run fails the test.
        assert IOD_NAMES[kind] in told.splitlines(), told
        lines += [f"{kind}: {line}" for line in told.splitlines() if line.startswith("Error")]
    return lines


HEADERS: dict[str, dict] = {
    "bare": {},
    "type 2": {
        "StudyDate": "20190904", "StudyTime": "101112", "StudyID": "7", "AccessionNumber": "A1",
        "ReferringPhysicianName": "Roe^Richard", "PatientName": "Doe^Jane", "PatientID": "P1",
        "PatientBirthDate": "19610305", "PatientSex": "F", "PatientAge": "058Y", "PatientOrientation": ["L", "F"],
        "BodyPartExamined": "CHEST", "ViewPosition": "PA", "Modality": "CR", "StudyDescription": "Chest",
    },
    "DX": {
        "SOPClassUID": uid.DigitalXRayImageStorageForPresentation, "Modality": "DX", "BodyPartExamined": "CHEST",
        "PatientOrientation": ["L", "F"], "Laterality": "U", "BurnedInAnnotation": "NO",
        "PatientIdentityRemoved": "YES", "DeidentificationMethod": "by hand",
    },
    "CR": {
        "SOPClassUID": uid.ComputedRadiographyImageStorage, "Modality": "CR", "BodyPartExamined": "RIBS",
        "Laterality": "L", "LossyImageCompression": "01", "LossyImageCompressionRatio": ["10", "2.5"],
        "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
    },
    "UTF-8": {
        "SpecificCharacterSet": "ISO_IR 192", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "StudyDescription": "胸部", "ReferringPhysicianName": "Müller^Jörg",
    },
}  # fmt: skip
