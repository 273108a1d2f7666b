"""Charts of a report, as SVG with the text colour and font of the page, readable in light and dark mode."""

import io

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumoseg.evaluation import table_columns
from pneumoseg.scores import classification_scores, reliability

# Okabe and Ito's palette, which colour-blind readers can tell apart, in shades that show on white and on near-black.
_BLUE, _ORANGE, _GREEN, _PINK = "#3f97cf", "#d98a00", "#009e73", "#cc79a7"
_GREY = "#888888"


def to_svg(figure: Figure, name: str) -> str:
    """Write a figure as an SVG element for a page.

    Args:
        figure: The figure. Black becomes the text colour of the page, and white becomes transparent.
        name: Prefix of the ids in the SVG, different for each figure of a page.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor").replace("#ffffff", "none")
    return text.replace('id="', f'id="{name}-').replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")


def plot_classifier(cases: pd.DataFrame, threshold: float) -> Figure:
    """Plot the ROC curve, precision against recall, and reliability of the classifier, with its threshold marked.

    Args:
        cases: One row per image with `positive` and `probability`; both classes must occur among the images that could
            be read.
        threshold: The classifier threshold of the rule.
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
    calibration.plot(bins["probability"], bins["positive_fraction"], color=_BLUE, marker="o")
    for row in bins.itertuples():
        calibration.annotate(
            str(row.images),
            (row.probability, row.positive_fraction),
            textcoords="offset points",
            xytext=(4, -10),
            fontsize=7,
        )
    _label(calibration, "Reliability (with images per bin)", "mean probability", "fraction of positives")
    for axes in (roc, recall, calibration):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.05)
    return figure


def plot_thresholds(
    classifier: pd.DataFrame, masks: pd.DataFrame, baseline: float, classifier_threshold: float, mask_threshold: float
) -> Figure:
    """Plot mean Dice by classifier threshold and by mask threshold, with the rule's own marked.

    Args:
        classifier: Scores by classifier threshold, see `classifier_sweep`.
        masks: Scores by mask threshold, see `threshold_sweep`.
        baseline: Mean Dice of the all-empty baseline.
        classifier_threshold: The classifier threshold of the rule.
        mask_threshold: The mask threshold of the rule.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(classifier["threshold"], classifier["mean_dice"], color=_BLUE, drawstyle="steps-post", label="mean Dice")
    left.plot(classifier["threshold"], classifier["mcc"], color=_PINK, drawstyle="steps-post", label="MCC")
    right.plot(masks["threshold"], masks["mean_dice"], color=_BLUE, marker=".", label="mean Dice")
    for axes, threshold in ((left, classifier_threshold), (right, mask_threshold)):
        axes.axhline(baseline, color=_GREY, linestyle=":", label="all-empty baseline")
        axes.axvline(threshold, color=_ORANGE, linewidth=1, label=f"rule: {threshold:.2f}")
        axes.set_xlim(-0.02, 1.02)
    _label(left, "Classifier threshold", "threshold", "")
    _label(right, "Mask threshold", "threshold", "")
    return figure


def plot_areas(areas: pd.DataFrame, table_2: pd.DataFrame, baseline: float, minimum_area: float) -> Figure:
    """Plot mean Dice by minimum area of a component, on both grids, with the rows of table 2 as points.

    Args:
        areas: Scores by area, see `Evaluation.areas`.
        table_2: Scores of the areas in table 2, see `Evaluation.table_2`.
        baseline: Mean Dice of the all-empty baseline.
        minimum_area: The minimum area of the rule, in pixels at 1024 x 1024.
    """
    areas, table_2 = table_columns(areas), table_columns(table_2)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots()
    styles = ((_BLUE, "-"), (_GREEN, "--"))  # the curves often overlap
    for (grid, sweep), (colour, line) in zip(areas.groupby("grid", sort=False), styles, strict=True):
        scale = (1024 / int(str(grid))) ** 2
        axes.plot(scale * sweep["area"], sweep["mean_dice"], line, color=colour, label=f"components at {grid} x {grid}")
        rows = table_2[table_2["grid"] == grid]
        axes.plot(scale * rows["area"], rows["mean_dice"], "o", color=colour, label="_")
        if grid == 1024:
            axes.fill_between(sweep["area"], sweep["mean_dice_low"], sweep["mean_dice_high"], color=colour, alpha=0.15)
    axes.axhline(baseline, color=_GREY, linestyle=":", label="all-empty baseline")
    axes.axvline(minimum_area, color=_ORANGE, linewidth=1, label=f"rule: {minimum_area:g} px")
    _label(
        axes, "Minimum area of a component (points: table 2; band: 95% interval)", "pixels at 1024 x 1024", "mean Dice"
    )
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_error_breakdown(breakdown: pd.DataFrame) -> Figure:
    """Plot the missing Dice by cause, one bar per cause.

    Args:
        breakdown: Missing Dice by cause, see `error_breakdown`.
    """
    causes = breakdown.drop(index="total")
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(causes.index[::-1], causes["missing_dice"].to_numpy()[::-1], color=_BLUE)
    axes.bar_label(bars, fmt="%.4f", padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("missing mean Dice")
    return figure


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def has_both_classes(cases: pd.DataFrame) -> bool:
    """Tell whether both classes occur among the images that could be read, as `plot_classifier` needs."""
    labels = cases["positive"][cases["probability"].notna()]
    return bool(np.any(labels) and not np.all(labels))
