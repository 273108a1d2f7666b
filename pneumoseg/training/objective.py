"""What a segmenter's training minimises and measures."""

import keras

from pneumoseg.config import SegmentationLoss
from pneumoseg.losses import DiceLoss, FocalLoss, TverskyLoss, WeightedSum
from pneumoseg.metrics import FBeta, IoU


def segmentation_loss(settings: SegmentationLoss) -> keras.losses.Loss:
    """The weighted sum of an experiment file; section 3.2.2: focal and Dice, 1 : 1."""
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
    """IoU, F1 and F2: as means over images, empty of empty counting 1, and of all pixels pooled."""
    return [
        IoU(),
        FBeta(beta=1),
        FBeta(beta=2),
        IoU(per_image=False, name="pooled_iou"),
        FBeta(beta=1, per_image=False, name="pooled_f1"),
        FBeta(beta=2, per_image=False, name="pooled_f2"),
    ]
