"""The staged pipeline: both networks and the rule that decides, in memory and on disk."""

from pneumoseg.inference.folder import PipelineFolder, Tuning, assemble_pipeline, load_pipeline, save_tuning
from pneumoseg.inference.pipeline import Pipeline, Probabilities
from pneumoseg.inference.result import Result

__all__ = [
    "Pipeline",
    "PipelineFolder",
    "Probabilities",
    "Result",
    "Tuning",
    "assemble_pipeline",
    "load_pipeline",
    "save_tuning",
]
