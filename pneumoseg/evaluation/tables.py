"""Cases to the tables that a report shows, each score with the interval of a bootstrap over patients."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pneumoseg.evaluation.bootstrap import bootstrap_interval, bootstrap_means
from pneumoseg.evaluation.cases import LOSSES, dice_of
from pneumoseg.evaluation.measures import Measures
from pneumoseg.geometry import REFERENCE_PIXELS
from pneumoseg.scores import (
    calibration_error,
    classification_scores,
    matthews_correlation,
    sensitivity_at_specificity,
)

FLOOR = "all empty"
# At 1024 x 1024; the first bound is the smallest area that the paper keeps.
_SIZES = ("none", "under 3500 px", "3500 to 9999 px", "10000 to 29999 px", "30000 px or more")
_SIZE_BOUNDS = (3500, 10000, 30000)
_AGES = ("under 18", "18 to 39", "40 to 59", "60 to 79", "80 or more", "unknown")
_AGE_BOUNDS = (18, 40, 60, 80)


def score_arms(arms: Mapping[str, pd.DataFrame], groups: np.ndarray) -> pd.DataFrame:
    """Score several ways to decide as the competition does, beside the floor of predicting nothing (section 4.2).

    Args:
        arms: Cases by the name of the arm, all of the same images, see `decide`.
        groups: (n,), see `patient_groups`.

    Returns:
        One row an arm, and the floor. `mean_dice` is the competition's score (an image with both masks empty counts 1;
        the mean F1 is the same number), `gain` how far it lies above the floor, `dice_positives` and `dice_negatives`
        the same over one class, `iou` and `f2` likewise means over images, `predicted` the share of images with a
        predicted mask; each with `_low` and `_high`, the bounds of its 95% interval. `unreadable` counts the images
        that could not be read, which are scored as predicted empty.
    """
    positive = next(iter(arms.values()))["positive"].to_numpy()
    rows = {name: _arm(cases, groups) for name, cases in arms.items()}
    empty = pd.DataFrame({"positive": positive, "predicted_px": 0, "outcome": ""})
    empty = empty.assign(**dict.fromkeys(("dice", "iou", "f2"), (~positive).astype(float)))
    return pd.DataFrame.from_dict(rows | {FLOOR: _arm(empty, groups)}, "index").astype({"unreadable": int})


def gains_over(arms: Mapping[str, pd.DataFrame], reference: str, groups: np.ndarray) -> pd.DataFrame:
    """Compare the mean Dice of each arm with one of them, on the same resamples of patients.

    Returns:
        One row another arm: `gain`, `gain_low` and `gain_high` of the reference over it.
    """
    others = [name for name in arms if name != reference]
    gains = np.stack([arms[reference]["dice"].to_numpy() - arms[name]["dice"].to_numpy() for name in others], axis=1)
    low, high = bootstrap_means(gains, groups)
    return pd.DataFrame(
        {"gain": gains.mean(axis=0), "gain_low": low, "gain_high": high}, index=pd.Index(others, name="over")
    )


def score_classifier(cases: pd.DataFrame, threshold: float, groups: np.ndarray) -> pd.DataFrame:
    """Score the classifier on the images that could be read.

    Args:
        cases: See `decide`.
        threshold: Above which an image is positive.
        groups: (n,), see `patient_groups`.

    Returns:
        One row a score, with `value`, `low` and `high`: those of `classification_scores`, the sensitivity at a
        specificity of .9 and .95, the mean squared error (Brier 1950) and the expected calibration error, this one
        without bounds.
    """
    known = cases["probability"].notna().to_numpy()
    labels = cases["positive"].to_numpy()[known]
    probabilities = cases["probability"].to_numpy()[known]
    if not labels.size:
        return pd.DataFrame(columns=["value", "low", "high"])

    def scores(rows: np.ndarray) -> np.ndarray:
        return np.array(list(_classifier_scores(labels[rows], probabilities[rows], threshold).values()))

    names = list(_classifier_scores(labels, probabilities, threshold))
    low, high = bootstrap_interval(scores, groups[known])
    # A resample's calibration error is greater than the set's own, so that its quantiles are no interval.
    low[-1] = high[-1] = np.nan
    return pd.DataFrame({"value": scores(np.arange(labels.size)), "low": low, "high": high}, index=names)


def lost_dice(cases: pd.DataFrame) -> pd.DataFrame:
    """Say where the Dice that is missing from 1 went.

    Returns:
        One row a cause of `LOSSES`, and `total`, which is 1 - mean Dice: `lost`, in units of mean Dice; `images`, how
        many lost something so.
    """
    lost = np.stack([cases[f"lost {name}"].to_numpy() for name in LOSSES], axis=1)
    table = pd.DataFrame({"lost": lost.mean(axis=0), "images": (lost > 0).sum(axis=0)}, index=list(LOSSES))
    table.loc["total"] = [table["lost"].sum(), int((cases["dice"] < 1).sum())]
    return table.astype({"images": int})


def strata(cases: pd.DataFrame, manifest: pd.DataFrame, groups: np.ndarray) -> pd.DataFrame:
    """Score by size of the true mask, view, sex and age.

    Returns:
        One row a stratum that has images: `by`, `stratum`, `images`, `positives`, `mean_dice` with bounds, `floor`
        (what predicting nothing scores there), `dice_positives`, `recall` (the share of positives with a predicted
        mask) and `specificity` (of negatives without); NaN where a class is missing.
    """
    columns = {
        "size of the true mask": pd.Categorical(_size_bands(manifest), _SIZES, ordered=True),
        "view": manifest["view"].replace("", "unknown").to_numpy(str),
        "sex": manifest["sex"].replace("", "unknown").to_numpy(str),
        "age": pd.Categorical(_age_bands(manifest["age"].to_numpy(float)), _AGES, ordered=True),
    }
    rows = []
    for by, column in columns.items():
        for stratum, chosen in cases.groupby(pd.Series(column, index=cases.index), observed=True):
            positive, drawn = chosen["positive"], chosen["predicted_px"] > 0
            low, high = bootstrap_means(chosen[["dice"]].to_numpy(), groups[chosen.index])
            rows.append(
                {
                    "by": by,
                    "stratum": stratum,
                    "images": len(chosen),
                    "positives": int(positive.sum()),
                    "mean_dice": chosen["dice"].mean(),
                    "mean_dice_low": low[0],
                    "mean_dice_high": high[0],
                    "floor": 1 - positive.mean(),
                    "dice_positives": chosen["dice"][positive].mean(),
                    "recall": drawn[positive].mean(),
                    "specificity": 1 - drawn[~positive].mean(),
                }
            )
    return pd.DataFrame(rows)


def area_sweep(
    measures: Measures, threshold: float, areas: Sequence[float], asked: np.ndarray, groups: np.ndarray
) -> pd.DataFrame:
    """Score smallest areas of a component (table 2).

    Args:
        measures: Must hold the threshold and the areas.
        threshold: Of the mask.
        areas: In pixels of the grid that the measures were taken on.
        asked: bool (n,), the images that are segmented.
        groups: (n,), see `patient_groups`.

    Returns:
        One row an area: `area`, `mean_dice`, `mean_dice_low`, `mean_dice_high`.
    """
    dice = np.stack([_gated(*measures.at(threshold, area), measures.truth, asked) for area in areas], axis=1)
    low, high = bootstrap_means(dice, groups)
    return pd.DataFrame(
        {"area": list(areas), "mean_dice": dice.mean(axis=0), "mean_dice_low": low, "mean_dice_high": high}
    )


def threshold_sweep(measures: Measures, area: float, asked: np.ndarray) -> pd.DataFrame:
    """Mean Dice by the mask's threshold: `threshold`, `mean_dice`; arguments as `area_sweep`."""
    dice = [_gated(*measures.at(value, area), measures.truth, asked).mean() for value in measures.thresholds]
    return pd.DataFrame({"threshold": measures.thresholds, "mean_dice": dice})


def classifier_sweep(cases_alone: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice and MCC by the classifier's threshold, at each probability that occurs.

    Args:
        cases_alone: Cases without a classifier: what each image scores where it is segmented.

    Returns:
        `threshold`, ascending, `mean_dice`, `mcc`.
    """
    known = cases_alone[cases_alone["probability"].notna()].sort_values("probability", ascending=False)
    if known.empty:
        return pd.DataFrame(columns=["threshold", "mean_dice", "mcc"])
    total = len(cases_alone)
    empty = (~cases_alone["positive"]).to_numpy(float)
    gained = np.cumsum(known["dice"].to_numpy() - (~known["positive"]).to_numpy(float))
    thresholds, last = np.unique(-known["probability"].to_numpy(), return_index=True)
    # Above a probability are the images in front of the first that has it.
    gain = np.concatenate([[0.0], gained])[last]
    labels = known["positive"].to_numpy()
    tp, seen = np.concatenate([[0], np.cumsum(labels)])[last], last
    table = pd.DataFrame(
        {
            "threshold": -thresholds,
            "mean_dice": (empty.sum() + gain) / total,
            "mcc": matthews_correlation(tp, seen - tp, labels.sum() - tp, (~labels).sum() - (seen - tp)),
        }
    )
    return table.sort_values("threshold", ignore_index=True)


def _gated(pixels: np.ndarray, overlap: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return dice_of(np.where(asked, pixels, 0), np.where(asked, overlap, 0), truth)


def _arm(cases: pd.DataFrame, groups: np.ndarray) -> dict[str, float]:
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
    lows, highs = bootstrap_means(np.stack(list(scores.values()), axis=1), groups)
    row: dict[str, float] = {}
    for (name, values), low, high in zip(scores.items(), lows, highs, strict=True):
        known = values[~np.isnan(values)]
        row[name] = known.mean() if known.size else np.nan
        row[f"{name}_low"], row[f"{name}_high"] = low, high
    return row | {"unreadable": int((cases["outcome"] == "unreadable").sum())}


def _classifier_scores(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    return classification_scores(labels, probabilities, threshold) | {
        "sensitivity at specificity .90": sensitivity_at_specificity(labels, probabilities, 0.90),
        "sensitivity at specificity .95": sensitivity_at_specificity(labels, probabilities, 0.95),
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
