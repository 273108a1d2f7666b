"""Report of an evaluation as one self-contained HTML page: scores, tables, curves, and a gallery of the images."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import pneumoseg
from pneumoseg.atomic_write import atomic_write
from pneumoseg.data.patients import count_patients
from pneumoseg.evaluation import TUNED, Estimate, Evaluation
from pneumoseg.evaluation.caveats import caveats
from pneumoseg.evaluation.tables import BASELINE
from pneumoseg.inference import PipelineFolder
from pneumoseg.report import charts, gallery
from pneumoseg.report.comparison import histories, segmenter_scores
from pneumoseg.report.curves import draw_curves
from pneumoseg.report.templates import format_number, template
from pneumoseg.training.run import Run

_TITLES = {
    "mean_dice": "mean Dice",
    "gain": "gain over the baseline",
    "difference": "difference in mean Dice",
    "missing_dice": "missing mean Dice",
    "dice_positives": "Dice of positives",
    "dice_negatives": "Dice of negatives",
    "iou": "IoU",
    "f2": "F2",
    "predicted": "fraction with a mask",
    "unreadable": "unreadable",
    "seconds": "seconds per image",
    "cost": "cost",
    "paper": "paper's private score",
    "value": "score",
    "f1": "F1",
    "mcc": "MCC",
    "auc": "AUC",
}


def write_report(
    evaluation: Evaluation,
    path: str | Path,
    *,
    pipeline: PipelineFolder | None = None,
    comparison: pd.DataFrame | None = None,
    max_images: int = 500,
) -> None:
    """Write the report of an evaluation; the page needs no network and no other file.

    Args:
        evaluation: The scores to show.
        path: HTML file to write.
        pipeline: The pipeline that was scored. It tells which images its networks and its rule have seen, and it keeps
            the curves of its runs (figures 3 and 4) and their scores (table 1). Without it the page shows neither.
        comparison: Table of other predictions of the same images, see `compare_predictions`.
        max_images: Greatest number of images in the gallery, which shows those with the lowest Dice.

    Raises:
        ValueError: If a run in the pipeline's folder has no history.

    Example:
        >>> write_report(evaluate(predictions, rule), "report.html")  # doctest: +SKIP
    """
    shown = gallery.worst_first(evaluation.cases, max_images)
    runs = pipeline.runs if pipeline else ()
    page = template("page.html").stream(
        version=pneumoseg.__version__,
        facts=_facts(evaluation),
        tuning=pipeline.tuning if pipeline else None,
        rules=_rules(evaluation),
        warnings=caveats(evaluation.predictions, evaluation.rules[""], pipeline),
        tables=_tables(evaluation, runs, comparison),
        charts=_charts(evaluation, runs),
        outcomes=gallery.outcome_counts(shown),
        has_runs=bool(runs),
        total=len(evaluation.cases),
        shown=len(shown),
        cards=gallery.cards(shown, evaluation.masked, evaluation.rule),
    )
    with atomic_write(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    """Return the facts at the top of the page."""
    variant = evaluation.variants.loc[evaluation.pipeline]
    manifest, gain = evaluation.predictions.manifest, variant["gain"]
    return {
        "images": len(manifest),
        "positives": int(evaluation.classified["positive"].sum()),
        "labels_alone": evaluation.labels_alone,
        "pipeline": evaluation.pipeline,
        "intervals": evaluation.intervals,
        "patients": count_patients(manifest),
        "score": "{} ({})".format(*_cell("mean_dice", variant["mean_dice"])),
        "baseline": format_number(evaluation.variants.loc[BASELINE, "mean_dice"].value),
        "gain": "{} ({})".format(*_cell("gain", gain)),
        "gain_shown": not gain.low <= 0 <= gain.high,
        "seconds": evaluation.predictions.seconds,
        "flip": evaluation.predictions.flip,
        "engine": str(evaluation.predictions.engine),
    }


def _rules(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    names = {"": "as assembled", TUNED: "tuned"}
    return {names[suffix]: dataclasses.asdict(rule) for suffix, rule in evaluation.rules.items()}


def _tables(
    evaluation: Evaluation, runs: Sequence[str | Path], comparison: pd.DataFrame | None
) -> dict[str, dict[str, Any]]:
    """Return the columns and the rows of each table as text, by name."""
    tables = {
        "variants": evaluation.variants.drop(columns="unreadable").rename_axis("variant").reset_index(),
        "differences": evaluation.differences.rename_axis("the pipeline minus").reset_index(),
        "classifier": evaluation.classifier.rename(_TITLES).rename_axis("score of the classifier").reset_index(),
        "error_breakdown": evaluation.error_breakdown.rename_axis("cause").reset_index(),
        "table_2": evaluation.table_2.rename(columns={"grid": "components at", "area": "minimum area, px"}).astype(
            {"minimum area, px": int}
        ),
        "subgroups": evaluation.subgroups,
    }
    table_1 = segmenter_scores(runs)
    if len(table_1):
        tables["table_1"] = table_1
    if comparison is not None:
        tables["comparison"] = comparison.rename_axis("predictions").reset_index()
    return {name: _as_text(table) for name, table in tables.items()}


def _as_text(table: pd.DataFrame) -> dict[str, Any]:
    return {
        "columns": [_TITLES.get(name, name.replace("_", " ")) for name in table.columns],
        "rows": [[_cell(name, value) for name, value in row.items()] for row in table.to_dict("records")],
    }


def _cell(name: Any, value: Any) -> tuple[str, str]:
    """Return the text of a cell, and the bounds of its interval if it has one."""
    form = "+.3f" if name in ("gain", "difference") else ".4f" if name == "paper" else ".3f"
    if isinstance(value, Estimate):
        bounds = f"{format_number(value.low, form)} to {format_number(value.high, form)}"
        return format_number(value.value, form), "" if any(map(math.isnan, dataclasses.astuple(value))) else bounds
    return format_number(value, form) if isinstance(value, float) else str(value), ""


def _charts(evaluation: Evaluation, runs: Sequence[str | Path]) -> dict[str, str]:
    rule, baseline = evaluation.rule, evaluation.variants.loc[BASELINE, "mean_dice"].value
    figures = {
        "thresholds": charts.plot_thresholds(
            evaluation.classifier_thresholds,
            evaluation.mask_thresholds,
            baseline,
            rule.classifier_threshold,
            rule.mask_threshold,
        ),
        "areas": charts.plot_areas(evaluation.areas, evaluation.table_2, baseline, rule.minimum_area),
        "error_breakdown": charts.plot_error_breakdown(evaluation.error_breakdown),
    }
    if charts.has_both_classes(evaluation.classified):
        figures["classifier"] = charts.plot_classifier(evaluation.classified, rule.classifier_threshold)
    for run in map(Path, runs):
        metrics = Run(run).metrics()
        start, end, every = (metrics.get(f"swa_{name}") for name in ("start_epoch", "end_epoch", "every"))
        averaged = range(start, end + 1, every) if start and end and every else ()
        for label, history in histories(run).items():
            monitor = "iou" if "val_iou" in history else "mcc"
            figures[f"Run {label}"] = draw_curves(history, monitor, averaged=averaged)
    return {name: charts.to_svg(figure, f"chart{number}") for number, (name, figure) in enumerate(figures.items())}
