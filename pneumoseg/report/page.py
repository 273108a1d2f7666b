"""One self-contained HTML page of an evaluation: scores, tables, curves, and a gallery of the images."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

import pneumoseg
from pneumoseg.atomic_write import atomic_write
from pneumoseg.data.patients import knows_all_patients, patient_ids
from pneumoseg.data.splits import images_of_run
from pneumoseg.evaluation import STAGED, TUNED, Evaluation
from pneumoseg.evaluation.tables import FLOOR
from pneumoseg.inference import Tuning
from pneumoseg.report import charts, gallery
from pneumoseg.report.comparison import histories, metrics_of, segmenter_scores
from pneumoseg.report.curves import draw_curves

_TITLES = {
    "mean_dice": "mean Dice",
    "dice_positives": "Dice of positives",
    "dice_negatives": "Dice of negatives",
    "iou": "IoU",
    "f2": "F2",
    "predicted": "share with a mask",
    "unreadable": "unreadable",
    "seconds": "seconds an image",
    "cost": "cost",
    "lost": "lost mean Dice",
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
    tuning: Tuning | None = None,
    runs: Sequence[str | Path] = (),
    variants: pd.DataFrame | None = None,
    cases: int = 500,
) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        evaluation: What it shows.
        path: The HTML file.
        tuning: What the rule was chosen on, if it was.
        runs: Folders of the runs that trained it, for their curves (figures 3 and 4) and scores (table 1).
        variants: See `compare_predictions`.
        cases: Most images in the gallery, the worst first.

    Raises:
        FileNotFoundError: If a run has no history.
    """
    shown = gallery.worst_first(evaluation.cases, cases)
    environment = Environment(
        loader=PackageLoader("pneumoseg.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    page = environment.get_template("page.html").stream(
        version=pneumoseg.__version__,
        facts=_facts(evaluation),
        tuning=tuning,
        rules=_rules(evaluation),
        warnings=warnings_about(evaluation, runs),
        tables=_tables(evaluation, runs, variants),
        charts=_charts(evaluation, runs),
        outcomes=gallery.outcome_counts(shown),
        has_runs=bool(runs),
        total=len(evaluation.cases),
        shown=len(shown),
        cards=gallery.cards(shown, evaluation.predictions, evaluation.rule),
    )
    with atomic_write(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    """What the page says first."""
    name = STAGED + (TUNED if TUNED in evaluation.rules else "")
    arm = evaluation.arms.loc[name]
    manifest = evaluation.predictions.manifest
    return {
        "images": len(manifest),
        "positives": int(evaluation.cases["positive"].sum()),
        "arm": name,
        "intervals": evaluation.intervals,
        "patients": int(patient_ids(manifest).nunique()) if knows_all_patients(manifest) else None,
        "score": _interval(arm, "mean_dice"),
        "floor": _number(evaluation.arms.loc[FLOOR, "mean_dice"]),
        "gain": _interval(arm, "gain"),
        "gain_shown": not arm["gain_low"] <= 0 <= arm["gain_high"],
        "seconds": evaluation.predictions.seconds,
        "flip": evaluation.predictions.flip,
    }


def _rules(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    names = {"": "as assembled", TUNED: "tuned"}
    return {names[suffix]: dataclasses.asdict(rule) for suffix, rule in evaluation.rules.items()}


def warnings_about(evaluation: Evaluation, runs: Sequence[str | Path]) -> list[str]:
    """What makes the scores too good, or worth less, in words.

    Args:
        evaluation: The scores.
        runs: Folders of the runs that trained the networks.

    Raises:
        FileNotFoundError: If a folder holds no run.
    """
    scored = set(evaluation.predictions.manifest["image_id"])
    warnings = []
    for run in map(Path, runs):
        for side, text in (
            ("train", "was trained on: the scores are too good and tell nothing of other images"),
            (
                "val",
                "chose its best epoch on: the scores are too good, the more so where "
                "the split was by image and patients stand on both sides",
            ),
        ):
            count = len(scored & images_of_run(run, side))
            if count:
                warnings.append(f"{count} of the {len(scored)} images are ones that {run.name} {text}.")
        chosen_on = scored & images_of_run(run, "val")
        if chosen_on and _chose_threshold(run, evaluation.rules[""].classifier_threshold):
            warnings.append(
                f"{len(chosen_on)} of the {len(scored)} images are ones that {run.name} chose its threshold on, by the "
                "best MCC: what is scored as assembled is too good for this, too (in a simulation by .01 of MCC on "
                "2,400 images, by .03 to .04 on 400)."
            )
    unreadable = sum(map(bool, evaluation.predictions.errors))
    if unreadable:
        warnings.append(f"{unreadable} files could not be read; they are scored as predicted empty.")
    return warnings


def _chose_threshold(run: Path, threshold: float) -> bool:
    """Whether an assembled rule has the threshold that a classifier's run chose, or the mean of its folds'."""
    metrics = metrics_of(run)
    chosen = [fold.get("val_best_threshold") for fold in metrics.get("folds", [metrics])]
    return None not in chosen and math.isclose(sum(chosen) / len(chosen), threshold)


def _tables(
    evaluation: Evaluation, runs: Sequence[str | Path], variants: pd.DataFrame | None
) -> dict[str, dict[str, Any]]:
    """Columns and rows of text, by name."""
    gains = evaluation.gains.rename_axis("the pipeline over").reset_index()
    tables = {
        "arms": evaluation.arms.drop(columns="unreadable")
        .rename(columns=lambda name: name.replace("gain", "gain over the floor"))
        .rename_axis("way to decide")
        .reset_index(),
        "gains": gains,
        "classifier": evaluation.classifier.rename(_TITLES).rename_axis("score of the classifier").reset_index(),
        "lost": evaluation.lost.rename_axis("cause").reset_index(),
        "table_2": evaluation.table_2.rename(columns={"grid": "components at", "area": "smallest, px"}).astype(
            {"smallest, px": int}
        ),
        "strata": evaluation.strata,
    }
    table_1 = segmenter_scores(runs)
    if len(table_1):
        tables["table_1"] = table_1
    if variants is not None:
        tables["variants"] = variants.rename_axis("predictions").reset_index()
    return {name: _as_text(table) for name, table in tables.items()}


def _as_text(table: pd.DataFrame) -> dict[str, Any]:
    """Each score and its bounds in one cell."""
    columns = [name for name in table.columns if not name.endswith(("_low", "_high")) and name not in ("low", "high")]
    rows = [[_cell(row, name) for name in columns] for row in table.to_dict("records")]
    return {"columns": [_TITLES.get(name, name.replace("_", " ")) for name in columns], "rows": rows}


def _cell(row: dict[str, Any], name: str) -> tuple[str, str]:
    """A score, and the bounds of its interval if it has one."""
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    value, sign = row[name], "+" if name.startswith("gain") else ""
    if not isinstance(value, float):
        return str(value), ""
    if low not in row:
        return _number(value, ".4f" if name == "paper" else f"{sign}.3f"), ""
    if value != value or row[low] != row[low]:
        return _number(value, f"{sign}.3f"), ""
    return _number(value, f"{sign}.3f"), " to ".join(_number(row[bound], f"{sign}.3f") for bound in (low, high))


def _interval(row: Any, name: str) -> str:
    value, bounds = _cell(dict(row), name)
    return f"{value} ({bounds})"


def _number(value: float, form: str = ".3f") -> str:
    return "–" if value != value else format(value, form)


def _charts(evaluation: Evaluation, runs: Sequence[str | Path]) -> dict[str, str]:
    rule, floor = evaluation.rule, float(evaluation.arms.loc[FLOOR, "mean_dice"])
    figures = {
        "thresholds": charts.draw_thresholds(
            evaluation.classifier_thresholds,
            evaluation.mask_thresholds,
            floor,
            rule.classifier_threshold,
            rule.mask_threshold,
        ),
        "areas": charts.draw_areas(evaluation.areas, evaluation.table_2, floor, rule.minimum_area),
        "lost": charts.draw_lost(evaluation.lost),
    }
    if charts.has_both_classes(evaluation.cases):
        figures["classifier"] = charts.draw_classifier(evaluation.cases, rule.classifier_threshold)
    for run in map(Path, runs):
        metrics = metrics_of(run)
        start, end, every = (metrics.get(f"swa_{name}") for name in ("start_epoch", "end_epoch", "every"))
        averaged = range(start, end + 1, every) if start and end and every else ()
        for label, history in histories(run).items():
            monitor = "iou" if "val_iou" in history else "mcc"
            figures[f"Run {label}"] = draw_curves(history, monitor, averaged=averaged)
    return {name: charts.to_svg(figure, f"chart{number}") for number, (name, figure) in enumerate(figures.items())}
