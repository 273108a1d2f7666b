"""What a rule makes of each image, and where its lost Dice went."""

import numpy as np
import pandas as pd

from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.measures import Measures
from pneumoseg.geometry import scale_area
from pneumoseg.predictions import Predictions

# How a case ends, in the order in which it is decided; the first six lose Dice.
OUTCOMES = {
    "missed by the classifier": "positive, not above the classifier's threshold",
    "missed by the segmenter": "positive, no pixel above the mask's threshold",
    "removed by the triplet rule": "positive, too few pixels above the top threshold",
    "removed by elimination": "positive, all that was drawn was too small",
    "false alarm": "negative, something was drawn",
    "found": "positive, something was drawn",
    "rightly empty": "negative, nothing was drawn",
    "unreadable": "the file could not be read; counts as predicted empty",
}

# The parts that 1 - mean Dice is made of.
LOSSES = ("classifier", "segmenter", "triplet", "elimination", "outline", "false alarm", "unreadable")


def dice_of(pixels: np.ndarray, overlap: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice coefficients from counts, ``2 overlap / (pixels + truth)``, and 1 where both masks are empty.

    Args:
        pixels: The predicted masks' pixels.
        overlap: Those among them that are true.
        truth: The true masks' pixels; all of shapes that broadcast.

    Returns:
        float64, in [0, 1].
    """
    return f_beta_of(pixels, overlap, truth, 1.0)


def f_beta_of(pixels: np.ndarray, overlap: np.ndarray, truth: np.ndarray, beta: float) -> np.ndarray:
    """F-beta from counts, 1 where both masks are empty (van Rijsbergen 1979); arguments as `dice_of`."""
    # tp + fp are the predicted pixels, tp + fn the true ones.
    denominator = pixels + beta**2 * truth
    score = (1 + beta**2) * overlap / np.maximum(denominator, 1)
    return np.where(denominator == 0, 1.0, score)


def iou_of(pixels: np.ndarray, overlap: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union from counts, 1 where both masks are empty; arguments as `dice_of`."""
    union = pixels + truth - overlap
    return np.where(union == 0, 1.0, overlap / np.maximum(union, 1))


def decide(
    predictions: Predictions, measures: Measures, rule: DecisionRule, *, use_classifier: bool = True
) -> pd.DataFrame:
    """Apply a rule to all images, as the pipeline would.

    Args:
        predictions: The classifier's probabilities.
        measures: Of the same images; must hold the rule's thresholds and areas.
        rule: What decides.
        use_classifier: False to segment all images.

    Returns:
        One row an image, in order: `image_id`, `positive`, `probability`, `peak` (the segmenter's greatest),
        `truth_px`, `drawn_px` (what the segmenter drew, before the triplet rule and elimination; 0 where it was not
        asked), `predicted_px`, `dice_drawn`, `dice`, `iou`, `f2`, `stage` (see `Result`), `outcome` (see `OUTCOMES`),
        `disagreement` (between the networks: how far the classifier's probability lies from the segmenter's greatest),
        and `lost classifier` and so on: by which of `LOSSES` the image's Dice falls short of 1. Elimination's is
        negative where it removed what was wrong beside what was right.

    Raises:
        ValueError: If one of the rule's numbers was not measured.
    """
    truth, positive = measures.truth, measures.truth > 0
    unreadable = np.array([bool(error) for error in predictions.errors])
    asked = rule.gates_in(predictions.probability) | (not use_classifier)
    drawn, drawn_overlap = measures.at(rule.mask_threshold, 0.0)
    kept, kept_overlap = measures.at(rule.mask_threshold, rule.minimum_area)
    stage = np.select(
        [unreadable, ~asked, drawn == 0, ~is_confident(measures, rule), kept == 0],
        ["error", "classifier", "segmenter", "triplet", "elimination"],
        "mask",
    )
    shown = stage == "mask"
    table = pd.DataFrame(
        {
            "image_id": predictions.manifest["image_id"].to_numpy(),
            "positive": positive,
            "probability": predictions.probability,
            "peak": measures.peak,
            "truth_px": truth,
            "drawn_px": np.where(asked, drawn, 0),
            "predicted_px": np.where(shown, kept, 0),
            "dice_drawn": dice_of(np.where(asked, drawn, 0), np.where(asked, drawn_overlap, 0), truth),
            "stage": stage,
        }
    )
    counts = (table["predicted_px"].to_numpy(), np.where(shown, kept_overlap, 0), truth)
    table["dice"], table["iou"], table["f2"] = dice_of(*counts), iou_of(*counts), f_beta_of(*counts, 2.0)
    table["outcome"] = _outcomes(stage, positive)
    table["disagreement"] = (table["probability"] - table["peak"]).abs()
    for name, lost in _lost(table).items():
        table[f"lost {name}"] = lost
    return table


def is_confident(measures: Measures, rule: DecisionRule) -> np.ndarray:
    """Whether the triplet rule lets each image pass, bool (n,)."""
    if not rule.top_area:
        return np.ones(len(measures.truth), bool)
    return measures.at(rule.top_threshold, 0.0)[0] >= scale_area(rule.top_area, measures.size)


def _outcomes(stage: np.ndarray, positive: np.ndarray) -> np.ndarray:
    missed = {
        "classifier": "missed by the classifier",
        "segmenter": "missed by the segmenter",
        "triplet": "removed by the triplet rule",
        "elimination": "removed by elimination",
        "mask": "found",
    }
    of_positive = [positive & (stage == name) for name in missed]
    return np.select(
        [stage == "error", *of_positive, ~positive & (stage == "mask")],
        ["unreadable", *missed.values(), "false alarm"],
        "rightly empty",
    )


def _lost(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """By which of `LOSSES` each image's Dice falls short of 1; they add up to it."""
    lost = 1 - table["dice"].to_numpy()
    stage, positive = table["stage"].to_numpy(), table["positive"].to_numpy()
    segmented = positive & np.isin(stage, ["elimination", "mask"])
    return {
        "classifier": np.where(positive & (stage == "classifier"), lost, 0.0),
        "segmenter": np.where(positive & (stage == "segmenter"), lost, 0.0),
        "triplet": np.where(positive & (stage == "triplet"), lost, 0.0),
        "elimination": np.where(segmented, table["dice_drawn"] - table["dice"], 0.0),
        "outline": np.where(segmented, 1 - table["dice_drawn"], 0.0),
        "false alarm": np.where(~positive & (stage == "mask"), lost, 0.0),
        "unreadable": np.where(stage == "error", lost, 0.0),
    }
