"""The finding as a DICOM structured report."""

import math
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

import pneumoseg
from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.maker import CAUTION, MAKER, derive_uid
from pneumoseg.dicom_objects.outlines import Component, find_components
from pneumoseg.dicom_objects.study import ObjectIdentity

_PNEUMOTHORAX = Code("36118008", "SCT", "Pneumothorax")
_CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_CHEST = Code("816094009", "SCT", "Chest")
_CHEST_XRAY = Code("399208008", "SCT", "Plain chest X-ray")
_PRESENT, _ABSENT = Code("52101004", "SCT", "Present"), Code("272519000", "SCT", "Absent")
_AREA, _CERTAINTY = Code("42798000", "SCT", "Area"), Code("111012", "DCM", "Certainty of Finding")
_MM2, _PIXELS = Code("mm2", "UCUM", "square millimeter"), Code("{pixels}", "UCUM", "pixels")
_PERCENT = Code("%", "UCUM", "percent")
_COMMENT = Code("121106", "DCM", "Comment")
_AT_DETECTOR = "The area is measured at the detector, where the patient appears magnified"
# highdicom needs about 30 ms for each group, and a mask of noise has thousands of components.
_MOST_GROUPS = 50
_CERTAINTY_NOTE = "The certainty of the finding is the probability of pneumothorax"


def make_report(identity: ObjectIdentity) -> Dataset:
    """Return a Comprehensive 3D SR of template TID 1500: complete, preliminary, unverified.

    A positive report has one measurement group per connected component, with its outer outline and its area: in mm2
    where the pixel spacing is believed, else in pixels. Areas are counted from the mask, so holes do not belong to
    them. An area from Imager Pixel Spacing is measured at the detector, where the patient appears magnified; a comment
    says so. Only the largest 50 components have groups; of any others a comment tells the number and the area. A
    negative report has one group without an outline, whose evaluation is Absent. Each group repeats the classifier's
    probability of pneumothorax, if there is one, as the certainty of the finding in percent.

    Args:
        identity: Identity of the object, with the finding.
    """
    from highdicom.sr import Comprehensive3DSR, MeasurementReport

    finding = identity.finding
    components, count = find_components(finding.mask, _MOST_GROUPS)
    notes = _area_notes(finding, components, count)
    groups = [_presence(identity, component, number, notes) for number, component in enumerate(components, 1)]
    content = MeasurementReport(_observer(identity), _CHEST_XRAY, groups or [_absence(identity)])
    report = Comprehensive3DSR(
        [identity.header],
        content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        **identity.arguments("report", 9002),
    )
    return identity.complete(report)


def _observer(identity: ObjectIdentity) -> Any:
    from highdicom.sr import CodedConcept, DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext

    device = DeviceObserverIdentifyingAttributes(
        uid=derive_uid(identity.finding.pipeline_digest, pneumoseg.__version__, "device"),
        name=MAKER,
        manufacturer_name=MAKER,
        model_name=MAKER,
        serial_number=identity.finding.pipeline_digest,
    )
    return ObservationContext(ObserverContext(CodedConcept("121007", "DCM", "Device"), device))


def _area_notes(finding: Finding, components: list[Component], count: int) -> list[str]:
    believed = not math.isnan(finding.pixel_area_mm2)
    notes = [_AT_DETECTOR] if believed and finding.spacing_source == "ImagerPixelSpacing" else []
    if others := count - len(components):
        pixels = int(finding.mask.sum()) - sum(component.area_px for component in components)
        area = f"{pixels * finding.pixel_area_mm2:.2f} mm2" if believed else f"{pixels} pixels"
        notes.append(f"{others} smaller components are left out, with an area of {area} together")
    return notes


def _presence(identity: ObjectIdentity, component: Component, number: int, notes: list[str]) -> Any:
    from highdicom.sr import (
        ImageRegion,
        Measurement,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        SourceImageForRegion,
    )

    finding = identity.finding
    believed = not math.isnan(finding.pixel_area_mm2)
    area = component.area_px * (finding.pixel_area_mm2 if believed else 1)
    source = SourceImageForRegion(identity.source.sop_class_uid, identity.source.sop_instance_uid)
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=ImageRegion("POLYLINE", component.outline, source),
        measurements=[Measurement(_AREA, area, _MM2 if believed else _PIXELS), *_certainty(finding)],
        **_facts(identity, _PRESENT, number),
    )
    return _commented(group, finding, notes)


def _absence(identity: ObjectIdentity) -> Any:
    from highdicom.sr import MeasurementsAndQualitativeEvaluations, SourceImageForMeasurementGroup

    source = identity.source
    group = MeasurementsAndQualitativeEvaluations(
        measurements=_certainty(identity.finding),
        source_images=[SourceImageForMeasurementGroup(source.sop_class_uid, source.sop_instance_uid)],
        **_facts(identity, _ABSENT, 1),
    )
    return _commented(group, identity.finding, [])


def _facts(identity: ObjectIdentity, verdict: Code, number: int) -> dict[str, Any]:
    """Return the arguments that the groups of positive and negative reports share."""
    from highdicom.sr import AlgorithmIdentification, FindingSite, QualitativeEvaluation, TrackingIdentifier

    return {
        "tracking_identifier": TrackingIdentifier(identity.uid("tracking", str(number)), f"Pneumothorax {number}"),
        "finding_category": _CATEGORY,
        "finding_type": _PNEUMOTHORAX,
        "finding_sites": [FindingSite(_CHEST)],
        "algorithm_id": AlgorithmIdentification(
            MAKER, pneumoseg.__version__, [f"Pipeline {identity.finding.pipeline_digest}"]
        ),
        "qualitative_evaluations": [QualitativeEvaluation(_PNEUMOTHORAX, verdict)],
    }


def _certainty(finding: Finding) -> list[Any]:
    from highdicom.sr import Measurement

    if math.isnan(finding.probability):
        return []
    return [Measurement(_CERTAINTY, round(100 * finding.probability, 2), _PERCENT)]


def _commented(group: Any, finding: Finding, notes: list[str]) -> Any:
    from highdicom.sr import TextContentItem

    certainty = [] if math.isnan(finding.probability) else [_CERTAINTY_NOTE]
    text = ". ".join([CAUTION, *certainty, *notes])
    group[0].ContentSequence.append(TextContentItem(_COMMENT, text, "CONTAINS"))
    return group
