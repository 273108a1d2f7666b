"""Header of an image, read for the objects that refer to it: checked, and repaired on a copy."""

import os
import re
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import RE_VALID_UID, JPEGBaseline8Bit, JPEGExtended12Bit, UID_dictionary

from pneumoseg.dicom.elements import MAX_TEXT_BYTES, Elements, find_elements, read_file
from pneumoseg.dicom.header import read_format
from pneumoseg.dicom_objects.maker import MAKER
from pneumoseg.dicom_objects.refusal import OwnObjectError, RefusedError
from pneumoseg.dicom_objects.repair import decode_text, repair_value
from pneumoseg.image_errors import NotAnImageError
from pneumoseg.images.formats import HEAD_BYTES, recognize

_UIDS = {
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
    "SOPInstanceUID": "SOP Instance UID",
    "SOPClassUID": "SOP Class UID",
}
# Image classes of the standard; those of DICOS (501) and of material testing (601) are not for patients.
_IMAGE_CLASS = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?!501|601)[.\d]+")
# Required in each object, empty if unknown (Type 2), and optional.
_REQUIRED = (
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex",
)  # fmt: skip
_OPTIONAL = ("StudyDescription", "IssuerOfPatientID", "PatientAge")
_SEXES = ("M", "F", "O")
_IDENTIFIERS = frozenset({"AccessionNumber", "IssuerOfPatientID", "PatientID", "StudyID"})
# Other transfer syntaxes may be lossy too, but need not be.
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit)
_ORIENTATION = re.compile(r"[AFHLPR]{1,3}\\[AFHLPR]{1,3}")
# Terms of View Position (PS3.3 section C.8.7.1.1.1) for lateral views and for patients who lie on one side, and the
# words that are used instead.
_LATERAL_POSITION = re.compile(r"[LR]LD?|.*(?<!BI)LAT.*")
# Lateral, left and right lateral, latero-medial, medio-lateral and sagittal projections of CID 4010, with the codes
# of SNOMED RT that older files hold.
_LATERAL_CODES = frozenset({
    "399067008", "399173006", "399118008", "399198007", "399297009", "399352003", "399260004", "30730003",
    "R-102CD", "R-10236", "R-10232", "R-10228", "R-10224", "G-A145",
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

    Example:
        >>> read_source("chest.dcm").study_instance_uid  # doctest: +SKIP
        '1.2.840.99.1'
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
    pixels = read_format(elements)
    _refuse(elements)
    return SourceHeader(
        path,
        elements.text("SOPClassUID"),
        elements.text("SOPInstanceUID"),
        elements.text("SeriesInstanceUID"),
        elements.text("StudyInstanceUID"),
        (pixels.rows, pixels.columns),
        _identity(elements),
        _depiction(elements, syntax),
    )


def _identity(elements: Elements) -> Dataset:
    identity = Dataset()
    for keyword in (*_REQUIRED, *_OPTIONAL):
        value = _value(elements, keyword)
        if value or keyword in _REQUIRED:
            setattr(identity, keyword, value)
    if identity.PatientSex not in _SEXES:
        identity.PatientSex = ""
    method = _value(elements, "DeidentificationMethod")
    if method and _value(elements, "PatientIdentityRemoved") == "YES":
        identity.PatientIdentityRemoved, identity.DeidentificationMethod = "YES", method
    return identity


def _depiction(elements: Elements, syntax: str) -> Dataset:
    depiction = Dataset()
    # The chest has no laterality; for any other body part the object must say that it is not known.
    if _value(elements, "BodyPartExamined") == "CHEST":
        depiction.BodyPartExamined = "CHEST"
    else:
        depiction.Laterality = ""
    if (burnt_in := _value(elements, "BurnedInAnnotation")) in ("YES", "NO"):
        depiction.BurnedInAnnotation = burnt_in
    orientation = elements.text("PatientOrientation")
    depiction.PatientOrientation = orientation.split("\\") if _ORIENTATION.fullmatch(orientation) else ""
    if _value(elements, "LossyImageCompression") == "01" or syntax in _LOSSY:
        depiction.LossyImageCompression = "01"
        _add_compressions(depiction, elements)
    return depiction


def _add_compressions(depiction: Dataset, elements: Elements) -> None:
    """Copy the ratio and the method of each lossy compression, if both are valid and there is one of each."""
    ratios, methods = (
        [repair_value(text, vr) for text in elements.text(keyword).split("\\")]
        for keyword, vr in (("LossyImageCompressionRatio", "DS"), ("LossyImageCompressionMethod", "CS"))
    )
    if all(methods):
        depiction.LossyImageCompressionMethod = methods
        if all(ratios) and len(ratios) == len(methods):
            depiction.LossyImageCompressionRatio = ratios


def _value(elements: Elements, keyword: str) -> str:
    """Return an element's first value, valid; an identifier that is too long becomes empty: its part is another one."""
    text = decode_text(elements.value(keyword)[:MAX_TEXT_BYTES], elements.text("SpecificCharacterSet"))
    return repair_value(text, dictionary_VR(keyword), may_cut=keyword not in _IDENTIFIERS)


def _refuse(elements: Elements) -> None:
    for keyword, name in _UIDS.items():
        uid = elements.text(keyword)
        if len(uid) > 64 or not re.fullmatch(RE_VALID_UID, uid):
            raise RefusedError(elements.path, f"has no valid {name}")
    uid = elements.text("SOPClassUID")
    if not _IMAGE_CLASS.fullmatch(uid) or UID_dictionary.get(uid, ("", "", "", "Retired"))[3] == "Retired":
        raise RefusedError(elements.path, "is of a private, retired or unknown SOP Class")
    if _is_own(elements):
        raise OwnObjectError(elements.path, f"was made by {MAKER} itself")
    if _is_lateral(elements):
        raise RefusedError(elements.path, "is a lateral view")


def _is_own(elements: Elements) -> bool:
    # Archives rewrite some of these.
    makers = (elements.text(keyword) for keyword in ("Manufacturer", "ManufacturerModelName"))
    notes = (elements.text(keyword) for keyword in ("SeriesDescription", "DerivationDescription"))
    return any(maker == MAKER for maker in makers) or any(f"by {MAKER}" in note for note in notes)


def _is_lateral(elements: Elements) -> bool:
    """Return whether View Position or View Code Sequence name a lateral view; only without them, the orientation."""
    position, view = elements.text("ViewPosition").upper(), elements.first_item("ViewCodeSequence")
    code = view.text("CodeValue") if view is not None else ""
    if position or code:
        return bool(_LATERAL_POSITION.fullmatch(position)) or code in _LATERAL_CODES
    # The rows or the columns run from front to back.
    return any(direction[:1] in ("A", "P") for direction in elements.text("PatientOrientation").upper().split("\\"))
