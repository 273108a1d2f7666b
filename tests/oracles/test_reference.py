"""Comparison of losses, metrics and weight averages with tensorflow-addons and segmentation-models (reference.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from pneumoseg.callbacks.swa import SWA
from pneumoseg.losses import DiceLoss, FocalLoss
from pneumoseg.metrics import FBeta, IoU, MatthewsCorrelation

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())
TFA, SM = REFERENCE["tensorflow-addons"], REFERENCE["segmentation-models"]
MASKS = np.array(REFERENCE["inputs"]["masks"])[..., None]
PROBABILITIES = np.array(REFERENCE["inputs"]["probabilities"], "float32")[..., None]
# segmentation-models adds this to the numerator and the denominator.
SM_SMOOTH = 1e-5


def loss_of(loss):
    return ops.convert_to_numpy(loss(MASKS, PROBABILITIES))


def metric_of(metric):
    for part in (slice(0, 3), slice(3, 5)):
        metric.update_state(MASKS[part], PROBABILITIES[part])
    return float(metric.result())


def test_mcc():
    assert metric_of(MatthewsCorrelation()) == pytest.approx(TFA["mcc"], abs=1e-6)
    assert metric_of(MatthewsCorrelation(threshold=1.0)) == TFA["mcc_nothing_predicted"]


@pytest.mark.parametrize("theirs", [TFA, SM], ids=["tensorflow-addons", "segmentation-models"])
def test_focal(theirs):
    assert loss_of(FocalLoss()) == pytest.approx(theirs["focal"], rel=2e-6)
    assert loss_of(FocalLoss(alpha=0.6, gamma=1.5)) == pytest.approx(theirs["focal_alpha_0.6_gamma_1.5"], rel=2e-6)


def test_focal_of_each_image():
    # tensorflow-addons sums over the last axis, here the 36 pixels of an image; our loss is their mean.
    assert loss_of(FocalLoss(reduction=None)) == pytest.approx(np.array(TFA["focal_sum_by_image"]) / 36, rel=2e-6)


def test_dice():
    assert loss_of(DiceLoss(smooth=SM_SMOOTH, per_image=False)) == pytest.approx(SM["dice_pooled"], rel=2e-6)
    assert loss_of(DiceLoss(smooth=SM_SMOOTH)) == pytest.approx(SM["dice_per_image"], rel=2e-6)
    assert loss_of(DiceLoss(smooth=1.0)) == pytest.approx(SM["dice_smooth_1"], rel=2e-6)


def test_focal_and_dice_add_up():
    # By default, their Dice loss is pooled over the batch, and ours is computed per image.
    pooled = DiceLoss(smooth=SM_SMOOTH, per_image=False)
    assert loss_of(FocalLoss() + pooled) == pytest.approx(SM["focal_plus_dice"], rel=2e-6)
    assert loss_of(3 * FocalLoss() + pooled) == pytest.approx(SM["three_focal_plus_dice"], rel=2e-6)


@pytest.mark.parametrize("name", ["per_image", "pooled"])
def test_overlap(name):
    # Our metrics add nothing and score two empty masks as 1. At these sizes their term is worth up to 3e-6.
    per_image = name == "per_image"
    assert metric_of(IoU(per_image=per_image)) == pytest.approx(SM[f"iou_{name}"], abs=3e-6)
    assert metric_of(FBeta(beta=1, per_image=per_image)) == pytest.approx(SM[f"f1_{name}"], abs=3e-6)
    assert metric_of(FBeta(beta=2, per_image=per_image)) == pytest.approx(SM[f"f2_{name}"], abs=3e-6)


class Weights:
    """A model that consists of two weights."""

    def __init__(self, values):
        self.values = values

    def get_weights(self):
        return [np.array(self.values, "float32")]


@pytest.mark.parametrize("schedule", sorted(REFERENCE["weight averaging"]))
def test_weights_are_averaged_as_tensorflow_addons_does(schedule):
    reference = REFERENCE["weight averaging"][schedule]
    # tensorflow-addons counts steps from 0 and takes its first sample after step `start_averaging`.
    swa = SWA(reference["start_averaging"] + 1, 9, reference["average_period"])
    for step, weights in enumerate(reference["weights_after_step"]):
        swa.set_model(Weights(weights))
        swa.on_epoch_end(step)
        if swa.count:
            np.testing.assert_allclose(swa.average[0], reference["average_after_step"][step], rtol=1e-6)
    np.testing.assert_allclose(swa.average[0], reference["assigned"], rtol=1e-6)
