"""Attributes that every object shares with the image's study, in the form that highdicom takes."""

from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

import pneumoseg
from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.maker import MAKER, derive_uid
from pneumoseg.dicom_objects.source import SourceHeader

_CHARACTER_SET = "ISO_IR 192"


@dataclass(frozen=True)
class ObjectIdentity:
    """Identity of one object: its UIDs follow from the image, the pipeline, the version and the kind of object.

    Attributes:
        source: Header of the image.
        finding: Finding on it.
        kind: Kind of object, such as "seg"; another kind has other UIDs.
    """

    source: SourceHeader
    finding: Finding
    kind: str

    def uid(self, *purpose: str) -> str:
        """Return the UID of the object, or of a thing in it."""
        version = pneumoseg.__version__
        return derive_uid(self.source.sop_instance_uid, self.finding.pipeline_digest, version, self.kind, *purpose)

    @property
    def header(self) -> Dataset:
        """Header of the image without what highdicom would check: `complete` adds that."""
        header = Dataset()
        header.update({element.tag: element for element in self.source.depiction})
        for keyword in (element.keyword for element in self.source.identity):
            setattr(header, keyword, "")
        header.SpecificCharacterSet = _CHARACTER_SET
        header.Modality = "OT"
        header.Rows, header.Columns = self.source.shape
        header.SOPClassUID = self.source.sop_class_uid
        header.SOPInstanceUID = self.source.sop_instance_uid
        header.SeriesInstanceUID = self.source.series_instance_uid
        header.StudyInstanceUID = self.source.study_instance_uid
        return header

    def arguments(self, title: str, series_number: int) -> dict[str, Any]:
        """Return the arguments that highdicom's objects share.

        Args:
            title: Name of the kind of object, for people.
            series_number: Number of its series.
        """
        return {
            "series_instance_uid": self.uid("series"),
            "series_number": series_number,
            "series_description": f"Research only: {title} by {MAKER}",
            "sop_instance_uid": self.uid(),
            "instance_number": 1,
            "manufacturer": MAKER,
            "manufacturer_model_name": MAKER,
            "software_versions": pneumoseg.__version__,
            "device_serial_number": self.finding.pipeline_digest,
        }

    def complete(self, made: Dataset) -> Dataset:
        """Add patient and study to an object that was made from `header`, and return it."""
        made.update({element.tag: element for element in self.source.identity})
        made.SpecificCharacterSet = _CHARACTER_SET
        return made
