"""Rules that say which images get objects: single frontal radiographs of the chest, with the UIDs of their study."""

import re

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from pneumoseg.dicom.elements import Elements
from pneumoseg.dicom_objects.maker import MAKER
from pneumoseg.dicom_objects.refusal import OwnObjectError, RefusedError

SOP_CLASSES: tuple[str, ...] = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)
"""UIDs of the SOP classes of images that get objects."""

_UIDS = {
    "StudyInstanceUID": "Study Instance UID",
    "SeriesInstanceUID": "Series Instance UID",
    "SOPInstanceUID": "SOP Instance UID",
    "SOPClassUID": "SOP Class UID",
}
# At least two components; the first is 0, 1 or 2, and the second is below 40 if the first is not 2 (X.660).
_UID = re.compile(r"(?:[01]\.[1-3]?[0-9]|2\.(?:0|[1-9][0-9]*))(?:\.(?:0|[1-9][0-9]*))*")
_LONGEST_UID = 64
# Terms of PS3.16 annex L for parts that show no lung, and usual ones, without spaces. Parts next to the lung, such as
# the ribs and the thoracic spine, are not listed: a chest may be named so.
_OTHER_PART_TERMS = """
    ABDOMEN ABDOMENPELVIS ACJOINT ANKLE ANUS ARM BLADDER BREAST BUTTOCK CALCANEUS CALF CARPUS CERVICALSPINE CERVIX
    COCCYX COLON CSPINE DUODENUM EAR ELBOW EXTREMITY EYE FACE FEMUR FIBULA FINGER FOOT FOREARM GALLBLADDER HAND
    HEAD HEADNECK HEEL HIP HUMERUS ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LEG LIVER LOWERLEG LSPINE LSSPINE
    LUMBARSPINE MANDIBLE MAXILLA MOUTH NECK NOSE ORBIT PANCREAS PATELLA PELVIS PENIS RADIUS RADIUSULNA RECTUM
    SACRUM SCAPULA SCROTUM SHOULDER SIJOINT SINUS SKULL SPLEEN SSPINE STOMACH TESTIS THIGH THUMB TIBIA TIBIAFIBULA
    TMJ TOE TOOTH ULNA UPPERARM UPRARM URETER URETHRA UTERUS VAGINA VULVA WRIST ZYGOMA
"""
_OTHER_PARTS = frozenset(_OTHER_PART_TERMS.split())
# Words of View Position, with "bi-lateral" as one word.
_WORD = re.compile(r"BI[ -]LAT[A-Z]*|[A-Z]+")
# Terms of View Position (PS3.3 section C.8.7.1.1.1) for lateral views and for patients who lie on one side, and the
# words that are used instead.
_LATERAL_WORD = re.compile(
    r"[LRX]?LAT(?:DEC[A-Z]*)?|(?:LEFT|RIGHT|CROSS|X)?LATERAL[A-Z]*|LATERO[A-Z]*|[LR]LD?"
    r"|SAG(?:ITTAL[A-Z]*)?|PROFIL[A-Z]*|SEITL[A-Z]*"
)
_OBLIQUE_WORD = re.compile(r"[LR][ALP]O|OBL|OBLIQ[A-Z]*")
# Lateral, left and right lateral, latero-medial, medio-lateral and sagittal projections of CID 4010, with the codes
# of SNOMED RT that older files hold.
_LATERAL_CODES = frozenset({
    "399067008", "399173006", "399118008", "399198007", "399297009", "399352003", "399260004", "30730003",
    "R-102CD", "R-10236", "R-10232", "R-10228", "R-10224", "G-A145",
})  # fmt: skip
# The oblique projections of CID 4010, in the same way, and those of the breast.
_OBLIQUE_CODES = frozenset({
    "399038007", "399059000", "399099002", "399135007", "260427002", "399236003", "399368009", "399356000",
    "399312000", "399184004", "399182000", "260426006", "399325008", "399160007", "399004004", "399006002",
    "399132005", "399225005", "399288005", "R-10210", "R-10216", "R-10230", "R-10220", "R-40783", "R-10234",
    "R-10226", "R-40985", "R-10208", "R-10238", "R-102C1", "R-40782", "R-10254", "R-10204", "R-10246", "R-10212",
    "R-10252", "R-10250",
})  # fmt: skip


def require_accepted(elements: Elements) -> None:
    """Check that an image may get objects.

    Args:
        elements: Data elements of the file.

    Raises:
        RefusedError: If the UIDs of study, series, image or SOP Class are absent or malformed, the SOP Class is not
            one of `SOP_CLASSES`, the image shows another part of the body, or the view is lateral or oblique.
        OwnObjectError: If pneumoseg itself made the image.
    """
    for keyword, name in _UIDS.items():
        uid = elements.text(keyword)
        if len(uid) > _LONGEST_UID or not _UID.fullmatch(uid):
            raise RefusedError(elements.path, f"has no valid {name}")
    _require_class(elements)
    if _is_own(elements):
        raise OwnObjectError(elements.path, f"was made by {MAKER} itself")
    if re.sub(r"[\s_-]", "", elements.text("BodyPartExamined").upper()) in _OTHER_PARTS:
        raise RefusedError(elements.path, "shows another part of the body than the chest")
    if view := _other_view(elements):
        raise RefusedError(elements.path, f"is {view} view")


def _require_class(elements: Elements) -> None:
    uid = elements.text("SOPClassUID")
    if uid == DigitalXRayImageStorageForProcessing:
        reason = "is a Digital X-Ray image for processing, whose grey levels are raw"
        raise RefusedError(elements.path, reason, "Send the image for presentation that was made from it")
    if uid not in SOP_CLASSES:
        reason = "is not a Computed Radiography, Digital X-Ray or single-frame Secondary Capture image"
        raise RefusedError(elements.path, reason)


def _is_own(elements: Elements) -> bool:
    # Archives rewrite some of these.
    makers = (elements.text(keyword) for keyword in ("Manufacturer", "ManufacturerModelName"))
    notes = (elements.text(keyword) for keyword in ("SeriesDescription", "DerivationDescription"))
    return any(maker == MAKER for maker in makers) or any(f"by {MAKER}" in note for note in notes)


def _other_view(elements: Elements) -> str:
    """Return 'a lateral' or 'an oblique' if View Position or View Code Sequence name such a view, and otherwise ''.

    Only without them, the orientation decides.
    """
    position, view = elements.text("ViewPosition").upper(), elements.first_item("ViewCodeSequence")
    code = view.text("CodeValue") if view is not None else ""
    if not position and not code:
        # The rows or the columns run from front to back.
        directions = elements.text("PatientOrientation").upper().split("\\")
        return "a lateral" if any(direction[:1] in ("A", "P") for direction in directions) else ""
    words = _WORD.findall(position)
    if code in _LATERAL_CODES or position in ("L", "R") or any(map(_LATERAL_WORD.fullmatch, words)):
        return "a lateral"
    return "an oblique" if code in _OBLIQUE_CODES or any(map(_OBLIQUE_WORD.fullmatch, words)) else ""
