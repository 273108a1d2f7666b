"""Header of an image, read for the objects that refer to it: checked, and repaired on a copy."""

import os
import re
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000, RLELossless

from pneumoseg.dicom.codecs import ENCAPSULATED_UNCOMPRESSED, NATIVE, find_codestream
from pneumoseg.dicom.elements import MAX_TEXT_BYTES, Elements, find_elements, read_file
from pneumoseg.dicom.frames import find_frame
from pneumoseg.dicom.header import PixelFormat, read_format
from pneumoseg.dicom_objects.acceptance import require_accepted
from pneumoseg.dicom_objects.repair import decode_text, repair_value
from pneumoseg.image_errors import NotAnImageError
from pneumoseg.images.formats import HEAD_BYTES, recognize

# Required in each object, empty if unknown (Type 2), and optional.
_REQUIRED = (
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex",
)  # fmt: skip
_OPTIONAL = ("StudyDescription", "IssuerOfPatientID", "PatientAge")
_UNNAMED_METHOD = "As in the source image"
_SEXES = ("M", "F", "O")
_IDENTIFIERS = frozenset({"AccessionNumber", "IssuerOfPatientID", "PatientID", "StudyID"})
_ORIENTATION = re.compile(r"[AFHLPR]{1,3}\\[AFHLPR]{1,3}")


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
        RefusedError: If the image gets no objects, for the reasons that `require_accepted` lists.
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
    require_accepted(elements)
    pixels = read_format(elements)
    return SourceHeader(
        path,
        elements.text("SOPClassUID"),
        elements.text("SOPInstanceUID"),
        elements.text("SeriesInstanceUID"),
        elements.text("StudyInstanceUID"),
        (pixels.rows, pixels.columns),
        _identity(elements),
        _depiction(elements, lossy=_is_lossy(elements, syntax, pixels)),
    )


def _identity(elements: Elements) -> Dataset:
    identity = Dataset()
    for keyword in (*_REQUIRED, *_OPTIONAL):
        value = _value(elements, keyword)
        if value or keyword in _REQUIRED:
            setattr(identity, keyword, value)
    if identity.PatientSex not in _SEXES:
        identity.PatientSex = ""
    if _value(elements, "PatientIdentityRemoved") == "YES":
        # Codes may name the method instead, but the standard wants it in each object.
        method = _value(elements, "DeidentificationMethod") or _UNNAMED_METHOD
        identity.PatientIdentityRemoved, identity.DeidentificationMethod = "YES", method
    return identity


def _depiction(elements: Elements, *, lossy: bool) -> Dataset:
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
    if lossy:
        depiction.LossyImageCompression = "01"
        _add_compressions(depiction, elements)
    return depiction


def _is_lossy(elements: Elements, syntax: str, pixels: PixelFormat) -> bool:
    """Return whether the pixels lost information: the header says so, or the frame shows it."""
    declared = _value(elements, "LossyImageCompression")
    if declared == "01" or syntax in (*NATIVE, ENCAPSULATED_UNCOMPRESSED, RLELossless):
        return declared == "01"
    _, stream = find_codestream(find_frame(elements).encoded, syntax, pixels)
    # With this transfer syntax a reversible frame may have been truncated, which only the header can tell.
    return stream.lossy or (syntax == JPEG2000 and declared != "00")


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
    value, character_set = elements.value(keyword), elements.text("SpecificCharacterSet")
    text = decode_text(value[:MAX_TEXT_BYTES], character_set, is_cut=len(value) > MAX_TEXT_BYTES)
    return repair_value(text, dictionary_VR(keyword), may_cut=keyword not in _IDENTIFIERS)
