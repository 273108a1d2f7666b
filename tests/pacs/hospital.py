"""A small hospital: radiographs with patients, an archive that receives results, and a quick pipeline."""

import math
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt

from pneumoseg.dicom_objects import Finding, make_objects
from pneumoseg.images import read_image
from tests.conftest import write_dicom

RESULTS = (SegmentationStorage, Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage)
ROOT = "1.2.826.0.1.3680043.8.498.77"


def write_radiograph(path, number=0, grey=90, **elements):
    """Write a radiograph, 24 x 32 pixels, of a patient and a study of its own; return its path."""
    identity = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": f"{ROOT}.{number}.3",
        "SeriesInstanceUID": f"{ROOT}.{number}.2",
        "StudyInstanceUID": study_of(number),
        "PatientName": f"Quixote{number:04}^Dulcinea",
        "PatientID": f"PATID{number:04}",
        "PatientBirthDate": f"1931{number // 28 % 12 + 1:02}{number % 28 + 1:02}",
        "PatientSex": "F",
        "AccessionNumber": f"ACC{number:06}",
        "ReferringPhysicianName": f"Panza{number:04}^Sancho",
        "StudyDescription": f"Windmill{number:04}",
        "Modality": "CR",
        "ViewPosition": "PA",
    }
    image = np.full((24, 32), grey, np.uint8)
    image[4:12, 6:14] = 250
    return write_dicom(path, image, **(identity | elements))


def study_of(number):
    return f"{ROOT}.{number}.1"


class QuickPipeline:
    """Pipeline that finds a pneumothorax of 12 pixels on each image; `before` is called with the path of each."""

    def __init__(self, before=lambda path: None):
        self.before = before

    def predict(self, path):
        self.before(path)
        return QuickResult(path, read_image(path).shape)


class QuickResult(NamedTuple):
    """Result without networks, so that TensorFlow is not loaded."""

    path: Path
    shape: tuple[int, int]

    def to_dicom(self, kinds, *, strict):
        mask = np.zeros(self.shape, bool)
        mask[4:7, 6:10] = True
        finding = Finding(mask, 0.75, math.nan, "", None, "d" * 64)
        return make_objects(self.path, finding, kinds, strict=strict)


class Archive:
    """PACS that keeps what it is sent.

    Attributes:
        stored: Data sets in the order of their arrival.
        status: Status by modality that it answers instead of storing an object.
        port: The port.
    """

    def __init__(self, port=0):
        self.stored, self.status, self.port = [], {}, port
        self._server = None

    def start(self, sop_classes=RESULTS):
        entity = AE("ARCHIVE")
        for sop_class in sop_classes:
            entity.add_supported_context(sop_class, ExplicitVRLittleEndian)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]
        return self

    def stop(self):
        self._server.shutdown()

    def _store(self, event):
        dataset = event.dataset
        if status := self.status.get(dataset.Modality, 0):
            return status
        self.stored.append(dataset)
        return 0

    def results(self):
        """Return the set of modalities by study, and check that no object arrived under two UIDs."""
        objects = {dataset.SOPInstanceUID: (str(dataset.StudyInstanceUID), dataset.Modality) for dataset in self.stored}
        assert len(set(objects.values())) == len(objects)
        return {
            study: sorted(kind for other, kind in objects.values() if other == study) for study, _ in objects.values()
        }


def send(port, *datasets, aet="SCANNER"):
    """Send data sets in one association, and return the statuses."""
    entity = AE(aet)
    for sop_class in {dataset.SOPClassUID for dataset in datasets}:
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="PNEUMOSEG")
    assert association.is_established
    try:
        return [association.send_c_store(dataset).Status for dataset in datasets]
    finally:
        association.release()


def wait_until(condition, seconds=20):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        threading.Event().wait(0.01)
