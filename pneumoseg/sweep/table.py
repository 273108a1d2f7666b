"""The table of a sweep: one row per trial, the best first, the failed ones last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pneumoseg.atomic_write import atomic_write
from pneumoseg.evaluation import table_columns
from pneumoseg.report.comparison import compare_runs, draw_comparison
from pneumoseg.sweep.sweep_file import Trial
from pneumoseg.training.run import Run

_SCORES = ("val_mcc", "val_iou", "swa_val_iou")
_DRAWN = 6  # runs in one picture, as many as `draw_comparison` has colours


def sweep_table(trials: Sequence[Trial], out: str | Path, failures: Mapping[str, str]) -> pd.DataFrame:
    """Compare the trials of a sweep on their validation images.

    Args:
        trials: Trials, each finished or failed.
        out: Folder of their runs.
        failures: Reason of each trial that failed, by name.

    Returns:
        One row per trial, indexed by name, by falling score and with the failed ones last: the varied values as text;
        `best_epoch` as text, of a cross-validation that of each fold; the score; `failure`, empty if there is none.
        The score of a classifier is `val_mcc` at a threshold of 0.5, of a cross-validation that of all out-of-fold
        predictions together, with the bounds of its 95% interval in `val_mcc_low` and `val_mcc_high`; if all trials
        were validated on the same images, `mcc_gain`, with its bounds, is the gain over the best trial, see
        `compare_runs`. The score of a segmenter is `val_iou`, of a cross-validation the mean over the folds;
        `swa_val_iou` is that of its averaged weights, if there are any.

    Example:
        >>> sweep_table(trials, "runs/sweep", {})["val_mcc"]  # doctest: +SKIP
    """
    values = pd.DataFrame(
        [{key: str(value) for key, value in trial.values.items()} for trial in trials],
        index=pd.Index([trial.name for trial in trials], name="trial"),
    )
    scores = _scores([Run(Path(out) / trial.name) for trial in trials if trial.name not in failures])
    table = values.loc[[*scores.index, *failures]].join(scores)
    return table.assign(failure=[failures.get(name, "") for name in table.index])


def write_table(table: pd.DataFrame, out: str | Path) -> list[Path]:
    """Write the table of a sweep as `sweep.csv`, and the curves of the best classifiers as `sweep.png`.

    Args:
        table: Table of the trials, see `sweep_table`.
        out: Folder of their runs.

    Returns:
        The files written.
    """
    written, best = [Path(out) / "sweep.csv"], list(table.index[table["failure"] == ""][:_DRAWN])
    with atomic_write(written[0]) as temporary:
        table.to_csv(temporary)
    if best and "val_mcc" in table:
        written.append(Path(out) / "sweep.png")
        with atomic_write(written[1]) as temporary:
            draw_comparison([Path(out) / name for name in best]).savefig(temporary, dpi=120, format="png")
    return written


def describe_table(table: pd.DataFrame) -> str:
    """Return the table of a sweep for a terminal, with the reasons of failures below, and what its best score is worth.

    Args:
        table: Table of the trials, see `sweep_table`.
    """
    failed = table["failure"] != ""
    shown = table.drop(columns="failure").assign(**{"": ["FAILED" if one else "" for one in failed]})
    lines = [shown.to_string(index=False, float_format="{:.4f}".format, na_rep="")]
    lines += [f"FAILED: {name}: {reason}" for name, reason in table.loc[failed, "failure"].items()]
    finished = int((~failed).sum())
    if finished > 1:
        lines.append(
            f"The best of {finished} trials was chosen on the images that it is scored on, so its score is too good an "
            "estimate: score it on images that no trial has seen"
        )
    return "\n".join(lines)


def _scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Return best epochs and scores of finished runs, the best one first."""
    index = pd.Index([run.folder.name for run in runs], name="trial")
    table = pd.DataFrame([_score(run.metrics()) for run in runs], index=index)
    if table.empty:
        return table
    score = table.columns[1]
    table = table.sort_values(score, ascending=False, kind="stable")
    if score != "val_mcc":
        return table
    folders = {run.folder.name: run.folder for run in runs}
    compared = compare_runs([folders[name] for name in table.index])
    estimates = compared[[name for name in ("mcc", "mcc_gain") if name in compared]]
    return table[["best_epoch"]].join(table_columns(estimates.rename(columns={"mcc": "val_mcc"})))


def _score(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best epoch and the scores from the metrics of a training or a cross-validation."""
    folds = metrics.get("folds", [metrics])
    row: dict[str, Any] = {"best_epoch": " ".join(str(fold["best_epoch"]) for fold in folds)}
    if "mcc" in metrics:  # of all out-of-fold predictions together
        return row | {"val_mcc": metrics["mcc"]}
    scores = pd.DataFrame(folds).astype(float)
    return row | {name: scores[name].mean() for name in _SCORES if name in scores}
