"""Variants of a pipeline on the same images: without a stage, or with other predictions."""

import dataclasses

import numpy as np
import pandas as pd

from pneumoseg.data.patients import patient_groups
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.bootstrap import bootstrap_means
from pneumoseg.evaluation.cases import score_cases
from pneumoseg.evaluation.estimate import estimates
from pneumoseg.evaluation.pixel_counts import PixelCounts, count_pixels
from pneumoseg.predictions import Predictions

STAGED, SEGMENTED = "staged + elimination", "segmentation + elimination"
"""Names of the whole pipeline and of the pipeline without its classifier."""


def ablation(predictions: Predictions, counts: PixelCounts, rule: DecisionRule) -> dict[str, pd.DataFrame]:
    """Decide with and without the classifier, and with and without elimination of small components (section 4.2).

    Args:
        predictions: Probabilities of the classifier.
        counts: Pixel counts of the same images, at the thresholds and areas of the rule.
        rule: The decision rule.

    Returns:
        The cases of each of the four variants by name, see `score_cases`.
    """
    variants = {
        STAGED: (True, rule.minimum_area),
        "staged": (True, 0.0),
        SEGMENTED: (False, rule.minimum_area),
        "segmentation": (False, 0.0),
    }
    return {
        name: score_cases(predictions, counts, dataclasses.replace(rule, minimum_area=area), use_classifier=staged)
        for name, (staged, area) in variants.items()
    }


def compare_predictions(reference: Predictions, others: dict[str, Predictions], rule: DecisionRule) -> pd.DataFrame:
    """Compare predictions of the same images, such as those with mirrored images averaged in.

    Args:
        reference: The predictions that the others are compared with.
        others: Other predictions by name. Only the images of the reference are scored, and of them those with masks.
        rule: The decision rule, applied to all.

    Returns:
        One row per predictions, the reference first: `mean_dice`, `difference` (an `Estimate` of the difference from
        the reference's mean Dice, on the same resamples of patients), `seconds` per image, and `cost`, the ratio of
        the seconds to the reference's.

    Raises:
        ValueError: If some of the reference's images are missing from other predictions, or none of them has a mask.
    """
    reference = reference.with_masks("the comparison of predictions")
    dice = {}
    for name, predictions in {"reference": reference, **others}.items():
        wanted = predictions.manifest["image_id"].isin(reference.manifest["image_id"]).to_numpy()
        chosen = predictions.select(wanted)
        if not chosen.manifest["image_id"].equals(reference.manifest["image_id"]):
            raise ValueError(
                f"{predictions.folder} and {reference.folder} hold predictions of different images: cache both "
                "from one manifest, with pipelines that were trained on the same images"
            )
        counts = count_pixels(chosen, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
        dice[name] = score_cases(chosen, counts, rule)["dice"].to_numpy()
    values = np.stack(list(dice.values()), axis=1)
    differences = values - values[:, :1]
    seconds = np.array([reference.seconds, *(predictions.seconds for predictions in others.values())])
    return pd.DataFrame(
        {
            "mean_dice": values.mean(axis=0),
            "difference": estimates(
                differences.mean(axis=0), *bootstrap_means(differences, patient_groups(reference.manifest))
            ),
            "seconds": seconds,
            "cost": seconds / seconds[0],
        },
        index=list(dice),
    )
