"""Curves of a run's history (figures 3 and 4 of the paper)."""

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
    """Draw losses and the monitored metric by epoch with the best epoch marked, and the learning rate below.

    Args:
        history: Table with `epoch`, `learning_rate`, `loss`, `val_loss`, and the metric with and without `val_`, one
            row per epoch.
        monitor: Name of the metric without `val_`, such as "mcc". A vertical line marks the first epoch with the
            greatest validation value.
        averaged: Epochs whose weights are averaged, marked by red lines: the first and the last of a window (figure
            4), or each one if they are not consecutive.
        learning_rates: Table with `epoch`, where 2.5 is the middle of the third epoch, and `learning_rate`, for rates
            that change within an epoch; None draws the rates of the history.

    Example:
        >>> draw_curves(run.history(), "iou", averaged=range(13, 17)).savefig("curves.png")  # doctest: +SKIP
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
        # An epoch's values are drawn at its number, so it reaches from half an epoch before it to half an epoch after.
        bottom.plot(learning_rates["epoch"] + 0.5, learning_rates["learning_rate"], color="#0072b2")
    bottom.set_yscale("log")
    # A cosine ends near 0, which would leave no room for the other rates.
    bottom.set_ylim(bottom=max(float(history["learning_rate"].max()) * 1e-4, bottom.get_ylim()[0]))
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    return figure


def best_row(history: pd.DataFrame, monitor: str) -> int:
    """Return the position of the first epoch with the greatest validation value; NaN is less than any number."""
    return int(history[f"val_{monitor}"].fillna(-math.inf).argmax())
