"""Kept predictions and a rule to scores, tables and curves, always beside the floor of predicting nothing."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pneumoseg.data.patients import knows_all_patients, patient_groups
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation import tables
from pneumoseg.evaluation.bootstrap import bootstrap_means
from pneumoseg.evaluation.cases import decide, is_confident
from pneumoseg.evaluation.measures import Measures, measure
from pneumoseg.evaluation.tuning import THRESHOLDS
from pneumoseg.predictions import Predictions

# The areas that are swept, by the side of the grid on which components are looked for; table 2's are among them.
GRIDS = {1024: np.arange(0, 8001, 250.0).tolist(), 512: np.arange(0, 2001, 62.5).tolist()}
TABLE_2 = (
    (1024, 3500.0, 0.8347),
    (1024, 4500.0, 0.8329),
    (512, 750.0, 0.8328),
    (1024, 1750.0, 0.8318),
    (512, 250.0, 0.8307),
)
STAGED, SEGMENTED, TUNED = "staged + elimination", "segmentation + elimination", " (tuned)"


@dataclass(frozen=True)
class Evaluation:
    """All scores of a set of images.

    Attributes:
        predictions: What they rest on.
        rules: By the suffix of the arms' names: as assembled "", and " (tuned)" where the rule was chosen later.
        rule: The one in force.
        cases: One row an image, see `decide`.
        arms: See `score_arms`: with and without classifier, with and without elimination, for each rule.
        gains: See `gains_over`: of the pipeline over the other arms.
        classifier: See `score_classifier`.
        lost: See `lost_dice`.
        strata: See `tables.strata`.
        table_2: Smallest component by grid: `grid`, `area`, `mean_dice` with bounds, and `paper`, the paper's score.
        areas: The same in finer steps, with the best of each grid.
        mask_thresholds: See `threshold_sweep`.
        classifier_thresholds: See `classifier_sweep`.
    """

    predictions: Predictions
    rules: dict[str, DecisionRule]
    rule: DecisionRule
    cases: pd.DataFrame
    arms: pd.DataFrame
    gains: pd.DataFrame
    classifier: pd.DataFrame
    lost: pd.DataFrame
    strata: pd.DataFrame
    table_2: pd.DataFrame
    areas: pd.DataFrame
    mask_thresholds: pd.DataFrame
    classifier_thresholds: pd.DataFrame

    @property
    def intervals(self) -> str:
        """What the intervals are, in words."""
        if knows_all_patients(self.predictions.manifest):
            return "95% bootstrap intervals over patients"
        return (
            "95% bootstrap intervals over images where the patient is not known, which is too narrow where one has "
            "several images"
        )

    def summaries(self) -> dict[str, pd.DataFrame]:
        """The tables that fit a terminal, by title."""
        shown = [
            "mean_dice",
            "mean_dice_low",
            "mean_dice_high",
            "dice_positives",
            "dice_negatives",
            "iou",
            "f2",
            "predicted",
        ]
        return {
            "Mean Dice, with and without classifier and elimination": self.arms[shown],
            "What the pipeline gains": self.gains,
            f"Classifier at {self.rule.classifier_threshold:.3f}": self.classifier,
            "Where the Dice that is missing went": self.lost,
            "Smallest component (table 2)": self.table_2.set_index(["grid", "area"]),
            "By group": self.strata.set_index(["by", "stratum"]),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by name."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), pd.DataFrame)
        }


def evaluate(predictions: Predictions, assembled: DecisionRule, tuned: DecisionRule | None = None) -> Evaluation:
    """Score kept predictions, all thresholds swept, at constant memory.

    Args:
        predictions: Of images that neither the networks nor the rule were chosen on.
        assembled: The rule that the pipeline was assembled with.
        tuned: The rule that was chosen for it later; where there is one, it is in force.
    """
    rules = {"": assembled} | ({TUNED: tuned} if tuned else {})
    rule, suffix = (tuned, TUNED) if tuned else (assembled, "")
    groups = patient_groups(predictions.manifest)
    own = [value for each in rules.values() for value in (each.mask_threshold, each.top_threshold)]
    native = measure(predictions, [*THRESHOLDS, *own], [*GRIDS[1024], *(each.minimum_area for each in rules.values())])
    arms = {
        f"{name}{end}": cases
        for end, each in rules.items()
        for name, cases in ablation(predictions, native, each).items()
    }
    cases, alone = arms[STAGED + suffix], arms[SEGMENTED + suffix]
    # Elimination has something to do in the images that the classifier and the triplet rule leave.
    asked = rule.gates_in(predictions.probability) & is_confident(native, rule)
    areas = _area_sweeps(predictions, native, rule, asked, groups)
    paper = pd.DataFrame(TABLE_2, columns=["grid", "area", "paper"])
    return Evaluation(
        predictions=predictions,
        rules=rules,
        rule=rule,
        cases=cases,
        arms=tables.score_arms(arms, groups),
        gains=tables.gains_over(arms, STAGED + suffix, groups),
        classifier=tables.score_classifier(cases, rule.classifier_threshold, groups),
        lost=tables.lost_dice(cases),
        strata=tables.strata(cases, predictions.manifest, groups),
        table_2=paper.merge(areas, on=["grid", "area"])[
            ["grid", "area", "mean_dice", "mean_dice_low", "mean_dice_high", "paper"]
        ],
        areas=areas,
        mask_thresholds=tables.threshold_sweep(native, rule.minimum_area, asked),
        classifier_thresholds=tables.classifier_sweep(alone),
    )


def ablation(predictions: Predictions, measures: Measures, rule: DecisionRule) -> dict[str, pd.DataFrame]:
    """Decide with and without the classifier, with and without the elimination of small components (section 4.2).

    Returns:
        Cases by the name of the arm, see `decide`.
    """
    arms = {
        STAGED: (True, rule.minimum_area),
        "staged": (True, 0.0),
        SEGMENTED: (False, rule.minimum_area),
        "segmentation": (False, 0.0),
    }
    return {
        name: decide(predictions, measures, dataclasses.replace(rule, minimum_area=area), use_classifier=staged)
        for name, (staged, area) in arms.items()
    }


def compare_predictions(reference: Predictions, others: dict[str, Predictions], rule: DecisionRule) -> pd.DataFrame:
    """Set predictions of the same images side by side, such as those with mirrored images averaged in.

    Args:
        reference: What the others are compared with.
        others: By name. Of each, the images of the reference are scored.
        rule: Applied to all.

    Returns:
        One row each, the reference first: `mean_dice`, `gain` over the reference with bounds from the same resamples of
        patients, `seconds` an image, and `cost`, their ratio to the reference's.

    Raises:
        ValueError: If one lacks an image of the reference.
    """
    dice = {}
    for name, predictions in {"as it is": reference, **others}.items():
        wanted = predictions.manifest["image_id"].isin(reference.manifest["image_id"]).to_numpy()
        chosen = predictions.rows(wanted)
        if not chosen.manifest["image_id"].equals(reference.manifest["image_id"]):
            raise ValueError(
                f"{predictions.folder} is of other images than {reference.folder}: predict the same manifest"
            )
        measures = measure(chosen, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
        dice[name] = decide(chosen, measures, rule)["dice"].to_numpy()
    values = np.stack(list(dice.values()), axis=1)
    gains = values - values[:, :1]
    low, high = bootstrap_means(gains, patient_groups(reference.manifest))
    seconds = np.array([reference.seconds, *(predictions.seconds for predictions in others.values())])
    return pd.DataFrame(
        {
            "mean_dice": values.mean(axis=0),
            "gain": gains.mean(axis=0),
            "gain_low": low,
            "gain_high": high,
            "seconds": seconds,
            "cost": seconds / seconds[0],
        },
        index=list(dice),
    )


def _area_sweeps(
    predictions: Predictions, native: Measures, rule: DecisionRule, asked: np.ndarray, groups: np.ndarray
) -> pd.DataFrame:
    """Of each grid, one row an area. The images' own grid stands for 1024, which the competition's have."""
    coarse = measure(predictions, [rule.mask_threshold], GRIDS[512], grid=512)
    sweeps = [
        tables.area_sweep(measures, rule.mask_threshold, GRIDS[grid], asked, groups).assign(grid=grid)
        for grid, measures in ((1024, native), (512, coarse))
    ]
    return pd.concat(sweeps, ignore_index=True)
