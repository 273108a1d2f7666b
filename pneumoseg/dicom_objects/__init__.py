"""Results as standard DICOM objects of the image's study: a segmentation, a report and a picture.

The modules: `acceptance` says which images get objects; `source` reads the header of the image and `repair` its values;
`study` holds what all objects share with it, and `maker` their names and UIDs. `segmentation`, `report`, with the
`outlines` of the mask, and `picture` each make one kind of object, and `objects` all of an image. No module changes
settings of pydicom; while an object is made, highdicom's logger is silent, because it names UIDs. Any number of threads
may make objects.
"""

from pneumoseg.dicom_objects.acceptance import SOP_CLASSES
from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.objects import KINDS, make_objects
from pneumoseg.dicom_objects.refusal import OwnObjectError, RefusedError
from pneumoseg.dicom_objects.source import SourceHeader, read_source

__all__ = [
    "KINDS",
    "SOP_CLASSES",
    "Finding",
    "OwnObjectError",
    "RefusedError",
    "SourceHeader",
    "make_objects",
    "read_source",
]
