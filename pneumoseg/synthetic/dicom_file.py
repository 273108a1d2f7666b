"""One synthetic image as a DICOM file with the competition's attributes: Secondary Capture, JPEG baseline, 8 bits."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

Encoding = Literal["jpeg", "monochrome1", "twelve_bit", "damaged"]

# The window of a 12-bit image shows 300 as black and 2850 as white, so it gives back the 8-bit image exactly (PS3.3
# section C.11.2.1.2).
_TWELVE_BIT_BLACK, _TWELVE_BIT_STEP = 300, 10


@dataclass(frozen=True)
class Identity:
    """Attributes that differ from file to file.

    Attributes:
        image: Image id, stored as the SOP Instance UID; in the competition's test files it is not a UID.
        sop_instance: SOP Instance UID of the file meta information.
        study: Study Instance UID.
        series: Series Instance UID.
        patient: Patient ID.
        sex: F or M.
        age: Age in years.
        view: View Position, PA or AP.
        spacing: Pixel spacing in mm.
    """

    image: str
    sop_instance: str
    study: str
    series: str
    patient: str
    sex: str
    age: int
    view: str
    spacing: float


def write_dicom(path: Path, image: NDArray[np.uint8], identity: Identity, encoding: Encoding) -> None:
    """Write one image, and create its folder if needed.

    Args:
        path: Path of the file to write.
        image: Image, uint8, (rows, columns); dense tissue is white.
        identity: Attributes of this file.
        encoding: One of `jpeg` (baseline, MONOCHROME2), `monochrome1` (the same, stored inverted), `twelve_bit`
            (uncompressed, with a window that shows `image`) and `damaged` (a JPEG without its second half).
    """
    dataset = _attributes(identity)
    dataset.Rows, dataset.Columns = image.shape
    _set_pixels(dataset, image, encoding)
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(identity.sop_instance)
    dataset.file_meta.FileMetaInformationVersion = b"\x00\x01"
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta.FileMetaInformationGroupLength = 0  # pydicom fills it in
    dataset.preamble = b"\0" * 128
    path.parent.mkdir(parents=True, exist_ok=True)
    # Enforcing the format would copy the image id, which may not be a UID, into the file meta information, and warn.
    dataset.save_as(path, enforce_file_format=False)


def displayed_image(image: NDArray[np.uint8], encoding: Encoding) -> NDArray[np.uint8]:
    """Return the image that a file written by `write_dicom` displays, uint8, (rows, columns).

    It differs from `image` by what JPEG loses.
    """
    if encoding == "twelve_bit":
        return image
    inverted = encoding == "monochrome1"
    decoded = np.asarray(Image.open(io.BytesIO(_jpeg(255 - image if inverted else image))))
    return 255 - decoded if inverted else decoded


def _attributes(identity: Identity) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    # As in the competition, ages have no unit and the image ids of stage 2 are not UIDs.
    dataset.add(DataElement("SOPInstanceUID", "UI", identity.image, validation_mode=IGNORE))
    dataset.add(DataElement("PatientAge", "AS", str(identity.age), validation_mode=IGNORE))
    dataset.StudyDate, dataset.StudyTime = "19010101", "000000.00"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.PatientBirthDate = ""
    dataset.Modality, dataset.ConversionType, dataset.BodyPartExamined = "CR", "WSD", "CHEST"
    dataset.SeriesDescription = f"view: {identity.view}"
    dataset.PatientName, dataset.PatientID = "pneumoseg synthetic", identity.patient
    dataset.PatientSex, dataset.ViewPosition = identity.sex, identity.view
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = identity.study, identity.series
    dataset.StudyID = dataset.PatientOrientation = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PixelSpacing = [identity.spacing, identity.spacing]
    return dataset


def _set_pixels(dataset: Dataset, image: NDArray[np.uint8], encoding: Encoding) -> None:
    compressed = encoding != "twelve_bit"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if compressed else ExplicitVRLittleEndian
    dataset.PhotometricInterpretation = "MONOCHROME1" if encoding == "monochrome1" else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (8, 8, 7) if compressed else (16, 12, 11)
    if compressed:
        frame = _jpeg(255 - image if encoding == "monochrome1" else image)
        dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
        dataset.PixelData = encapsulate([frame[: len(frame) // 2] if encoding == "damaged" else frame])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.WindowCenter = _TWELVE_BIT_BLACK + 255 * _TWELVE_BIT_STEP / 2 + 0.5
        dataset.WindowWidth = 255 * _TWELVE_BIT_STEP + 1
        dataset.PixelData = (_TWELVE_BIT_BLACK + image.astype("<u2") * _TWELVE_BIT_STEP).tobytes()
        dataset["PixelData"].VR = "OW"


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()
