"""Evaluation of cached predictions: per-image cases, tables with confidence intervals, and tuning of the rule."""

from pneumoseg.evaluation.estimate import Estimate, table_columns
from pneumoseg.evaluation.evaluation import (
    GRIDS,
    TABLE_2,
    TUNED,
    Evaluation,
    describe_intervals,
    evaluate,
    evaluate_classifier,
    evaluate_pipeline,
    require_predictions_of,
    scorable_predictions,
)
from pneumoseg.evaluation.variants import SEGMENTED, STAGED, ablation, compare_predictions

__all__ = [
    "GRIDS",
    "SEGMENTED",
    "STAGED",
    "TABLE_2",
    "TUNED",
    "Estimate",
    "Evaluation",
    "ablation",
    "compare_predictions",
    "describe_intervals",
    "evaluate",
    "evaluate_classifier",
    "evaluate_pipeline",
    "require_predictions_of",
    "scorable_predictions",
    "table_columns",
]
