"""Find and outline pneumothorax on chest X-rays.

Names are loaded on first use, so that importing the package is instant and silent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumoseg.data.index import index_dataset, load_manifest
    from pneumoseg.decision import DecisionRule
    from pneumoseg.dicom import DicomError, read_image
    from pneumoseg.evaluation import evaluate
    from pneumoseg.inference import Pipeline, load_pipeline
    from pneumoseg.predictions import cache_predictions, load_predictions

__version__ = "0.1.0"
__all__ = [
    "DecisionRule",
    "DicomError",
    "Pipeline",
    "cache_predictions",
    "evaluate",
    "index_dataset",
    "load_manifest",
    "load_pipeline",
    "load_predictions",
    "read_image",
]

_HOMES = {
    "DecisionRule": "decision",
    "DicomError": "dicom",
    "Pipeline": "inference",
    "cache_predictions": "predictions",
    "evaluate": "evaluation",
    "index_dataset": "data.index",
    "load_manifest": "data.index",
    "load_pipeline": "inference",
    "load_predictions": "predictions",
    "read_image": "dicom",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pneumoseg' has no attribute {name!r}")
    return getattr(import_module(f"pneumoseg.{_HOMES[name]}"), name)
