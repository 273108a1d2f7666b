"""Runs side by side: scores with intervals, and curves."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pneumoseg.data.patients import patient_groups
from pneumoseg.evaluation.bootstrap import bootstrap_interval
from pneumoseg.report.curves import best_row
from pneumoseg.scores import classification_scores
from pneumoseg.training.run import read_validation_predictions

# Okabe and Ito's palette, dark enough for lines on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def compare_runs(runs: Sequence[str | Path]) -> pd.DataFrame:
    """Score the validation predictions of finished classifier runs.

    Args:
        runs: Their folders; of a cross-validated run all out-of-fold predictions are scored together.

    Returns:
        One row a run, named by its folder: `images`, `positives`, the scores of `classification_scores` at a threshold
        of .5, `mcc_low`, `mcc_high`, `auc_low` and `auc_high`, the bounds of 95% bootstrap intervals over patients,
        `best_epoch` (NaN if cross-validated) and the mean `epoch_seconds`. Where the runs were validated on the same
        images, also `mcc_gain` over the first run, with `mcc_gain_low` and `mcc_gain_high` from the same resamples.

    Raises:
        ValueError: If a folder holds no finished classifier run.
    """
    tables = [_predictions(Path(run)) for run in runs]
    rows = [_scored(Path(run), table) for run, table in zip(runs, tables, strict=True)]
    first = tables[0]
    if all(table["image_id"].equals(first["image_id"]) for table in tables):
        for row, table in zip(rows, tables, strict=True):
            row["mcc_gain"] = row["mcc"] - rows[0]["mcc"]
            row["mcc_gain_low"], row["mcc_gain_high"] = _interval([table, first], "mcc")
    return pd.DataFrame(rows, index=pd.Index([Path(run).name for run in runs], name="run"))


def segmenter_scores(runs: Sequence[str | Path]) -> pd.DataFrame:
    """Score the epochs and averages of segmenter runs on their validation images, as far as a run has them (table 1).

    Args:
        runs: Their folders; others are passed over.

    Returns:
        `run`, `weights`, `iou`, `f1`, `f2`; empty if no run is a segmenter's.
    """
    rows = []
    for run in map(Path, runs):
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: no such run")
        metrics = metrics_of(run)
        if "val_iou" not in metrics:
            continue
        last = pd.read_csv(run / "history.csv").iloc[-1]
        sources = {
            f"last epoch, {last['epoch']:.0f}": (last, "val_"),
            f"best epoch, {metrics['best_epoch']}": (metrics, "val_"),
            _averaged(metrics, "swa_"): (metrics, "swa_val_"),
        }
        for path in sorted(run.glob("swa_*.json")):
            later = json.loads(path.read_text(encoding="utf-8"))
            sources[f"{_averaged(later, '')}, chosen later"] = (later, "val_")
        for weights, (values, prefix) in sources.items():
            if f"{prefix}iou" in values:
                scores = {name: float(values[f"{prefix}{name}"]) for name in ("iou", "f1", "f2")}
                rows.append({"run": run.name, "weights": weights, **scores})
    return pd.DataFrame(rows)


def draw_comparison(runs: Sequence[str | Path]) -> Figure:
    """Draw the losses and MCCs of classifier runs by epoch, the best epoch of each marked.

    Args:
        runs: Their folders; of a cross-validated run each fold is drawn.

    Raises:
        ValueError: If a folder holds no history.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "mcc"), strict=True):
        for number, run in enumerate(runs):
            colour = _COLOURS[number % len(_COLOURS)]
            for fold, history in enumerate(histories(run).values()):
                label = Path(run).name if fold == 0 else None
                axes.plot(history["epoch"], history[name], color=colour, linewidth=0.8, linestyle=":")
                axes.plot(history["epoch"], history[f"val_{name}"], color=colour, marker=".", label=label)
                best = history.iloc[best_row(history, "mcc")]
                axes.plot(best["epoch"], best[f"val_{name}"], "o", color=colour, markersize=9, fillstyle="none")
        axes.set_xlabel("epoch")
        axes.set_title(f"{name}: validation, and training dotted; best epoch by validation MCC ringed", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
    return figure


def _predictions(run: Path) -> pd.DataFrame:
    if not (run / "predictions.csv").exists() or not (run / "metrics.json").exists():
        raise ValueError(f"{run} holds no finished classifier run: it needs predictions.csv and metrics.json")
    return read_validation_predictions(run).sort_values("image_id", ignore_index=True)


def histories(run: str | Path) -> dict[str, pd.DataFrame]:
    """The histories of a run, of each fold if it was cross-validated, by name.

    Raises:
        ValueError: If the folder holds no history.
    """
    run = Path(run)
    paths = [path for path in (run / "history.csv", *sorted(run.glob("fold_*/history.csv"))) if path.exists()]
    if not paths:
        raise ValueError(f"{run} holds no run: it has no history.csv")
    return {str(path.parent.relative_to(run.parent)): pd.read_csv(path) for path in paths}


def _scored(run: Path, table: pd.DataFrame) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    labels = table["has_pneumothorax"].to_numpy()
    row: dict[str, Any] = {"images": len(table), "positives": int(labels.sum())}
    row |= classification_scores(labels, table["probability"].to_numpy())
    for name in ("mcc", "auc"):
        row[f"{name}_low"], row[f"{name}_high"] = _interval([table], name)
    seconds = pd.concat(histories(run).values())["seconds"].mean()
    return row | {"best_epoch": metrics.get("best_epoch", math.nan), "epoch_seconds": seconds}


def _interval(tables: list[pd.DataFrame], name: str) -> tuple[float, float]:
    """Of one table's score, or of how far the first table's exceeds the second's."""
    labels = tables[0]["has_pneumothorax"].to_numpy()
    columns = [table["probability"].to_numpy() for table in tables]

    def score(rows: Any) -> float:
        own, *other = (classification_scores(labels[rows], column[rows])[name] for column in columns)
        return own - other[0] if other else own

    low, high = bootstrap_interval(score, patient_groups(tables[0]))
    return float(low), float(high)


def metrics_of(run: Path) -> dict[str, Any]:
    """What a finished run's `metrics.json` holds; empty if it has none."""
    path = run / "metrics.json"
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return metrics


def _averaged(values: Mapping[str, Any], prefix: str) -> str:
    """Name the average of some epochs."""
    start, end, every = (values.get(f"{prefix}{name}") for name in ("start_epoch", "end_epoch", "every"))
    window = f"epochs {start} to {end}" + (f", every {every}" if every not in (None, 1) else "")
    return f"average of {window}" if start else "average"
