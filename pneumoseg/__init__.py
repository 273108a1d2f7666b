"""Find and outline pneumothorax on chest X-rays.

Names are loaded on first use, so that importing the package is instant and silent.

Example:
    >>> import pneumoseg
    >>> pneumoseg.rle.decode("1 2", (2, 2)).astype(int).tolist()
    [[0, 1], [1, 0]]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pneumoseg.tensorflow_log import keep_from_stderr

if TYPE_CHECKING:
    from pneumoseg import rle
    from pneumoseg.config import load_experiment
    from pneumoseg.data.index import index_dataset, load_manifest, save_manifest, summarize
    from pneumoseg.decision import DecisionRule
    from pneumoseg.evaluation import Estimate, evaluate, evaluate_pipeline, table_columns
    from pneumoseg.evaluation.tuning import tune
    from pneumoseg.image_errors import DicomError, ImageError
    from pneumoseg.images import read_image
    from pneumoseg.inference import Pipeline, assemble_pipeline, load_pipeline
    from pneumoseg.inference.export import export_pipeline
    from pneumoseg.overlay import draw_outlines
    from pneumoseg.predictions import cache_predictions, load_predictions
    from pneumoseg.report.charts import plot_areas
    from pneumoseg.report.contact_sheet import draw_contact_sheet
    from pneumoseg.report.page import write_report
    from pneumoseg.results import write_results
    from pneumoseg.training.run import Run
    from pneumoseg.training.tasks import task_for
    from pneumoseg.training.train import train

__version__ = "0.1.0"
__all__ = [
    "DecisionRule",
    "DicomError",
    "Estimate",
    "ImageError",
    "Pipeline",
    "Run",
    "assemble_pipeline",
    "cache_predictions",
    "draw_contact_sheet",
    "draw_outlines",
    "evaluate",
    "evaluate_pipeline",
    "export_pipeline",
    "index_dataset",
    "load_experiment",
    "load_manifest",
    "load_pipeline",
    "load_predictions",
    "plot_areas",
    "read_image",
    "rle",
    "save_manifest",
    "summarize",
    "table_columns",
    "task_for",
    "train",
    "tune",
    "write_report",
    "write_results",
]

_MODULES = {
    "config": ["load_experiment"],
    "data.index": ["index_dataset", "load_manifest", "save_manifest", "summarize"],
    "decision": ["DecisionRule"],
    "evaluation": ["Estimate", "evaluate", "evaluate_pipeline", "table_columns"],
    "evaluation.tuning": ["tune"],
    "image_errors": ["DicomError", "ImageError"],
    "images": ["read_image"],
    "inference": ["Pipeline", "assemble_pipeline", "load_pipeline"],
    "inference.export": ["export_pipeline"],
    "overlay": ["draw_outlines"],
    "predictions": ["cache_predictions", "load_predictions"],
    "report.charts": ["plot_areas"],
    "report.contact_sheet": ["draw_contact_sheet"],
    "report.page": ["write_report"],
    "results": ["write_results"],
    "training.run": ["Run"],
    "training.tasks": ["task_for"],
    "training.train": ["train"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

keep_from_stderr()


def __getattr__(name: str) -> Any:
    if name == "rle":
        return import_module("pneumoseg.rle")
    if name not in _HOMES:
        raise AttributeError(f"module 'pneumoseg' has no attribute {name!r}")
    return getattr(import_module(f"pneumoseg.{_HOMES[name]}"), name)
