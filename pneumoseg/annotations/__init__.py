"""Readers of annotations: one small module per format, behind `read_annotations`, which recognizes the format.

Every format is read into an `Annotations` object, which `data.index.index_dataset` joins with the images. The manifest
is the one meeting point: nothing behind it knows formats.
"""

from pneumoseg.annotations.annotations import Annotations
from pneumoseg.annotations.recognition import FORMATS, read_annotations

__all__ = ["FORMATS", "Annotations", "read_annotations"]
