"""Tuning of the decision rule on validation images."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pneumoseg.data.masks import has_mask
from pneumoseg.data.patients import patient_ids
from pneumoseg.data.splits import stratified_split
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.cases import dice_of, passes_triplet_rule
from pneumoseg.evaluation.pixel_counts import PixelCounts, count_pixels
from pneumoseg.inference import Tuning
from pneumoseg.predictions import Predictions

THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2).tolist())
AREAS = (0.0, 250.0, 500.0, 750.0, 1000.0, 1750.0, 2500.0, 3500.0, 4500.0, 6000.0, 8000.0)
TOP_AREAS = (250.0, 500.0, 1000.0, 1750.0, 3500.0)


def tune(predictions: Predictions, rule: DecisionRule, *, fraction: float = 1.0, seed: int = 0) -> Tuning:
    """Choose the rule with the greatest mean Dice.

    The search is a grid over mask thresholds from 0.05 to 0.95, minimum areas from 0 to 8000 pixels, and the triplet
    rule with top thresholds above the mask threshold and top areas from 0 to 3500 pixels. At each point of the grid,
    every threshold that divides the classifier's probabilities differently is tried. A rule replaces the present one
    only if it scores higher.

    Args:
        predictions: Predictions of images that neither network was trained on. Those with a label alone are left out.
        rule: The present rule. Its numbers are tried too, so the chosen rule scores no lower on these images.
        fraction: Fraction of the images with masks to choose on, above 0 and at most 1; the others are left for
            reporting. Images of one patient stay together where patients are known, see `stratified_split`.
        seed: Seed of the choice of images. The same seed gives the same images.

    Returns:
        The chosen rule, and the images and patients that it was chosen on.

    Raises:
        ValueError: If the fraction is out of its range, the images cannot be divided so, or none of them has a mask or
            is positive.

    Example:
        >>> tuning = tune(load_predictions("runs/validation"), DecisionRule(), fraction=0.5)  # doctest: +SKIP
        >>> tuning.rule.mask_threshold  # doctest: +SKIP
        0.35
    """
    known = patient_ids(predictions.manifest)[has_mask(predictions.manifest)]
    predictions = predictions.with_masks("the choice of the decision rule")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}, expected above 0 and at most 1")
    if fraction < 1:
        chosen_images = _chosen_images(predictions, fraction, seed)
        predictions, known = predictions.select(chosen_images), known[chosen_images]
    manifest = predictions.manifest
    if not manifest["has_pneumothorax"].any():
        raise ValueError(f"none of the {len(manifest)} images is positive: add images with a pneumothorax")
    thresholds = [*THRESHOLDS, rule.mask_threshold, rule.top_threshold]
    counts = count_pixels(predictions, thresholds, [*AREAS, rule.minimum_area])
    before, chosen_rule, score = _search(predictions.probability, counts, rule)
    scores = {
        "images": len(manifest),
        "positives": int(manifest["has_pneumothorax"].sum()),
        "mean_dice": score,
        "mean_dice_before": before,
        "baseline": float((~manifest["has_pneumothorax"]).mean()),
    }
    patients = tuple(sorted(set(known) - {""}))
    return Tuning(chosen_rule, tuple(manifest["image_id"]), patients, scores)


def without_tuning_images(predictions: Predictions, tuning: Tuning | None) -> Predictions:
    """Leave out the images that a rule was chosen on, and other images of their patients.

    Args:
        predictions: Cached predictions.
        tuning: The choice of the rule; None if the rule was not tuned, which leaves out nothing.

    Raises:
        ValueError: If no image remains.
    """
    if tuning is None:
        return predictions
    used = chose_rule(predictions.manifest, tuning)
    if used.all():
        raise ValueError(
            f"the pipeline's rule was tuned on all {len(used)} images, or on other images of their patients: "
            "score other images, or tune on a fraction of these with --fraction"
        )
    return predictions.select(~used)


def chose_rule(manifest: pd.DataFrame, tuning: Tuning) -> np.ndarray:
    """Tell which images chose a rule, or are of patients whose other images did: bool, (n,).

    Args:
        manifest: One row per image.
        tuning: The choice of the rule.
    """
    used = manifest["image_id"].isin(tuning.image_ids) | patient_ids(manifest).isin(tuning.patient_ids)
    return used.to_numpy()


def _chosen_images(predictions: Predictions, fraction: float, seed: int) -> np.ndarray:
    try:
        _, chosen = stratified_split(predictions.manifest, fraction, seed=seed)
    except ValueError as error:
        raise ValueError(
            f"{fraction:g} of the {len(predictions.manifest)} images cannot be set apart ({error}): tune on all of "
            "them and score others, or keep the rule as it was assembled with --assembled"
        ) from error
    return predictions.manifest["image_id"].isin(chosen["image_id"]).to_numpy()


def _search(probability: np.ndarray, counts: PixelCounts, rule: DecisionRule) -> tuple[float, DecisionRule, float]:
    """Return the mean Dice of the present rule, the best rule, and its mean Dice."""
    empty = (counts.truth == 0).astype(float)
    cuts = _Cuts.of(probability)
    before = best = (empty + _gain(counts, rule, empty) * rule.gates_in(probability)).mean()
    chosen = rule
    for candidate in _candidates(counts, rule):
        threshold, gained = cuts.best(_gain(counts, candidate, empty), rule.classifier_threshold)
        score = empty.mean() + gained / empty.size
        if score > best + 1e-12:  # summing in another order changes less than that
            chosen, best = dataclasses.replace(candidate, classifier_threshold=threshold), score
    return float(before), chosen, float(best)


def _candidates(counts: PixelCounts, rule: DecisionRule) -> Iterator[DecisionRule]:
    """Yield the grid without the classifier threshold; the present numbers come first, so that they win a tie."""
    triplets = [(rule.top_threshold, rule.top_area), (rule.top_threshold, 0.0)]
    triplets += [(float(threshold), area) for threshold in counts.thresholds for area in TOP_AREAS]
    for top_threshold, top_area in triplets:
        for mask_threshold in _present_first(counts.thresholds, rule.mask_threshold):
            if top_area and top_threshold <= mask_threshold:
                continue  # the whole mask would have to have that area
            for minimum_area in _present_first(counts.areas, rule.minimum_area):
                yield DecisionRule(rule.classifier_threshold, mask_threshold, minimum_area, top_threshold, top_area)


def _present_first(values: np.ndarray, present: float) -> list[float]:
    return [present, *(float(value) for value in values if value != present)]


def _gain(counts: PixelCounts, rule: DecisionRule, empty: np.ndarray) -> np.ndarray:
    """Return how much greater the Dice of each image is if it is segmented than if it is not."""
    pixels, overlap = counts.at(rule.mask_threshold, rule.minimum_area)
    passed = passes_triplet_rule(counts, rule)
    return dice_of(pixels * passed, overlap * passed, counts.truth) - empty


@dataclasses.dataclass(frozen=True)
class _Cuts:
    """The thresholds that divide the probabilities differently."""

    order: np.ndarray  # positions of the images, the most probable first
    above: np.ndarray  # number of images above each threshold
    thresholds: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray) -> "_Cuts":
        order = np.argsort(-probability, kind="stable")
        order = order[~np.isnan(probability[order])]
        values, first = np.unique(-probability[order], return_index=True)
        values = -values  # descending
        between = (values[:-1] + values[1:]) / 2
        # No image is above the first threshold. All are above the last one, 0, but those with a probability of 0.
        thresholds = np.concatenate([values[:1], between, [0.0]])
        above = np.concatenate([first, [np.count_nonzero(probability[order] > 0)]])
        return cls(order, above.astype(int), thresholds)

    def best(self, gain: np.ndarray, present: float) -> tuple[float, float]:
        """Return the threshold with the greatest sum of gains above it, and that sum.

        Of equally good thresholds, the nearest to the present one is chosen.
        """
        sums = np.concatenate([[0.0], np.cumsum(gain[self.order])])[self.above]
        equal = np.flatnonzero(sums >= sums.max() - 1e-9)
        chosen = equal[np.abs(self.thresholds[equal] - present).argmin()]
        return float(self.thresholds[chosen]), float(sums[chosen])
