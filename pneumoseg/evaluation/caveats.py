"""Reasons why the scores of an evaluation are too good, or worth less than they look."""

import math

import pandas as pd

from pneumoseg.data.masks import has_mask
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.tuning import chose_rule
from pneumoseg.inference import PipelineFolder, Tuning
from pneumoseg.predictions import Predictions


def caveats(predictions: Predictions, assembled: DecisionRule, pipeline: PipelineFolder | None) -> list[str]:
    """List what a reader of the scores has to know, one sentence each.

    Args:
        predictions: The predictions that were scored.
        assembled: The rule that the pipeline was assembled with.
        pipeline: The pipeline that was scored; it knows which images its networks were trained and validated on. None
            leaves these caveats out.
    """
    manifest = predictions.manifest
    found = [] if pipeline is None else _about_networks(manifest, assembled.classifier_threshold, pipeline)
    unreadable = sum(map(bool, predictions.errors))
    if unreadable:
        scored = "scored as predicted empty" if has_mask(manifest).any() else "not scored"
        found.append(f"{unreadable} files could not be read; they are {scored}.")
    return found


def _about_networks(manifest: pd.DataFrame, threshold: float, pipeline: PipelineFolder) -> list[str]:
    scored = set(manifest["image_id"])
    found = [text for kind in ("classifier", "segmenter") for text in _about_images(scored, kind, pipeline)]
    seen = len(scored & pipeline.images("classifier").validation)
    if seen and _chose_threshold(pipeline, threshold):
        found.append(
            f"{seen} of the {len(scored)} images chose the threshold of the classifier, by the best MCC: the scores of "
            "the pipeline as assembled are too good for this reason as well (in a simulation by 0.01 of MCC on 2,400 "
            "images, and by 0.03 to 0.04 on 400)."
        )
    found += _about_tuning(manifest, pipeline.tuning)
    if pipeline.unrecorded:
        found.append(
            f"NOT CHECKED: {', '.join(pipeline.unrecorded)} does not record which images it was trained on. If any of "
            f"the {len(scored)} images are among them, the scores are too good."
        )
    return found


def _about_images(scored: set[str], kind: str, pipeline: PipelineFolder) -> list[str]:
    images = pipeline.images(kind)
    trained, validated = len(scored & images.training), len(scored & images.validation)
    texts = []
    if trained:
        texts.append(
            f"{trained} of the {len(scored)} images are training images of the {kind}: the scores are too good and say "
            "nothing about other images."
        )
    if validated:
        texts.append(
            f"{validated} of the {len(scored)} images are validation images of the {kind}, which chose its best epoch: "
            "the scores are too good, even more so where the split was by image and one patient's images are in "
            "training and validation."
        )
    return texts


def _about_tuning(manifest: pd.DataFrame, tuning: Tuning | None) -> list[str]:
    if tuning is None:
        return []
    count = int(chose_rule(manifest, tuning).sum())
    if not count:
        return []
    return [
        f"{count} of the {len(manifest)} images chose the decision rule, or are of patients whose images did: the "
        "scores are too good (`evaluate_pipeline` leaves them out)."
    ]


def _chose_threshold(pipeline: PipelineFolder, threshold: float) -> bool:
    """Return whether a rule has the threshold that the classifiers' validation images chose, or their mean."""
    specs = [pipeline.specs[name] for name in pipeline.bundles("classifier")]
    chosen = [spec.thresholds["probability"] for spec in specs if "probability" in spec.thresholds]
    return len(chosen) == len(specs) and math.isclose(sum(chosen) / len(chosen), threshold)
