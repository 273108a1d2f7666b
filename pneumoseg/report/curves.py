"""A run's history as curves (figures 3 and 4 of the paper)."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure


def draw_curves(
    history: pd.DataFrame,
    monitor: str,
    *,
    averaged: Sequence[int] = (),
    learning_rates: pd.DataFrame | None = None,
) -> Figure:
    """Draw losses and the monitored metric by epoch, the best epoch marked, the learning rate below.

    Args:
        history: One row an epoch with `epoch`, `learning_rate`, `loss`, `val_loss`, and the metric with and without
            `val_`.
        monitor: The metric's name without `val_`, e.g. "mcc". The first epoch with its greatest validation value is
            marked by a vertical line.
        averaged: The epochs whose weights are averaged, marked by red lines: the first and the last of a window (figure
            4), each one where there are others between.
        learning_rates: `epoch`, where 2.5 is the middle of the third, and `learning_rate`, for one that changes within
            an epoch; None draws the history's.
    """
    best_epoch = history["epoch"].iloc[best_row(history, monitor)]
    figure = Figure(figsize=(8, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    twin = top.twinx()
    epochs = history["epoch"]
    for axes, name, colour in ((top, "loss", "#009e73"), (twin, monitor, "#e69f00")):
        axes.plot(epochs, history[name], color=colour, label=f"training {name}")
        axes.plot(epochs, history[f"val_{name}"], color=colour, linestyle=":", marker=".", label=f"validation {name}")
        axes.set_ylabel(name)
    top.axvline(best_epoch, color="black", linewidth=1, label=f"best epoch ({best_epoch})")
    in_a_row = list(averaged) == list(range(min(averaged, default=0), max(averaged, default=-1) + 1))
    shown, between = ([averaged[0], averaged[-1]], " to ") if averaged and in_a_row else (list(averaged), ", ")
    for number, epoch in enumerate(shown):
        label = "_" if number else f"averaged epochs ({between.join(map(str, shown))})"
        top.axvline(epoch, color="#d62728", linewidth=1, label=label)
    lines = [*top.get_lines(), *twin.get_lines()]
    lines = [line for line in lines if not str(line.get_label()).startswith("_")]
    figure.legend(lines, [str(line.get_label()) for line in lines], loc="outside upper center", ncols=3, fontsize=8)
    if learning_rates is None:
        bottom.step(epochs, history["learning_rate"], where="mid", color="#0072b2")
    else:
        # An epoch's values stand at its number, so that it reaches from half before it to half behind it.
        bottom.plot(learning_rates["epoch"] + 0.5, learning_rates["learning_rate"], color="#0072b2")
    bottom.set_yscale("log")
    # A cosine ends near 0, which would leave no room for the rest.
    bottom.set_ylim(bottom=max(float(history["learning_rate"].max()) * 1e-4, bottom.get_ylim()[0]))
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    return figure


def best_row(history: pd.DataFrame, monitor: str) -> int:
    """The position of the first epoch with the greatest validation value; NaN is less than any number."""
    return int(history[f"val_{monitor}"].fillna(-math.inf).argmax())
