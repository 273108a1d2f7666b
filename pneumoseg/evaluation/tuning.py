"""Choose the rule on validation images: every cut of the classifier's probabilities, and a grid of the rest."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from pneumoseg.data.patients import patient_ids
from pneumoseg.data.splits import stratified_split
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.cases import dice_of, is_confident
from pneumoseg.evaluation.measures import Measures, measure
from pneumoseg.inference import Tuning
from pneumoseg.predictions import Predictions

THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2).tolist())
AREAS = (0.0, 250.0, 500.0, 750.0, 1000.0, 1750.0, 2500.0, 3500.0, 4500.0, 6000.0, 8000.0)
TOP_AREAS = (250.0, 500.0, 1000.0, 1750.0, 3500.0)


def tune(predictions: Predictions, rule: DecisionRule, *, share: float = 1.0, seed: int = 0) -> Tuning:
    """Choose the rule with the greatest mean Dice.

    Tried are the thresholds .05 to .95 of the mask, smallest areas of a component from 0 to 8000 px, the triplet rule
    with top thresholds above the mask's and areas from 0 to 3500 px, and for each of these every way to cut the
    classifier's probabilities in two. A rule replaces the one before only where it scores higher.

    Args:
        predictions: Of images that neither network was trained on.
        rule: To begin with; its own numbers are tried too, so that the chosen rule is no worse here.
        share: Of the images, to choose on; the others are left for reporting. Patients stay together where an id map
            told them, see `stratified_split`.
        seed: Same seed, same images.

    Raises:
        ValueError: If the share is not above 0 and at most 1, the images cannot be divided so, or none is positive.
    """
    known = patient_ids(predictions.manifest)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected above 0 and at most 1")
    if share < 1:
        try:
            _, chosen = stratified_split(predictions.manifest, share, seed=seed)
        except ValueError as error:
            raise ValueError(
                f"{share:g} of the {len(predictions.manifest)} images cannot be set apart ({error}): choose on all of "
                "them and score others, or keep the rule as it was assembled (make: TUNE=no)"
            ) from error
        in_share = predictions.manifest["image_id"].isin(chosen["image_id"]).to_numpy()
        predictions, known = predictions.rows(in_share), known[in_share]
    manifest = predictions.manifest
    if not manifest["has_pneumothorax"].any():
        raise ValueError(f"none of the {len(manifest)} images is positive: there is nothing to choose a rule on")
    measures = measure(predictions, [*THRESHOLDS, rule.mask_threshold, rule.top_threshold], [*AREAS, rule.minimum_area])
    before, chosen_rule, score = _search(predictions.probability, measures, rule)
    scores = {
        "images": len(manifest),
        "positives": int(manifest["has_pneumothorax"].sum()),
        "mean_dice": score,
        "mean_dice_before": before,
        "floor": float((~manifest["has_pneumothorax"]).mean()),
    }
    patients = sorted(set(known) - {""})
    return Tuning(chosen_rule, tuple(manifest["image_id"]), tuple(patients), scores)


def without_tuning_images(predictions: Predictions, tuning: Tuning | None) -> Predictions:
    """Leave out the images that a rule was chosen on, and those of their patients.

    Raises:
        ValueError: If no image remains.
    """
    if tuning is None:
        return predictions
    manifest = predictions.manifest
    used = manifest["image_id"].isin(tuning.image_ids) | patient_ids(manifest).isin(tuning.patient_ids)
    if used.all():
        raise ValueError(
            f"the pipeline's rule was chosen on all {len(manifest)} images, or on others of their patients: "
            "score other images, or tune on a share of these with --share"
        )
    return predictions.rows(~used.to_numpy())


def _search(probability: np.ndarray, measures: Measures, rule: DecisionRule) -> tuple[float, DecisionRule, float]:
    """Mean Dice of the rule to begin with, the best rule, and its mean Dice."""
    empty = (measures.truth == 0).astype(float)
    cuts = _Cuts.of(probability)
    before = best = (empty + _gain(measures, rule, empty) * rule.gates_in(probability)).mean()
    chosen = rule
    for candidate in _candidates(measures, rule):
        threshold, gained = cuts.best(_gain(measures, candidate, empty), rule.classifier_threshold)
        score = empty.mean() + gained / empty.size
        if score > best + 1e-12:  # sums in another order differ by less
            chosen, best = dataclasses.replace(candidate, classifier_threshold=threshold), score
    return float(before), chosen, float(best)


def _candidates(measures: Measures, rule: DecisionRule) -> Iterator[DecisionRule]:
    """The grid, without the classifier's threshold; the rule's own numbers first, so that they win a tie."""
    triplets = [(rule.top_threshold, rule.top_area), (rule.top_threshold, 0.0)]
    triplets += [(float(threshold), area) for threshold in measures.thresholds for area in TOP_AREAS]
    for top_threshold, top_area in triplets:
        for mask_threshold in _own_first(measures.thresholds, rule.mask_threshold):
            if top_area and top_threshold <= mask_threshold:
                continue  # the mask itself would have to have that area
            for minimum_area in _own_first(measures.areas, rule.minimum_area):
                yield DecisionRule(rule.classifier_threshold, mask_threshold, minimum_area, top_threshold, top_area)


def _own_first(values: np.ndarray, own: float) -> list[float]:
    return [own, *(float(value) for value in values if value != own)]


def _gain(measures: Measures, rule: DecisionRule, empty: np.ndarray) -> np.ndarray:
    """By how much each image's Dice is greater where it is segmented than where it is not."""
    pixels, overlap = measures.at(rule.mask_threshold, rule.minimum_area)
    passed = is_confident(measures, rule)
    return dice_of(pixels * passed, overlap * passed, measures.truth) - empty


@dataclasses.dataclass(frozen=True)
class _Cuts:
    """The ways to cut probabilities in two."""

    order: np.ndarray  # images, the most probable first
    counts: np.ndarray  # how many are above each cut
    thresholds: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray) -> "_Cuts":
        order = np.argsort(-probability, kind="stable")
        order = order[~np.isnan(probability[order])]
        values, first = np.unique(-probability[order], return_index=True)
        values = -values  # descending
        between = (values[:-1] + values[1:]) / 2
        # Above the first threshold is none, above the last, which only a probability of 0 does not pass, are all.
        thresholds = np.concatenate([values[:1], between, [0.0]])
        counts = np.concatenate([first, [np.count_nonzero(probability[order] > 0)]])
        return cls(order, counts.astype(int), thresholds)

    def best(self, gain: np.ndarray, present: float) -> tuple[float, float]:
        """The threshold with the greatest sum of the gains above it, the nearest to the present one of several."""
        sums = np.concatenate([[0.0], np.cumsum(gain[self.order])])[self.counts]
        equal = np.flatnonzero(sums >= sums.max() - 1e-9)
        chosen = equal[np.abs(self.thresholds[equal] - present).argmin()]
        return float(self.thresholds[chosen]), float(sums[chosen])
