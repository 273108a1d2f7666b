"""Per-image decisions and scores, with each image's missing Dice attributed to a cause."""

import numpy as np
import pandas as pd

from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.pixel_counts import PixelCounts
from pneumoseg.geometry import scale_area
from pneumoseg.predictions import Predictions

OUTCOMES = {
    "missed by the classifier": "positive; the classifier's probability is not above the threshold",
    "missed by the segmenter": "positive; no pixel is above the mask threshold",
    "removed by the triplet rule": "positive; too few pixels are above the top threshold",
    "removed by elimination": "positive; all components are smaller than the minimum area",
    "false alarm": "negative; a mask is predicted",
    "found": "positive; a mask is predicted",
    "correctly empty": "negative; no mask is predicted",
    "unreadable": "the file could not be read; it counts as predicted empty",
}
"""Outcomes of a case and what they mean. In the first six, Dice is missing."""

ERROR_CAUSES = ("classifier", "segmenter", "triplet", "elimination", "outline", "false alarm", "unreadable")
"""Causes to which 1 - Dice is attributed."""


def dice_of(pixels: np.ndarray, overlap: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute Dice coefficients from pixel counts: ``2 overlap / (pixels + truth)``, and 1 if both masks are empty.

    Args:
        pixels: Pixels of the predicted masks.
        overlap: Pixels of the predicted masks that are true.
        truth: Pixels of the true masks. The shapes of all three broadcast.

    Returns:
        float64, in [0, 1].

    Example:
        >>> dice_of(np.array([60, 0]), np.array([40, 0]), np.array([40, 0]))
        array([0.8, 1. ])
    """
    return f_beta_of(pixels, overlap, truth, 1.0)


def f_beta_of(pixels: np.ndarray, overlap: np.ndarray, truth: np.ndarray, beta: float) -> np.ndarray:
    """Compute F-beta scores from pixel counts, 1 if both masks are empty (van Rijsbergen 1979).

    Args:
        pixels: Pixels of the predicted masks.
        overlap: Pixels of the predicted masks that are true.
        truth: Pixels of the true masks. The shapes of all three broadcast.
        beta: Weight of recall compared with precision.

    Returns:
        float64, in [0, 1].

    Example:
        >>> f_beta_of(np.array([60]), np.array([40]), np.array([40]), 2.0).round(3)
        array([0.909])
    """
    # tp + fp are the predicted pixels, tp + fn the true ones.
    denominator = pixels + beta**2 * truth
    score = (1 + beta**2) * overlap / np.maximum(denominator, 1)
    return np.where(denominator == 0, 1.0, score)


def iou_of(pixels: np.ndarray, overlap: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute the intersection over union from pixel counts, 1 if both masks are empty.

    Args:
        pixels: Pixels of the predicted masks.
        overlap: Pixels of the predicted masks that are true.
        truth: Pixels of the true masks. The shapes of all three broadcast.

    Returns:
        float64, in [0, 1].

    Example:
        >>> iou_of(np.array([60, 0]), np.array([40, 0]), np.array([40, 0])).round(3)
        array([0.667, 1.   ])
    """
    union = pixels + truth - overlap
    return np.where(union == 0, 1.0, overlap / np.maximum(union, 1))


def score_cases(
    predictions: Predictions, counts: PixelCounts, rule: DecisionRule, *, use_classifier: bool = True
) -> pd.DataFrame:
    """Decide on all images as the pipeline does, and score each of them.

    Args:
        predictions: Probabilities of the classifier.
        counts: Pixel counts of the same images, at the thresholds and areas of the rule.
        rule: The decision rule.
        use_classifier: Whether the classifier decides which images are segmented; otherwise all of them are.

    Returns:
        One row per image, in order:

        - `image_id`, `positive`, `probability` (the classifier's), `max_probability` (of a pixel, the segmenter's).
        - `truth_px`, `raw_px` (pixels of the raw mask; 0 if the classifier did not pass the image on), `predicted_px`.
        - `raw_dice` (of the raw mask), `dice`, `iou`, `f2`.
        - `stage` (see `Decision`; "error" if the file could not be read), `outcome` (see `OUTCOMES`).
        - `disagreement`: the absolute difference of `probability` and `max_probability`.
        - `missing_dice classifier` and so on: the part of 1 - Dice due to each of `ERROR_CAUSES`.

        The part of elimination is negative where it removed more wrong than right pixels.

    Raises:
        ValueError: If a threshold or an area of the rule was not counted.
    """
    truth, positive = counts.truth, counts.truth > 0
    unreadable = np.array([bool(error) for error in predictions.errors])
    gated_in = rule.gates_in(predictions.probability) | (not use_classifier)
    raw, raw_overlap = (np.where(gated_in, each, 0) for each in counts.at(rule.mask_threshold, 0.0))
    kept, kept_overlap = counts.at(rule.mask_threshold, rule.minimum_area)
    stage = np.select(
        [unreadable, ~gated_in, raw == 0, ~passes_triplet_rule(counts, rule), kept == 0],
        ["error", "classifier", "segmenter", "triplet", "elimination"],
        "mask",
    )
    predicted, overlap = (np.where(stage == "mask", each, 0) for each in (kept, kept_overlap))
    table = pd.DataFrame(
        {
            "image_id": predictions.manifest["image_id"].to_numpy(),
            "positive": positive,
            "probability": predictions.probability,
            "max_probability": counts.max_probability,
            "truth_px": truth,
            "raw_px": raw,
            "predicted_px": predicted,
            "raw_dice": dice_of(raw, raw_overlap, truth),
            "stage": stage,
            "dice": dice_of(predicted, overlap, truth),
            "iou": iou_of(predicted, overlap, truth),
            "f2": f_beta_of(predicted, overlap, truth, 2.0),
            "outcome": _outcomes(stage, positive),
            "disagreement": np.abs(predictions.probability - counts.max_probability),
        }
    )
    return table.assign(**{f"missing_dice {cause}": part for cause, part in _missing_dice(table).items()})


def passes_triplet_rule(counts: PixelCounts, rule: DecisionRule) -> np.ndarray:
    """Tell which images the triplet rule lets pass, bool (n,).

    Args:
        counts: Pixel counts at the rule's top threshold; any if the rule is switched off.
        rule: The decision rule.
    """
    if not rule.top_area:
        return np.ones(len(counts.truth), bool)
    return counts.at(rule.top_threshold, 0.0)[0] >= scale_area(rule.top_area, counts.size)


def _outcomes(stage: np.ndarray, positive: np.ndarray) -> np.ndarray:
    of_positives = {
        "classifier": "missed by the classifier",
        "segmenter": "missed by the segmenter",
        "triplet": "removed by the triplet rule",
        "elimination": "removed by elimination",
        "mask": "found",
    }
    conditions = [positive & (stage == name) for name in of_positives]
    return np.select(
        [stage == "error", *conditions, ~positive & (stage == "mask")],
        ["unreadable", *of_positives.values(), "false alarm"],
        "correctly empty",
    )


def _missing_dice(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Attribute 1 - Dice of each image to `ERROR_CAUSES`; the parts add up to it."""
    missing = 1 - table["dice"].to_numpy()
    stage, positive = table["stage"].to_numpy(), table["positive"].to_numpy()
    segmented = positive & np.isin(stage, ["elimination", "mask"])
    return {
        "classifier": np.where(positive & (stage == "classifier"), missing, 0.0),
        "segmenter": np.where(positive & (stage == "segmenter"), missing, 0.0),
        "triplet": np.where(positive & (stage == "triplet"), missing, 0.0),
        "elimination": np.where(segmented, table["raw_dice"] - table["dice"], 0.0),
        "outline": np.where(segmented, 1 - table["raw_dice"], 0.0),
        "false alarm": np.where(~positive & (stage == "mask"), missing, 0.0),
        "unreadable": np.where(stage == "error", missing, 0.0),
    }
