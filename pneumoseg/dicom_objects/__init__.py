"""Results as standard DICOM objects of the image's study: a segmentation, a report and a picture."""

from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.refusal import RefusedError

__all__ = ["Finding", "RefusedError"]
