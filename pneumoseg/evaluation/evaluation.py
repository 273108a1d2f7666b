"""Evaluation of cached predictions under a decision rule, next to the all-empty baseline."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pneumoseg.data.masks import has_mask
from pneumoseg.data.patients import knows_all_patients, patient_groups
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation import tables
from pneumoseg.evaluation.cases import passes_triplet_rule
from pneumoseg.evaluation.estimate import table_columns
from pneumoseg.evaluation.pixel_counts import PixelCounts, count_pixels
from pneumoseg.evaluation.tuning import THRESHOLDS, without_tuning_images
from pneumoseg.evaluation.variants import SEGMENTED, STAGED, ablation
from pneumoseg.inference import PipelineFolder
from pneumoseg.predictions import Predictions

_log = logging.getLogger(__name__)
GRIDS = {1024: np.arange(0, 8001, 250.0).tolist(), 512: np.arange(0, 2001, 62.5).tolist()}
"""Minimum areas that are swept, by the side of the grid on which components are found; table 2's are among them."""

TABLE_2 = (
    (1024, 3500.0, 0.8347),
    (1024, 4500.0, 0.8329),
    (512, 750.0, 0.8328),
    (1024, 1750.0, 0.8318),
    (512, 250.0, 0.8307),
)
"""Rows of the paper's table 2: grid, minimum area in pixels of the grid, and the paper's private score."""

TUNED = " (tuned)"
"""Suffix of the variants that use the tuned rule."""


@dataclass(frozen=True)
class Evaluation:
    """All scores of a set of images.

    Attributes:
        predictions: The predictions that were scored.
        masked: Those of the predictions whose true masks are known. All scores but the classifier's are of these
            images. The classifier's are of images with a label alone as well.
        rules: The rules by the suffix of their variants' names: "" for the rule as assembled, " (tuned)" for the rule
            that was tuned, if any.
        rule: The rule in force: the tuned one if there is one.
        cases: One row per image with a mask, decided by the rule in force, see `score_cases`.
        variants: Scores with and without classifier, with and without elimination, for each rule, see
            `score_variants`.
        differences: Mean Dice of the pipeline minus that of each other variant, see `paired_differences`.
        classifier: Scores of the classifier, see `score_classifier`.
        error_breakdown: Missing Dice by cause, see `tables.error_breakdown`.
        subgroups: Scores by subgroup, see `tables.subgroups`.
        table_2: Minimum areas of the paper's table 2: `grid`, `area`, `mean_dice`, and `paper`, the paper's score.
        areas: The same scores in finer steps: `area`, `mean_dice`, `grid`.
        mask_thresholds: Scores by mask threshold, see `threshold_sweep`.
        classifier_thresholds: Scores by classifier threshold, see `classifier_sweep`.
    """

    predictions: Predictions
    masked: Predictions
    rules: dict[str, DecisionRule]
    rule: DecisionRule
    cases: pd.DataFrame
    variants: pd.DataFrame
    differences: pd.DataFrame
    classifier: pd.DataFrame
    error_breakdown: pd.DataFrame
    subgroups: pd.DataFrame
    table_2: pd.DataFrame
    areas: pd.DataFrame
    mask_thresholds: pd.DataFrame
    classifier_thresholds: pd.DataFrame

    @property
    def pipeline(self) -> str:
        """Name of the variant that is the pipeline with the rule in force."""
        return STAGED + (TUNED if TUNED in self.rules else "")

    @property
    def classified(self) -> pd.DataFrame:
        """Table that scores the classifier: `positive` and `probability` of all images, with or without a mask."""
        return _classified(self.predictions)

    @property
    def labels_alone(self) -> int:
        """Number of images that have a label and no mask."""
        return len(self.predictions.manifest) - len(self.cases)

    @property
    def images(self) -> str:
        """Description of the images that the scores are of."""
        words = f"{len(self.cases)} images, {self.cases['positive'].sum()} positive"
        if not self.labels_alone:
            return words
        classified = self.classified
        return (
            f"{words.replace('images', 'images with masks')}; the classifier's scores are of all {len(classified)} "
            f"images, {classified['positive'].sum()} positive"
        )

    @property
    def intervals(self) -> str:
        """Description of the confidence intervals."""
        return describe_intervals(self.predictions.manifest)

    def summaries(self) -> dict[str, pd.DataFrame]:
        """Return the tables that fit a terminal, by title, with the columns of `table_columns`."""
        shown = ["mean_dice", "dice_positives", "dice_negatives", "iou", "f2", "predicted"]
        bounds = [f"{name}_{bound}" for name in shown[1:] for bound in ("low", "high")]
        on_all = f", all {len(self.predictions.manifest)} images" if self.labels_alone else ""
        summaries = {
            "Mean Dice with and without classifier and elimination": self.variants[shown],
            "Mean Dice of the pipeline minus that of each other variant": self.differences,
            f"Classifier at threshold {self.rule.classifier_threshold:.3f}{on_all}": self.classifier,
            "Missing Dice by cause": self.error_breakdown,
            "Minimum area of a component (table 2)": self.table_2.set_index(["grid", "area"]),
            "By subgroup": self.subgroups.set_index(["by", "subgroup"]),
        }
        # Only the mean Dice of a variant is shown with its bounds: a terminal is narrow.
        return {title: table_columns(table).drop(columns=bounds, errors="ignore") for title, table in summaries.items()}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name, with the columns of `table_columns`, ready to be written as CSV."""
        return {
            field.name: table_columns(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), pd.DataFrame)
        }


def describe_intervals(manifest: pd.DataFrame) -> str:
    """Describe the confidence intervals of the scores of a manifest's images."""
    if knows_all_patients(manifest):
        return "95% bootstrap intervals over patients"
    return (
        "95% bootstrap intervals; an image of unknown patient is resampled on its own, which makes the intervals "
        "too narrow if a patient has several images"
    )


def evaluate(predictions: Predictions, assembled: DecisionRule, tuned: DecisionRule | None = None) -> Evaluation:
    """Score cached predictions and sweep all thresholds and areas, at constant memory.

    Args:
        predictions: Predictions of images that neither networks nor rule were chosen on, see `evaluate_pipeline`. Those
            of images with a label alone are scored for the classifier only.
        assembled: The rule that the pipeline was assembled with.
        tuned: The rule that was tuned for the pipeline, if any. It is in force then.

    Raises:
        ValueError: If no image has a mask, see `evaluate_classifier`.

    Example:
        >>> evaluation = evaluate(load_predictions("runs/predictions"), DecisionRule())  # doctest: +SKIP
        >>> evaluation.variants.loc["staged + elimination", "mean_dice"]  # doctest: +SKIP
        Estimate(value=0.835, low=0.821, high=0.849)
    """
    rules = {"": assembled} | ({TUNED: tuned} if tuned else {})
    rule, suffix = (tuned, TUNED) if tuned else (assembled, "")
    masked = predictions.with_masks("the segmentation scores")
    groups = patient_groups(predictions.manifest)[has_mask(predictions.manifest)]
    own = [value for each in rules.values() for value in (each.mask_threshold, each.top_threshold)]
    own_areas = [each.minimum_area for each in rules.values()]
    counts = count_pixels(masked, [*THRESHOLDS, *own], [*GRIDS[1024], *own_areas])
    variants = {
        f"{name}{end}": cases for end, each in rules.items() for name, cases in ablation(masked, counts, each).items()
    }
    cases = variants[STAGED + suffix]
    # Elimination only changes images that the classifier and the triplet rule let pass.
    gated_in = rule.gates_in(masked.probability) & passes_triplet_rule(counts, rule)
    areas = _area_sweeps(masked, counts, rule, gated_in, groups)
    paper = pd.DataFrame(TABLE_2, columns=["grid", "area", "paper"])
    return Evaluation(
        predictions=predictions,
        masked=masked,
        rules=rules,
        rule=rule,
        cases=cases,
        variants=tables.score_variants(variants, groups),
        differences=tables.paired_differences(variants, STAGED + suffix, groups),
        classifier=evaluate_classifier(predictions, rule),
        error_breakdown=tables.error_breakdown(cases),
        subgroups=tables.subgroups(cases, masked.manifest, groups),
        table_2=paper.merge(areas, on=["grid", "area"])[["grid", "area", "mean_dice", "paper"]],
        areas=areas,
        mask_thresholds=tables.threshold_sweep(counts, rule.minimum_area, gated_in),
        classifier_thresholds=tables.classifier_sweep(variants[SEGMENTED + suffix], _classified(predictions)),
    )


def evaluate_classifier(predictions: Predictions, rule: DecisionRule) -> pd.DataFrame:
    """Score the classifier alone, for which no image needs a mask.

    Args:
        predictions: Predictions of images that neither networks nor rule were chosen on.
        rule: The rule whose classifier threshold is scored.

    Returns:
        The scores, see `score_classifier`.

    Example:
        >>> evaluate_classifier(predictions, DecisionRule()).loc["auc", "value"]  # doctest: +SKIP
        Estimate(value=0.93, low=0.91, high=0.95)
    """
    groups = patient_groups(predictions.manifest)
    return tables.score_classifier(_classified(predictions), rule.classifier_threshold, groups)


def evaluate_pipeline(predictions: Predictions, folder: str | Path, *, assembled: bool = False) -> Evaluation:
    """Score cached predictions of a pipeline without the images that its rule was tuned on.

    Other images of the patients of these images are left out as well.

    Args:
        predictions: Predictions that this pipeline made.
        folder: Folder of the pipeline.
        assembled: Whether to use the rule that the pipeline was assembled with, even if another was tuned.

    Raises:
        BundleError: If the folder holds no pipeline, or a damaged one.
        ValueError: If another pipeline made the predictions, or no image remains, or none that remains has a mask.

    Example:
        >>> evaluation = evaluate_pipeline(predictions, "runs/pipeline")  # doctest: +SKIP
        >>> evaluation.variants.loc[evaluation.pipeline, "mean_dice"]  # doctest: +SKIP
        Estimate(value=0.835, low=0.821, high=0.849)
    """
    record = PipelineFolder.read(folder, assembled=assembled)
    scored = scorable_predictions(record, predictions, folder)
    return evaluate(scored, record.assembled, record.tuning.rule if record.tuning else None)


def scorable_predictions(record: PipelineFolder, predictions: Predictions, folder: str | Path) -> Predictions:
    """Return a pipeline's predictions without the images, and their patients, that its rule was tuned on.

    Args:
        record: Content of the pipeline's folder.
        predictions: Predictions that this pipeline made.
        folder: Folder of the pipeline, for the message.

    Raises:
        ValueError: If another pipeline made the predictions, or no image remains.
    """
    require_predictions_of(record, predictions, folder)
    scored = without_tuning_images(predictions, record.tuning)
    left_out = len(predictions.manifest) - len(scored.manifest)
    if left_out:
        _log.info(f"{left_out} images left out: the decision rule was chosen on them or on their patients")
    return scored


def require_predictions_of(record: PipelineFolder, predictions: Predictions, folder: str | Path) -> None:
    """Refuse cached predictions of another pipeline.

    Raises:
        ValueError: If other networks made them, or they average mirrored images and the pipeline does not, or the
            reverse.
    """
    if (dict(predictions.networks), predictions.flip) != (record.networks, record.flip):
        raise ValueError(
            f"{predictions.folder} was made with other networks or another --flip setting than {folder}: run "
            "`pneumoseg cache-predictions` again"
        )


def _classified(predictions: Predictions) -> pd.DataFrame:
    labels = predictions.manifest["has_pneumothorax"].to_numpy()
    return pd.DataFrame({"positive": labels, "probability": predictions.probability})


def _area_sweeps(
    predictions: Predictions, counts: PixelCounts, rule: DecisionRule, gated_in: np.ndarray, groups: np.ndarray
) -> pd.DataFrame:
    """Score minimum areas on each grid. The images' own grid stands for 1024, the grid of the competition's images."""
    coarse = count_pixels(predictions, [rule.mask_threshold], GRIDS[512], grid=512)
    sweeps = [
        tables.area_sweep(each, rule.mask_threshold, GRIDS[grid], gated_in, groups).assign(grid=grid)
        for grid, each in ((1024, counts), (512, coarse))
    ]
    return pd.concat(sweeps, ignore_index=True)
