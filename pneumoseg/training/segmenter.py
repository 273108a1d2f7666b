"""Train the segmenter: settings and manifest to a run."""

from pathlib import Path
from typing import Any

import keras
import pandas as pd

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.callbacks.epoch_weights import EpochWeights
from pneumoseg.callbacks.swa import SWA
from pneumoseg.config import SegmenterSettings
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.loaders import files_named, segmentation_examples
from pneumoseg.data.splits import positives_and_sampled_negatives
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.training.averaging import keep_average, log_average, trainable_part_at
from pneumoseg.training.objective import segmentation_loss, segmentation_metrics
from pneumoseg.training.phases import fit_phases, load_sides, plan_epoch
from pneumoseg.training.precision import precision
from pneumoseg.training.run import EPOCH_WEIGHTS, Watch, finish_run, metrics_of_finished, open_run, split_manifest
from pneumoseg.training.start import save_trained_before, trained_before

_MONITOR = "val_iou"


def train_segmenter(
    settings: SegmenterSettings,
    manifest: pd.DataFrame,
    folder: str | Path,
    cache_dir: str | Path,
    *,
    resume: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train a segmenter in phases and keep the bundle of the epoch with the best validation IoU (section 4.1.2).

    It sees all positives and randomly drawn negatives, the same share on both sides of the split (section 3.2.1).
    Where the settings average weights, the average is kept beside it, as `swa/`, with its batch statistics recomputed
    over the training images as they are, and its scores go into `metrics.json`.
    Arguments, result and errors as `training.classifier.train_classifier`; a `start_from` that was trained on images
    kept out now is refused, see `start.trained_before`.
    """
    if settings.cross_validate:
        raise ValueError("cross_validate is true: call cross_validate")
    training, validation = split_manifest(manifest, settings.split)
    return train_split(settings, training, validation, folder, cache_dir, resume=resume, watch=watch)


def train_split(
    settings: SegmenterSettings,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    folder: str | Path,
    cache_dir: str | Path,
    *,
    resume: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train on given sides, from which negatives are drawn; all else as `train_segmenter`."""
    kept_out = validation
    training, validation = (
        positives_and_sampled_negatives(side, settings.negatives_per_positive, seed=settings.seed)
        for side in (training, validation)
    )
    finished = metrics_of_finished(Path(folder), settings, training, validation) if resume else None
    if finished is not None:
        return finished
    before = trained_before(settings.start_from, kept_out) if settings.start_from is not None else None
    keras.utils.set_random_seed(settings.seed)
    names = ("architecture", "backbone", "image_size", "decoder_filters")
    arguments: dict[str, Any] = {name: getattr(settings, name) for name in names}
    with precision(settings.precision):
        model = build_segmenter(**arguments, weights=settings.weights)
    if settings.start_from is not None:
        model.set_weights(load_bundle(settings.start_from).model.get_weights())
    chosen = settings.augmentation
    augmentations = [Augmentation(chosen.transforms, chosen.probability, chosen.zoom)] if chosen else []

    def save(model: keras.Model, _: dict[str, float]) -> None:
        save_bundle(run / "best", model, "segmenter", arguments, {"probability": 0.5})

    with open_run(folder, settings, training, validation, resume=resume) as run, files_named(training, validation):
        if before is not None:
            save_trained_before(run, before)
        examples, checked = load_sides(segmentation_examples, settings, (training, validation), cache_dir)
        labels, best = training["has_pneumothorax"].to_numpy(), BestBundle(_MONITOR, save)
        validation_batches = checked.batches(settings.batch_size)
        swa = SWA(**settings.swa.model_dump()) if settings.swa else None
        budget = settings.epoch_weights_gigabytes
        history = fit_phases(
            model,
            settings.phases,
            lambda n: examples.batches(settings.batch_size, plan_epoch(settings, labels, n), augmentations),
            segmentation_loss(settings.loss),
            segmentation_metrics(),
            best,
            run,
            validation=validation_batches,
            swa=swa,
            epoch_weights=EpochWeights(run / EPOCH_WEIGHTS, budget, _MONITOR) if budget else None,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            jit_compile=settings.jit_compile,
            watch=watch(run) if watch else None,
        )
        averaged: dict[str, float] = {}
        if settings.swa and swa is not None:
            part, shown = trainable_part_at(settings.phases, swa.end_epoch), examples.batches(settings.batch_size)
            scores = keep_average(
                run / "swa", model, swa.average, arguments, part, settings.loss, shown, validation_batches,
                jit_compile=settings.jit_compile,
            )  # fmt: skip
            log_average(run, settings.swa, scores["val_iou"], history["val_iou"].max())
            averaged = {f"swa_{name}": value for name, value in (settings.swa.model_dump() | scores).items()}
        return finish_run(run, history, best.best_epoch, training, validation, averaged)
