"""The mask as a DICOM Segmentation object."""

from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

import pneumoseg
from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.maker import MAKER
from pneumoseg.dicom_objects.study import ObjectIdentity


def make_segmentation(identity: ObjectIdentity, *, strict: bool) -> Dataset:
    """Return a BINARY segmentation with one segment.

    Viewers need a geometry, which a radiograph does not have: unless `strict`, the object holds a plane at the origin
    and the image's Pixel Spacing. That is repeated even where it is not believed, because viewers lay the segmentation
    over the image by it. Without Pixel Spacing a pixel is 1 mm wide and as high as its aspect ratio says.

    Args:
        identity: Identity of the object, with a mask that is not empty.
        strict: Whether the geometry is left out.
    """
    import highdicom
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    segment = SegmentDescription(
        segment_number=1,
        segment_label="Pneumothorax",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Pneumothorax,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=MAKER, version=pneumoseg.__version__, family=codes.cid7162.ArtificialIntelligence
        ),
        tracking_id=f"{MAKER} pneumothorax",
        tracking_uid=identity.uid("tracking"),
    )
    segmentation = Segmentation(
        [identity.header],
        identity.finding.mask[None],
        SegmentationTypeValues.BINARY,
        [segment],
        content_label="PNEUMOTHORAX",
        content_description="Outline of a pneumothorax, research only",
        **identity.arguments("segmentation", 9001),
    )
    _name_dimension(segmentation, identity.uid("dimension"))
    if strict:
        segmentation.PatientOrientation = identity.source.depiction.PatientOrientation
    else:
        _add_geometry(segmentation, identity.finding)
    return identity.complete(segmentation)


def _name_dimension(segmentation: Dataset, uid: str) -> None:
    """Replace the UID that highdicom draws at random."""
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for index in segmentation.DimensionIndexSequence:
        index.DimensionOrganizationUID = uid


def _add_geometry(segmentation: Dataset, finding: Finding) -> None:
    known = finding.pixel_spacing if finding.spacing_source == "PixelSpacing" else None
    measures, orientation, position = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [DSfloat(side, auto_format=True) for side in known or (finding.pixel_aspect, 1.0)]
    measures.SliceThickness = 1
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    position.ImagePositionPatient = [0, 0, 0]
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence = [position]
