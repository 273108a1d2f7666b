"""Objectives of a training: losses, metrics, and the value that tells the best epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from pneumoseg.config import ClassifierSettings, FocalLossSettings, SegmentationLoss
from pneumoseg.losses import DiceLoss, FocalLoss, TverskyLoss, WeightedSum
from pneumoseg.metrics import FBeta, IoU, MatthewsCorrelation


@dataclass(frozen=True)
class Objective:
    """Loss, metrics, and the value that tells the best epoch.

    Attributes:
        loss: Loss to minimise.
        monitor: Name of the value in an epoch's logs that tells how good the epoch is; greater is better.
        metrics: Metrics of the training images, and of `validation` if it is given.
        validation: Batches on which Keras measures the loss and the metrics after each epoch.
        validation_callback: Callback that adds validation scores to the logs itself, in place of `validation`.
        class_weights: Weight of one image in the training loss, by label.
    """

    loss: keras.losses.Loss
    monitor: str
    metrics: Sequence[keras.metrics.Metric] = ()
    validation: tf.data.Dataset | None = None
    validation_callback: keras.callbacks.Callback | None = None
    class_weights: dict[int, float] | None = None


def classification_loss(settings: ClassifierSettings) -> keras.losses.Loss:
    """Return the loss that a classifier's experiment names."""
    if isinstance(settings.loss, FocalLossSettings):
        return FocalLoss(alpha=settings.loss.alpha, gamma=settings.loss.gamma)
    return keras.losses.BinaryCrossentropy()


def classification_metrics() -> list[keras.metrics.Metric]:
    """Return the metrics of the classifier's training images."""
    return [MatthewsCorrelation(), keras.metrics.AUC(name="auc"), keras.metrics.BinaryAccuracy(name="accuracy")]


def segmentation_loss(settings: SegmentationLoss) -> keras.losses.Loss:
    """Return the weighted sum of losses of an experiment file; section 3.2.2 takes focal and Dice, 1 : 1."""
    terms = [
        (settings.focal_weight, FocalLoss(alpha=settings.alpha, gamma=settings.gamma)),
        (settings.dice_weight, DiceLoss(per_image=settings.per_image)),
        (settings.cross_entropy_weight, keras.losses.BinaryCrossentropy()),
        (
            settings.tversky_weight,
            TverskyLoss(settings.tversky_alpha, settings.tversky_beta, per_image=settings.per_image),
        ),
    ]
    weights, losses = zip(*[(weight, loss) for weight, loss in terms if weight], strict=True)
    return WeightedSum(losses, weights)


def segmentation_metrics() -> list[keras.metrics.Metric]:
    """Return IoU, F1 and F2: as means over images, where two empty masks score 1, and over all pixels pooled."""
    return [
        IoU(),
        FBeta(beta=1),
        FBeta(beta=2),
        IoU(per_image=False, name="pooled_iou"),
        FBeta(beta=1, per_image=False, name="pooled_f1"),
        FBeta(beta=2, per_image=False, name="pooled_f2"),
    ]
