"""Find and outline pneumothorax on chest X-rays.

Names are loaded on first use, so that importing the package is instant and silent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumoseg.dicom import DicomError, read_image
    from pneumoseg.inference import Pipeline, load_pipeline

__version__ = "0.1.0"
__all__ = ["DicomError", "Pipeline", "load_pipeline", "read_image"]

_HOMES = {"DicomError": "dicom", "read_image": "dicom", "Pipeline": "inference", "load_pipeline": "inference"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pneumoseg' has no attribute {name!r}")
    return getattr(import_module(f"pneumoseg.{_HOMES[name]}"), name)
