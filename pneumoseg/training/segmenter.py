"""Train the segmenter: settings and manifest to a run."""

from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.config import SegmentationLoss, SegmenterSettings
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.loaders import segmentation_examples
from pneumoseg.data.sampling import random_epoch
from pneumoseg.data.splits import positives_and_sampled_negatives
from pneumoseg.losses import DiceLoss, FocalLoss
from pneumoseg.metrics import FBeta, IoU
from pneumoseg.models.bundle import save_bundle
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.training.phases import fit_phases
from pneumoseg.training.run import Watch, finish_run, open_run, split_manifest


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
    Arguments, result and errors as `training.classifier.train_classifier`.
    """
    keras.utils.set_random_seed(settings.seed)
    arguments: dict[str, Any] = {
        "architecture": settings.architecture,
        "backbone": settings.backbone,
        "image_size": settings.image_size,
        "decoder_filters": settings.decoder_filters,
    }
    model = build_segmenter(**arguments, weights=settings.weights)
    training, validation = (
        positives_and_sampled_negatives(side, settings.negatives_per_positive, seed=settings.seed)
        for side in split_manifest(manifest, settings.split)
    )
    chosen = settings.augmentation
    augmentations = [Augmentation(chosen.techniques, chosen.probability, chosen.zoom)] if chosen else []

    def save(model: keras.Model, _: dict[str, float]) -> None:
        save_bundle(run / "best", model, "segmenter", arguments, {"probability": 0.5})

    with open_run(folder, settings, training, validation, resume=resume) as run:
        examples, checked = (
            segmentation_examples(side, settings.image_size, cache_dir=cache_dir) for side in (training, validation)
        )
        labels, best = training["has_pneumothorax"].to_numpy(), BestBundle("val_iou", save)

        def epoch_batches(number: int) -> tf.data.Dataset:
            epoch = random_epoch(labels, number, seed=settings.seed, augmented=bool(augmentations))
            return examples.batches(settings.batch_size, epoch, augmentations)

        history = fit_phases(
            model,
            settings.phases,
            epoch_batches,
            _loss(settings.loss),
            [
                IoU(),
                FBeta(beta=1, name="f1"),
                FBeta(beta=2, name="f2"),
                IoU(per_image=False, name="pooled_iou"),
            ],
            best,
            run,
            validation=checked.batches(settings.batch_size),
            watch=watch(run) if watch else None,
        )
        return finish_run(run, history, best.best_epoch, training, validation)


def _loss(settings: SegmentationLoss) -> keras.losses.Loss:
    focal = FocalLoss(alpha=settings.alpha, gamma=settings.gamma)
    dice = DiceLoss(per_image=settings.per_image)
    return settings.focal_weight * focal + settings.dice_weight * dice
