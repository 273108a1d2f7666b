"""Train the classifier: settings and manifest to a run."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from pneumoseg.atomic_write import atomic_write
from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.callbacks.mcc import MCC
from pneumoseg.config import ClassifierSettings, ClassWeights, FocalLossSettings, Plateau
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.enrichment import enrich
from pneumoseg.data.loaders import classification_examples, files_named
from pneumoseg.data.sampling import EpochPlan, enriched_epoch
from pneumoseg.losses import FocalLoss
from pneumoseg.metrics import MatthewsCorrelation
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.training.phases import fit_phases, load_sides, plan_epoch
from pneumoseg.training.precision import precision
from pneumoseg.training.run import PREDICTIONS, Watch, finish_run, metrics_of_finished, open_run, split_manifest

_log = logging.getLogger(__name__)
_MONITOR = "val_mcc"


def train_classifier(
    settings: ClassifierSettings,
    manifest: pd.DataFrame,
    folder: str | Path,
    cache_dir: str | Path,
    *,
    resume: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train a classifier in phases and keep the bundle of the epoch with the best validation MCC (section 4.1.1).

    Args:
        settings: From an experiment file, one that does not cross-validate.
        manifest: One row an image, see `index_dataset`.
        folder: The run's folder; gets the settings, the split, `history.csv`, `best/`, `predictions.csv` (of the
            validation images, by the best bundle) and `metrics.json`.
        cache_dir: Folder for images that need transcoding.
        resume: Whether to go on from the last epoch that ended, if the folder holds a stopped run; a finished one is
            left as it is.
        watch: Makes a further callback for the run's folder, called last.

    Returns:
        What `metrics.json` holds: the best epoch's values, and how many images each side had.

    Raises:
        FileExistsError: If the folder holds a run and is not to be resumed.
        ValueError: If the manifest cannot be split, the settings do not fit the network, the run to be resumed had
            others, or they cross-validate.
    """
    if settings.cross_validate:
        raise ValueError("cross_validate is true: call cross_validate")
    training, validation = split_manifest(manifest, settings.split)
    return train_split(settings, training, validation, folder, cache_dir, resume=resume, watch=watch)


def train_split(
    settings: ClassifierSettings,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    folder: str | Path,
    cache_dir: str | Path,
    *,
    resume: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train on given sides; all else as `train_classifier`."""
    finished = metrics_of_finished(Path(folder), settings, training, validation) if resume else None
    if finished is not None:
        return finished
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    labels, augmentations = training["has_pneumothorax"].to_numpy(), _augmentations(settings)
    copies = enrich(labels, len(augmentations), seed=settings.seed) if settings.enrichment else None
    arguments: dict[str, Any] = {"backbone": settings.backbone, "image_size": settings.image_size}
    with precision(settings.precision):
        model = build_classifier(**arguments, weights=settings.weights)

    def save(model: keras.Model, logs: dict[str, float]) -> None:
        save_bundle(run / "best", model, "classifier", arguments, {"probability": logs["val_best_threshold"]})

    with open_run(folder, settings, training, validation, resume=resume) as run, files_named(training, validation):
        if copies is not None:
            _save_copies(run, copies, training, augmentations)
        examples, checked = load_sides(classification_examples, settings, (training, validation), cache_dir)
        validation_batches = checked.batches(settings.batch_size)
        loss, best = _loss(settings), BestBundle(_MONITOR, save)
        history = fit_phases(
            model,
            settings.phases,
            lambda n: examples.batches(settings.batch_size, _epoch(settings, labels, copies, n), augmentations),
            loss,
            [MatthewsCorrelation(), keras.metrics.AUC(name="auc"), keras.metrics.BinaryAccuracy(name="accuracy")],
            best,
            run,
            scores=MCC(validation_batches, validation["has_pneumothorax"].to_numpy(), loss),
            plateau=_plateau(settings.plateau),
            stop_after=settings.plateau.stop_after if settings.plateau else None,
            class_weights=_class_weights(settings.class_weights, labels),
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            jit_compile=settings.jit_compile,
            watch=watch(run) if watch else None,
        )
        _save_predictions(run, validation, validation_batches)
        return finish_run(run, history, best.best_epoch, training, validation)


def _augmentations(settings: ClassifierSettings) -> list[Augmentation]:
    """One of all transforms for random augmentation; one a transform for enrichment."""
    if settings.augmentation is not None:
        chosen = settings.augmentation
        return [Augmentation(chosen.transforms, chosen.probability, chosen.zoom)]
    if settings.enrichment is not None:
        zoom = settings.enrichment.zoom
        return [Augmentation([transform], probability=1, zoom=zoom) for transform in settings.enrichment.transforms]
    return []


def _epoch(settings: ClassifierSettings, labels: np.ndarray, copies: pd.DataFrame | None, number: int) -> EpochPlan:
    """What an epoch shows, by its number from 0."""
    if copies is not None:
        return enriched_epoch(len(labels), copies, number, seed=settings.seed)
    return plan_epoch(settings, labels, number)


def _save_copies(
    folder: Path, copies: pd.DataFrame, training: pd.DataFrame, augmentations: Sequence[Augmentation]
) -> None:
    names = [augmentation.transforms[0] for augmentation in augmentations]
    columns = {
        "image_id": training["image_id"].to_numpy()[copies["row"]],
        "transform": [names[transform] for transform in copies["transform"]],
        "seed": copies["seed"],
    }
    with atomic_write(folder / "enrichment.csv") as temporary:
        pd.DataFrame(columns).to_csv(temporary, index=False)
    _log.info(f"Enrichment: {len(copies)} copies of positives, listed in enrichment.csv")


def _plateau(settings: Plateau | None) -> keras.callbacks.ReduceLROnPlateau | None:
    if settings is None:
        return None
    return keras.callbacks.ReduceLROnPlateau(
        _MONITOR, settings.factor, settings.patience, mode="max", verbose=1, min_lr=settings.minimum
    )


def _loss(settings: ClassifierSettings) -> keras.losses.Loss:
    if isinstance(settings.loss, FocalLossSettings):
        return FocalLoss(alpha=settings.loss.alpha, gamma=settings.loss.gamma)
    return keras.losses.BinaryCrossentropy()


def _class_weights(chosen: str | ClassWeights | None, labels: np.ndarray) -> dict[int, float] | None:
    if chosen is None:
        return None
    if isinstance(chosen, ClassWeights):
        return {0: chosen.negative, 1: chosen.positive}
    return {label: len(labels) / (2 * int((labels == label).sum())) for label in (0, 1)}  # each class counts half


def _save_predictions(folder: Path, validation: pd.DataFrame, batches: tf.data.Dataset) -> None:
    """Keep what the best bundle, read back from the disk, says of the validation images."""
    probabilities = load_bundle(folder / "best").model.predict(batches, verbose=0)[:, 0]
    columns = ["image_id", "patient_id", "patient_source", "sex", "has_pneumothorax"]
    table = validation[columns].assign(probability=probabilities)
    with atomic_write(folder / PREDICTIONS) as temporary:
        table.to_csv(temporary, index=False)
