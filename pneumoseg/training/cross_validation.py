"""Train a classifier on each fold: a probability for every image from a network that was not trained on it."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from pneumoseg.atomic_write import atomic_write
from pneumoseg.config import ClassifierSettings, SegmenterSettings
from pneumoseg.data.splits import patients_on_both_sides, stratified_folds
from pneumoseg.scores import best_threshold, classification_scores
from pneumoseg.training import classifier, segmenter
from pneumoseg.training.run import (
    FINISHED,
    PREDICTIONS,
    Watch,
    read_validation_predictions,
    refuse_finished,
    warn_about_patients,
    write_metrics,
)
from pneumoseg.training.start import trained_before

_log = logging.getLogger(__name__)


def cross_validate(
    settings: ClassifierSettings | SegmenterSettings,
    manifest: pd.DataFrame,
    folder: str | Path,
    cache_dir: str | Path,
    *,
    resume: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train one network a fold, as many folds as fit into the validation fraction (.2: five).

    Each fold's epoch is still chosen on the images that its predictions are scored on, as in any run here, so that the
    scores are a little too good.

    Args:
        settings: From an experiment file.
        manifest: One row an image, see `index_dataset`.
        folder: Gets a run a fold, `fold_1` and so on; of classifiers `predictions.csv`, the out-of-fold predictions of
            all images, with the fold that each image was kept out of; and `metrics.json`.
        cache_dir: Folder for images that need transcoding.
        resume: Whether to keep finished folds and go on with a stopped one; a finished run is left as it is.
        watch: Makes a further callback for a fold's folder.

    Returns:
        What `metrics.json` holds: of each fold its best epoch and the scores there; of classifiers the scores of all
        out-of-fold predictions together, see `scores`.

    Raises:
        FileExistsError: If the folder holds a finished run, or a stopped one that is not to be resumed.
        ValueError: As `stratified_folds`, or if the run had other settings or images, or was not cross-validated.
    """
    folder = Path(folder)
    if not resume:
        refuse_finished(folder)
    if (folder / "split.csv").exists():
        raise ValueError(f"{folder} holds a run without cross-validation: choose another folder")
    if folder.exists() and not resume:
        raise FileExistsError(f"{folder} exists: go on with --resume, or remove it to train anew")
    split = settings.split
    sides = stratified_folds(
        manifest, round(1 / split.validation_fraction), seed=split.seed, group_by_patient=split.group_by_patient
    )
    warn_about_patients(manifest)
    if isinstance(settings, SegmenterSettings) and settings.start_from is not None and not (folder / FINISHED).exists():
        for _, validation in sides:  # before the first one is trained
            trained_before(settings.start_from, validation)
    for number, (training, validation) in enumerate(sides, start=1):
        fold = folder / f"fold_{number}"
        _log.info(
            f"Fold {number} of {len(sides)}: {len(training)} images for training, {len(validation)} kept out, "
            f"{patients_on_both_sides(training, validation)} patients on both sides"
        )
        # A fold that is finished says so and is left as it is.
        if isinstance(settings, ClassifierSettings):
            classifier.train_split(settings, training, validation, fold, cache_dir, resume=True, watch=watch)
        else:
            segmenter.train_split(settings, training, validation, fold, cache_dir, resume=True, watch=watch)
    folds = [folder / f"fold_{number}" for number in range(1, len(sides) + 1)]
    metrics = [json.loads((fold / FINISHED).read_text(encoding="utf-8")) for fold in folds]
    scores = {"folds": [{k: v for k, v in each.items() if k == "best_epoch" or "val_" in k} for each in metrics]}
    if isinstance(settings, ClassifierSettings):
        scores |= _pooled(folder, folds)
    return write_metrics(folder, scores)


def _pooled(folder: Path, folds: list[Path]) -> dict[str, Any]:
    """Write all out-of-fold predictions, and score them."""
    predictions = pd.concat([read_validation_predictions(fold).assign(fold=n) for n, fold in enumerate(folds, start=1)])
    with atomic_write(folder / PREDICTIONS) as temporary:
        predictions.to_csv(temporary, index=False)
    labels, probabilities = predictions["has_pneumothorax"].to_numpy(), predictions["probability"].to_numpy()
    threshold, mcc = best_threshold(labels, probabilities)
    return classification_scores(labels, probabilities) | {"best_threshold": threshold, "best_mcc": mcc}
