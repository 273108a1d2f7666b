"""Comparison of runs: scores with intervals, and curves."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pneumoseg.data.patients import patient_groups
from pneumoseg.evaluation import Estimate
from pneumoseg.evaluation.bootstrap import bootstrap_interval
from pneumoseg.report.curves import best_row
from pneumoseg.scores import classification_scores, matthews_correlation
from pneumoseg.training.run import Run

# Okabe and Ito's palette, dark enough for lines on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def compare_runs(runs: Sequence[str | Path]) -> pd.DataFrame:
    """Score the validation predictions of finished classifier runs.

    Args:
        runs: Folders of the runs. Of a cross-validated run all out-of-fold predictions are scored together.

    Returns:
        One row per run, named by its folder: `images`, `positives`, the scores of `classification_scores` at a
        threshold of 0.5, with `mcc` and `auc` as `Estimate` (95% bootstrap intervals over patients), `best_epoch` (NaN
        if cross-validated) and the mean `epoch_seconds`. If all runs were validated on the same images, there is also
        `mcc_gain`, the `Estimate` of the gain over the first run from the same resamples.

    Raises:
        ValueError: If a folder holds no finished classifier run.

    Example:
        >>> compare_runs(["runs/augmentation", "runs/enrichment"])["mcc"]  # doctest: +SKIP
    """
    correlations = compare_correlations(runs)
    table = pd.DataFrame([_scored(Run(run)) for run in runs], index=correlations.index)
    return table.assign(**{str(name): column for name, column in correlations.items()})


def compare_correlations(runs: Sequence[str | Path]) -> pd.DataFrame:
    """Return the columns `mcc` and `mcc_gain` of `compare_runs` alone, which takes a small part of its time.

    Args:
        runs: Folders of the runs.

    Raises:
        ValueError: If a folder holds no finished classifier run.

    Example:
        >>> compare_correlations(["runs/augmentation", "runs/enrichment"])["mcc"]  # doctest: +SKIP
    """
    tables = [_predictions(Run(run)) for run in runs]
    first, rows = tables[0], [{"mcc": _estimate(_mcc, table)} for table in tables]
    if all(table["image_id"].equals(first["image_id"]) for table in tables):
        for row, table in zip(rows, tables, strict=True):
            row["mcc_gain"] = _estimate(_mcc, table, first)
    return pd.DataFrame(rows, index=pd.Index([Path(run).name for run in runs], name="run"))


def segmenter_scores(runs: Sequence[str | Path]) -> pd.DataFrame:
    """Return the scores of epochs and averages of segmenter runs on their validation images (table 1).

    Args:
        runs: Folders of the runs; runs of classifiers are skipped.

    Returns:
        `run`, `weights`, `iou`, `f1` and `f2`, one row per epoch or average that the run has scores of; empty if no run
        is a segmenter's.

    Raises:
        FileNotFoundError: If there is no such folder.

    Example:
        >>> segmenter_scores(["runs/segmenter_window_swa"])  # doctest: +SKIP
    """
    rows = []
    for run in map(Run, runs):
        if not run.folder.is_dir():
            raise FileNotFoundError(f"{run.folder}: no such run")
        metrics = run.metrics()
        if "val_iou" not in metrics:
            continue
        last = run.history().iloc[-1]
        sources = {
            f"last epoch, {last['epoch']:.0f}": (last, "val_"),
            f"best epoch, {metrics['best_epoch']}": (metrics, "val_"),
            _averaged(metrics, "swa_"): (metrics, "swa_val_"),
        }
        for later in run.later_averages():
            sources[f"{_averaged(later, '')}, chosen later"] = (later, "val_")
        for weights, (values, prefix) in sources.items():
            if f"{prefix}iou" in values:
                scores = {name: float(values[f"{prefix}{name}"]) for name in ("iou", "f1", "f2")}
                rows.append({"run": run.folder.name, "weights": weights, **scores})
    return pd.DataFrame(rows)


def draw_comparison(runs: Sequence[str | Path]) -> Figure:
    """Draw the losses and MCCs of classifier runs by epoch, with the best epoch of each marked.

    Args:
        runs: Folders of the runs; of a cross-validated run each fold is drawn.

    Raises:
        ValueError: If a folder holds no history.

    Example:
        >>> draw_comparison(["runs/a", "runs/b"]).savefig("comparison.png")  # doctest: +SKIP
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


def histories(run: str | Path) -> dict[str, pd.DataFrame]:
    """Return the history of a run, or of each fold if it was cross-validated, by name.

    Raises:
        ValueError: If the folder holds no history.
    """
    parent = Path(run).parent
    return {str(each.folder.relative_to(parent)): each.history() for each in Run(run).trainings()}


def _predictions(run: Run) -> pd.DataFrame:
    return run.validation_predictions().sort_values("image_id", ignore_index=True)


def _scored(run: Run) -> dict[str, Any]:
    table = _predictions(run)
    labels = table["has_pneumothorax"].to_numpy()
    row: dict[str, Any] = {"images": len(table), "positives": int(labels.sum())}
    row |= classification_scores(labels, table["probability"].to_numpy())
    row["auc"] = _estimate(lambda *arrays: classification_scores(*arrays)["auc"], table)
    seconds = pd.concat(histories(run.folder).values())["seconds"].mean()
    return row | {"best_epoch": run.metrics().get("best_epoch", math.nan), "epoch_seconds": seconds}


def _mcc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the MCC of `classification_scores`, whose AUC takes a hundred times as long."""
    if np.isnan(probabilities).any():
        return math.nan
    predicted = probabilities > 0.5
    counts = (labels & predicted, ~labels & predicted, labels & ~predicted, ~labels & ~predicted)
    return float(matthews_correlation(*(np.count_nonzero(each) for each in counts)))


def _estimate(
    score: Callable[[np.ndarray, np.ndarray], float], table: pd.DataFrame, other: pd.DataFrame | None = None
) -> Estimate:
    """Return a table's score, or its gain over another table of the same images, with the interval."""
    labels = table["has_pneumothorax"].to_numpy()
    columns = [each["probability"].to_numpy() for each in (table, other) if each is not None]

    def value(rows: Any) -> float:
        own, *others = (score(labels[rows], column[rows]) for column in columns)
        return own - others[0] if others else own

    low, high = bootstrap_interval(value, patient_groups(table))
    return Estimate(value(slice(None)), float(low), float(high))


def _averaged(values: Mapping[str, Any], prefix: str) -> str:
    """Return a name for the average of some epochs."""
    start, end, every = (values.get(f"{prefix}{name}") for name in ("start_epoch", "end_epoch", "every"))
    window = f"epochs {start} to {end}" + (f", every {every}" if every not in (None, 1) else "")
    return f"average of {window}" if start else "average"
