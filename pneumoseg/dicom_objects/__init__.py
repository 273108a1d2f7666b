"""Results as standard DICOM objects of the image's study: a segmentation, a report and a picture."""

from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.objects import KINDS, make_objects
from pneumoseg.dicom_objects.refusal import OwnObjectError, RefusedError
from pneumoseg.dicom_objects.source import SourceHeader, read_source

__all__ = ["KINDS", "Finding", "OwnObjectError", "RefusedError", "SourceHeader", "make_objects", "read_source"]
