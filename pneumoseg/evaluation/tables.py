"""Tables of scores computed from cases, with 95% bootstrap intervals over patients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pneumoseg.evaluation.bootstrap import bootstrap_interval, bootstrap_means
from pneumoseg.evaluation.cases import ERROR_CAUSES, dice_of
from pneumoseg.evaluation.estimate import estimates
from pneumoseg.evaluation.pixel_counts import PixelCounts
from pneumoseg.geometry import REFERENCE_PIXELS
from pneumoseg.scores import (
    calibration_error,
    classification_scores,
    matthews_correlation,
    sensitivity_at_specificity,
)

BASELINE = "all-empty baseline"
"""Name of the baseline's row: no mask is predicted for any image."""

# At 1024 x 1024; the first bound is the smallest area that the paper keeps.
_SIZES = ("none", "under 3500 px", "3500 to 9999 px", "10000 to 29999 px", "30000 px or more")
_SIZE_BOUNDS = (3500, 10000, 30000)
_AGES = ("under 18", "18 to 39", "40 to 59", "60 to 79", "80 or more", "unknown")
_AGE_BOUNDS = (18, 40, 60, 80)


def score_variants(variants: Mapping[str, pd.DataFrame], groups: np.ndarray) -> pd.DataFrame:
    """Score variants of the pipeline as the competition does, next to the all-empty baseline (section 4.2).

    Args:
        variants: Cases of each variant by name, all of the same images, see `score_cases`.
        groups: (n,), the resampling unit of each image, see `patient_groups`.

    Returns:
        One row per variant, and one for the baseline. Each score is an `Estimate`:

        - `mean_dice`: the competition's score. An image with both masks empty counts 1. The mean F1 is the same number.
        - `gain`: the difference of `mean_dice` from the baseline's.
        - `dice_positives`, `dice_negatives`: mean Dice over one class.
        - `iou`, `f2`: means over images.
        - `predicted`: the fraction of images with a predicted mask.

        `unreadable` is the number of images that could not be read, which are scored as predicted empty.

    Example:
        >>> case = {"positive": True, "dice": 0.8, "iou": 2 / 3, "f2": 0.8, "predicted_px": 9, "outcome": "found"}
        >>> score_variants({"staged": pd.DataFrame([case])}, np.arange(1))["mean_dice"].tolist()
        [Estimate(value=0.8, low=0.8, high=0.8), Estimate(value=0.0, low=0.0, high=0.0)]
    """
    positive = next(iter(variants.values()))["positive"].to_numpy()
    empty = pd.DataFrame({"positive": positive, "predicted_px": 0, "outcome": ""})
    empty = empty.assign(**dict.fromkeys(("dice", "iou", "f2"), (~positive).astype(float)))
    rows = [_scores(cases, groups) for cases in (*variants.values(), empty)]
    return pd.DataFrame(rows, index=[*variants, BASELINE])


def paired_differences(variants: Mapping[str, pd.DataFrame], reference: str, groups: np.ndarray) -> pd.DataFrame:
    """Compare the mean Dice of one variant with each of the others, on the same resamples of patients.

    Args:
        variants: Cases of each variant by name, all of the same images, see `score_cases`.
        reference: Name of the variant that is compared with the others.
        groups: (n,), the resampling unit of each image, see `patient_groups`.

    Returns:
        One row per other variant: `difference`, an `Estimate` of the reference's mean Dice minus the other's.

    Example:
        >>> ours, other = pd.DataFrame({"dice": [0.75]}), pd.DataFrame({"dice": [0.5]})
        >>> paired_differences({"ours": ours, "other": other}, "ours", np.arange(1)).loc["other", "difference"]
        Estimate(value=0.25, low=0.25, high=0.25)
    """
    others = [name for name in variants if name != reference]
    dice = variants[reference]["dice"].to_numpy()
    differences = np.stack([dice - variants[name]["dice"].to_numpy() for name in others], axis=1)
    cells = estimates(differences.mean(axis=0), *bootstrap_means(differences, groups))
    return pd.DataFrame({"difference": cells}, index=pd.Index(others, name="compared with"))


def score_classifier(cases: pd.DataFrame, threshold: float, groups: np.ndarray) -> pd.DataFrame:
    """Score the classifier on the images that could be read.

    Args:
        cases: One row per image with `positive` and `probability`, with or without a true mask.
        threshold: Probability above which an image is positive.
        groups: (n,), the resampling unit of each image, see `patient_groups`.

    Returns:
        One row per score with `value`, an `Estimate`: the scores of `classification_scores`, the sensitivity at a
        specificity of 0.90 and 0.95, the mean squared error (Brier 1950), and the expected calibration error, which has
        no interval. No row if no image could be read.
    """
    known = cases["probability"].notna().to_numpy()
    labels = cases["positive"].to_numpy()[known]
    probabilities = cases["probability"].to_numpy()[known]
    if not labels.size:
        return pd.DataFrame(columns=["value"])

    values = _classifier_scores(labels, probabilities, threshold)
    # Sorting takes most of the time, so the rows come sorted. Only sums of fractions depend on their order.
    order = np.argsort(probabilities, kind="stable")
    rank = np.argsort(order)
    squares = (probabilities - labels) ** 2

    def scores(rows: np.ndarray) -> np.ndarray:
        ranked = order[np.sort(rank[rows])]
        found = _classifier_scores(labels[ranked], probabilities[ranked], threshold)
        return np.array(list((found | {"Brier score": float(np.mean(squares[rows]))}).values()))

    low, high = bootstrap_interval(scores, groups[known])
    # The calibration error of a resample is greater than that of the set, so its quantiles are not an interval.
    low[-1] = high[-1] = np.nan
    return pd.DataFrame({"value": estimates(values.values(), low, high)}, index=list(values))


def error_breakdown(cases: pd.DataFrame) -> pd.DataFrame:
    """Attribute the missing mean Dice, 1 - mean Dice, to causes.

    Args:
        cases: One row per image, see `score_cases`.

    Returns:
        One row per cause of `ERROR_CAUSES`, and `total`: `missing_dice` (the parts add up to the total) and `images`,
        the number of images that miss Dice for this cause.
    """
    missing = np.stack([cases[f"missing_dice {cause}"].to_numpy() for cause in ERROR_CAUSES], axis=1)
    columns = {"missing_dice": missing.mean(axis=0), "images": (missing > 0).sum(axis=0)}
    table = pd.DataFrame(columns, index=list(ERROR_CAUSES))
    table.loc["total"] = [table["missing_dice"].sum(), int((cases["dice"] < 1).sum())]
    return table.astype({"images": int})


def subgroups(cases: pd.DataFrame, manifest: pd.DataFrame, groups: np.ndarray) -> pd.DataFrame:
    """Score subgroups of the images: by size of the true mask, view, sex and age.

    Args:
        cases: One row per image, see `score_cases`.
        manifest: The same images, see `index_dataset`.
        groups: (n,), the resampling unit of each image, see `patient_groups`.

    Returns:
        One row per subgroup that has images: `by`, `subgroup`, `images`, `positives`, `mean_dice` (an `Estimate`),
        `baseline` (mean Dice of the all-empty baseline), `dice_positives`, `recall` (fraction of the positives with a
        predicted mask) and `specificity` (fraction of the negatives without one); NaN if a class is missing.
    """
    columns = {
        "size of the true mask": pd.Categorical(_size_bands(manifest), _SIZES, ordered=True),
        "view": manifest["view"].replace("", "unknown").to_numpy(str),
        "sex": manifest["sex"].replace("", "unknown").to_numpy(str),
        "age": pd.Categorical(_age_bands(manifest["age"].to_numpy(float)), _AGES, ordered=True),
    }
    rows = [
        {"by": by, "subgroup": subgroup, **_subgroup_scores(chosen, groups[chosen.index])}
        for by, column in columns.items()
        for subgroup, chosen in cases.groupby(pd.Series(column, index=cases.index), observed=True)
    ]
    return pd.DataFrame(rows)


def area_sweep(
    counts: PixelCounts, threshold: float, areas: Sequence[float], gated_in: np.ndarray, groups: np.ndarray
) -> pd.DataFrame:
    """Score minimum areas of a component (table 2).

    Args:
        counts: Pixel counts at the threshold and the areas.
        threshold: Mask threshold in [0, 1].
        areas: Minimum areas in pixels of the grid that the counts were taken on.
        gated_in: bool (n,), whether each image is segmented.
        groups: (n,), the resampling unit of each image, see `patient_groups`.

    Returns:
        One row per area: `area`, and `mean_dice`, an `Estimate`.
    """
    dice = np.stack([_gated_dice(counts, threshold, area, gated_in) for area in areas], axis=1)
    return pd.DataFrame(
        {"area": list(areas), "mean_dice": estimates(dice.mean(axis=0), *bootstrap_means(dice, groups))}
    )


def threshold_sweep(counts: PixelCounts, area: float, gated_in: np.ndarray) -> pd.DataFrame:
    """Score mask thresholds.

    Args:
        counts: Pixel counts at the area and all thresholds to score.
        area: Minimum area of a component in pixels of the grid that the counts were taken on.
        gated_in: bool (n,), whether each image is segmented.

    Returns:
        One row per threshold: `threshold`, ascending, and `mean_dice`.
    """
    dice = [_gated_dice(counts, threshold, area, gated_in).mean() for threshold in counts.thresholds]
    return pd.DataFrame({"threshold": counts.thresholds, "mean_dice": dice})


def classifier_sweep(segmented: pd.DataFrame, classified: pd.DataFrame) -> pd.DataFrame:
    """Score thresholds of the classifier, one at each probability that occurs.

    Args:
        segmented: Cases where all images are segmented, see `score_cases` with `use_classifier=False`.
        classified: One row per image with `positive` and `probability`: the same images, and those with a label alone.

    Returns:
        One row per threshold: `threshold`, ascending, `mean_dice` (of the segmented images) and `mcc` (of all images).
    """
    known, classified = (
        table[table["probability"].notna()].sort_values("probability", ascending=False)
        for table in (segmented, classified)
    )
    if classified.empty:
        return pd.DataFrame(columns=["threshold", "mean_dice", "mcc"])
    total = len(segmented)
    empty = (~segmented["positive"]).to_numpy(float)
    gained = np.cumsum(known["dice"].to_numpy() - (~known["positive"]).to_numpy(float))
    thresholds = np.unique(-classified["probability"].to_numpy())
    # The images above a probability are those before the first one that has it.
    above, seen = (np.searchsorted(-table["probability"].to_numpy(), thresholds) for table in (known, classified))
    labels = classified["positive"].to_numpy()
    tp = np.concatenate([[0], np.cumsum(labels)])[seen]
    table = pd.DataFrame(
        {
            "threshold": -thresholds,
            "mean_dice": (empty.sum() + np.concatenate([[0.0], gained])[above]) / total,
            "mcc": matthews_correlation(tp, seen - tp, labels.sum() - tp, (~labels).sum() - (seen - tp)),
        }
    )
    return table.sort_values("threshold", ignore_index=True)


def _gated_dice(counts: PixelCounts, threshold: float, area: float, gated_in: np.ndarray) -> np.ndarray:
    pixels, overlap = (np.where(gated_in, each, 0) for each in counts.at(threshold, area))
    return dice_of(pixels, overlap, counts.truth)


def _scores(cases: pd.DataFrame, groups: np.ndarray) -> dict[str, Any]:
    positive, dice = cases["positive"].to_numpy(), cases["dice"].to_numpy(float)
    scores = {
        "mean_dice": dice,
        "gain": dice - ~positive,
        "dice_positives": np.where(positive, dice, np.nan),
        "dice_negatives": np.where(positive, np.nan, dice),
        "iou": cases["iou"].to_numpy(float),
        "f2": cases["f2"].to_numpy(float),
        "predicted": (cases["predicted_px"] > 0).to_numpy(float),
    }
    known = [values[~np.isnan(values)] for values in scores.values()]
    means = [values.mean() if values.size else np.nan for values in known]
    cells = estimates(means, *bootstrap_means(np.stack(list(scores.values()), axis=1), groups))
    unreadable = int((cases["outcome"] == "unreadable").sum())
    return dict(zip(scores, cells, strict=True)) | {"unreadable": unreadable}


def _subgroup_scores(cases: pd.DataFrame, groups: np.ndarray) -> dict[str, Any]:
    positive, predicted = cases["positive"], cases["predicted_px"] > 0
    (mean_dice,) = estimates([cases["dice"].mean()], *bootstrap_means(cases[["dice"]].to_numpy(), groups))
    return {
        "images": len(cases),
        "positives": int(positive.sum()),
        "mean_dice": mean_dice,
        "baseline": 1 - positive.mean(),
        "dice_positives": cases["dice"][positive].mean(),
        "recall": predicted[positive].mean(),
        "specificity": 1 - predicted[~positive].mean(),
    }


def _classifier_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    return classification_scores(labels, probabilities, threshold) | {
        "sensitivity at specificity 0.90": sensitivity_at_specificity(labels, probabilities, 0.90),
        "sensitivity at specificity 0.95": sensitivity_at_specificity(labels, probabilities, 0.95),
        "Brier score": float(np.mean((probabilities - labels) ** 2)),
        "expected calibration error": calibration_error(labels, probabilities),
    }


def _size_bands(manifest: pd.DataFrame) -> np.ndarray:
    area = manifest["area_px"] * REFERENCE_PIXELS / (manifest["rows"] * manifest["columns"])
    bands = 1 + np.searchsorted(_SIZE_BOUNDS, area, "right")
    return np.array(_SIZES)[np.where(area > 0, bands, 0)]


def _age_bands(ages: np.ndarray) -> np.ndarray:
    bands = np.array(_AGES)[np.searchsorted(_AGE_BOUNDS, ages, "right")]
    return np.where(np.isnan(ages), _AGES[-1], bands)
