"""The charts of a report, as SVG that takes the page's text colour and font, so that it reads in light and dark."""

import io

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumoseg.scores import classification_scores, reliability

# Okabe and Ito's palette: told apart by colour-blind readers, and seen on white and on near-black.
_BLUE, _ORANGE, _GREEN, _PINK = "#3f97cf", "#d98a00", "#009e73", "#cc79a7"
_GREY = "#888888"


def to_svg(figure: Figure, name: str) -> str:
    """Write a figure as an SVG element for a page.

    Args:
        figure: Black is replaced by the page's text colour, white by nothing.
        name: Keeps the ids of several figures on one page apart.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor").replace("#ffffff", "none")
    return text.replace('id="', f'id="{name}-').replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")


def draw_classifier(cases: pd.DataFrame, threshold: float) -> Figure:
    """ROC, precision and recall, and reliability; the classifier's threshold is marked.

    Args:
        cases: See `decide`; needs both classes among the images that could be read.
        threshold: The rule's.
    """
    known = cases[cases["probability"].notna()]
    labels, probabilities = known["positive"].to_numpy(), known["probability"].to_numpy()
    scores = classification_scores(labels, probabilities, threshold)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    roc, recall, calibration = figure.subplots(1, 3)
    false_alarms, found, _ = roc_curve(labels, probabilities)
    roc.plot(false_alarms, found, color=_BLUE)
    roc.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="chance")
    roc.plot(1 - scores["specificity"], scores["recall"], "o", color=_ORANGE, label=f"at {threshold:.2f}")
    _label(roc, f"ROC, area {scores['auc']:.3f}", "1 - specificity", "sensitivity")
    precision, recalled, _ = precision_recall_curve(labels, probabilities)
    recall.plot(recalled, precision, color=_BLUE, drawstyle="steps-post")
    recall.axhline(labels.mean(), color=_GREY, linestyle=":", label="chance")
    recall.plot(scores["recall"], scores["precision"], "o", color=_ORANGE, label=f"at {threshold:.2f}")
    _label(recall, "Precision and recall", "recall", "precision")
    bins = reliability(labels, probabilities)
    calibration.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="calibrated")
    calibration.plot(bins["probability"], bins["share"], color=_BLUE, marker="o")
    for row in bins.itertuples():
        calibration.annotate(
            str(row.images), (row.probability, row.share), textcoords="offset points", xytext=(4, -10), fontsize=7
        )
    _label(calibration, "Reliability (with images a bin)", "mean probability", "share of positives")
    for axes in (roc, recall, calibration):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.05)
    return figure


def draw_thresholds(
    classifier: pd.DataFrame, masks: pd.DataFrame, floor: float, classifier_threshold: float, mask_threshold: float
) -> Figure:
    """Mean Dice by the classifier's and by the mask's threshold, the rule's own marked, beside the floor."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(classifier["threshold"], classifier["mean_dice"], color=_BLUE, drawstyle="steps-post", label="mean Dice")
    left.plot(classifier["threshold"], classifier["mcc"], color=_PINK, drawstyle="steps-post", label="MCC")
    right.plot(masks["threshold"], masks["mean_dice"], color=_BLUE, marker=".", label="mean Dice")
    for axes, threshold in ((left, classifier_threshold), (right, mask_threshold)):
        axes.axhline(floor, color=_GREY, linestyle=":", label="all empty")
        axes.axvline(threshold, color=_ORANGE, linewidth=1, label=f"the rule's, {threshold:.2f}")
        axes.set_xlim(-0.02, 1.02)
    _label(left, "Classifier's threshold", "threshold", "")
    _label(right, "Mask's threshold", "threshold", "")
    return figure


def draw_areas(areas: pd.DataFrame, table_2: pd.DataFrame, floor: float, minimum_area: float) -> Figure:
    """Mean Dice by the smallest component kept, on both grids, with table 2's rows as points.

    Args:
        areas: `grid`, `area`, `mean_dice`, `mean_dice_low`, `mean_dice_high`.
        table_2: Likewise.
        floor: Mean Dice of predicting nothing.
        minimum_area: The rule's.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots()
    styles = ((_BLUE, "-"), (_GREEN, "--"))  # the curves often lie upon each other
    for (grid, sweep), (colour, line) in zip(areas.groupby("grid", sort=False), styles, strict=True):
        scale = (1024 / int(str(grid))) ** 2
        axes.plot(scale * sweep["area"], sweep["mean_dice"], line, color=colour, label=f"components at {grid} x {grid}")
        rows = table_2[table_2["grid"] == grid]
        axes.plot(scale * rows["area"], rows["mean_dice"], "o", color=colour, label="_")
        if grid == 1024:
            axes.fill_between(sweep["area"], sweep["mean_dice_low"], sweep["mean_dice_high"], color=colour, alpha=0.15)
    axes.axhline(floor, color=_GREY, linestyle=":", label="all empty")
    axes.axvline(minimum_area, color=_ORANGE, linewidth=1, label=f"the rule's, {minimum_area:g} px")
    _label(
        axes, "Smallest component kept (points: table 2's; band: 95% interval)", "pixels at 1024 x 1024", "mean Dice"
    )
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_lost(lost: pd.DataFrame) -> Figure:
    """Where the Dice that is missing from 1 went, a bar a cause; see `lost_dice`."""
    causes = lost.drop(index="total")
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(causes.index[::-1], causes["lost"].to_numpy()[::-1], color=_BLUE)
    axes.bar_label(bars, fmt="%.4f", padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("lost mean Dice")
    return figure


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def has_both_classes(cases: pd.DataFrame) -> bool:
    """Whether `draw_classifier` has what it needs."""
    labels = cases["positive"][cases["probability"].notna()]
    return bool(np.any(labels) and not np.all(labels))
