"""Header of an image, read for the objects that refer to it: checked, and repaired on a copy."""

import os
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import UID, UID_dictionary

from pneumoseg.dicom.elements import MAX_TEXT_BYTES, Elements, find_elements, read_file
from pneumoseg.dicom_objects.maker import MAKER
from pneumoseg.dicom_objects.refusal import OwnObjectError, RefusedError
from pneumoseg.dicom_objects.repair import decode_text, repair_value
from pneumoseg.image_errors import NotAnImageError
from pneumoseg.images.formats import HEAD_BYTES, recognize

_UIDS = {
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
    "SOPInstanceUID": "SOP Instance UID",
}
# Required in each object, empty if unknown (Type 2), and optional.
_REQUIRED = (
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex",
)  # fmt: skip
_OPTIONAL = ("StudyDescription", "IssuerOfPatientID", "PatientAge")
_PICTURED = ("BodyPartExamined", "Laterality", "ViewPosition", "BurnedInAnnotation")
_LATERAL_POSITIONS = frozenset({"LL", "RL", "LLD", "RLD", "LAT", "LATERAL", "LLAT", "RLAT"})
_LATERAL_CODES = frozenset({
    "399067008", "399173006", "399198007", "399118008", "399297009", "399352003", "399260004", "30730003",
    "R-10228", "R-10236", "R-10232", "R-10238",
})  # fmt: skip


@dataclass(frozen=True)
class SourceHeader:
    """Facts about an image that the objects of its study repeat.

    Attributes:
        path: Path of the file, for messages.
        sop_class_uid: SOP Class UID.
        sop_instance_uid: SOP Instance UID.
        series_instance_uid: Series Instance UID.
        study_instance_uid: Study Instance UID.
        shape: (H, W) of the image, in pixels.
        identity: Attributes of the patient and the study, each valid; those that every object needs may be empty.
        depiction: Attributes that say what the image shows and whether it was compressed with a loss.
    """

    path: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    shape: tuple[int, int]
    identity: Dataset
    depiction: Dataset


def read_source(path: str | os.PathLike[str]) -> SourceHeader:
    """Read the header of a frontal radiograph. The file is not changed.

    Only the elements that the objects repeat are read. Texts are decoded, and values that break the standard are
    repaired or left empty, see `repair_value`.

    Args:
        path: Path of a DICOM file, with or without preamble and file meta information.

    Returns:
        The facts, repaired.

    Raises:
        RefusedError: If the UIDs of study, series or image are absent or malformed, the SOP Class is unknown, the view
            is lateral, or pneumoseg itself made the image.
        NotAnImageError: If the file is not DICOM.
        ImageError: If the file cannot be read.

    Example:
        >>> read_source("chest.dcm").identity.PatientAge  # doctest: +SKIP
        '038Y'
    """
    name = os.fsdecode(path)
    return parse_source(name, read_file(name))


def parse_source(path: str, content: bytes) -> SourceHeader:
    """Return the facts that `read_source` returns, from the content of a file.

    Args:
        path: Path of the file, for messages.
        content: Content of the file.

    Raises:
        ImageError: For the reasons that `read_source` lists.
    """
    if (file_format := recognize(content[:HEAD_BYTES])) not in ("", "DICOM"):
        raise NotAnImageError(path, f"is a {file_format} file, not DICOM", "Give a DICOM file")
    elements, syntax, _ = find_elements(path, content)
    values = {keyword: _value(elements, keyword) for keyword in (*_REQUIRED, *_OPTIONAL, *_PICTURED)}
    _refuse(elements)
    identity, depiction = Dataset(), Dataset()
    for keyword in (*_REQUIRED, *_OPTIONAL):
        if values[keyword] or keyword in _REQUIRED:
            setattr(identity, keyword, values[keyword])
    for keyword in _PICTURED:
        if values[keyword]:
            setattr(depiction, keyword, values[keyword])
    if depiction.get("BodyPartExamined") == "CHEST":
        depiction.pop("Laterality", None)
    else:
        depiction.pop("BodyPartExamined", None)
        depiction.Laterality = values["Laterality"]
    rows, columns = (elements.integers(keyword)[0] for keyword in ("Rows", "Columns"))
    return SourceHeader(
        path,
        elements.text("SOPClassUID"),
        elements.text("SOPInstanceUID"),
        elements.text("SeriesInstanceUID"),
        elements.text("StudyInstanceUID"),
        (rows, columns),
        identity,
        depiction,
    )


def _value(elements: Elements, keyword: str) -> str:
    value = elements.value(keyword)[:MAX_TEXT_BYTES]
    return repair_value(decode_text(value, elements.text("SpecificCharacterSet")), dictionary_VR(keyword))


def _refuse(elements: Elements) -> None:
    for keyword, name in _UIDS.items():
        if not UID(elements.text(keyword)).is_valid:
            raise RefusedError(elements.path, f"has no valid {name}")
    if _is_own(elements):
        raise OwnObjectError(elements.path, "was made by pneumoseg itself")
    if _is_lateral(elements):
        raise RefusedError(elements.path, "is a lateral view")


def _is_own(elements: Elements) -> bool:
    # Archives rewrite some of these.
    makers = (elements.text(keyword) for keyword in ("Manufacturer", "ManufacturerModelName"))
    notes = (elements.text(keyword) for keyword in ("SeriesDescription", "DerivationDescription"))
    return any(maker == MAKER for maker in makers) or any(f"by {MAKER}" in note for note in notes)


def _is_lateral(elements: Elements) -> bool:
    if elements.text("ViewPosition").upper() in _LATERAL_POSITIONS:
        return True
    view = elements.first_item("ViewCodeSequence")
    return view is not None and view.text("CodeValue") in _LATERAL_CODES
