"""Compute reference numbers with tensorflow-addons and segmentation-models, and compare them with reference.json.

Run it with the environment of requirements.txt: ``python tests/oracles/reference.py``. It ends with 1 and prints the
differences if a number moved; ``--write`` rewrites the file instead. Conventions are recorded as the libraries have
them. The tests convert them where necessary and say why.
"""

import argparse
import json
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["SM_FRAMEWORK"] = "tf.keras"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import segmentation_models as sm
import tensorflow as tf
import tensorflow_addons as tfa

REFERENCE = Path(__file__).with_name("reference.json")
TOLERANCE = 1e-6


def inputs():
    """Return masks and probabilities, (5, 6, 6): found, half found, missed, false alarm, correctly empty."""
    masks = np.zeros((5, 6, 6), int)
    masks[0, 1:4, 1:4] = 1
    masks[1, 2:6, 0:3] = 1
    masks[2, 5, 4:6] = 1
    likely = np.zeros((5, 6, 6), bool)
    likely[0, 1:4, 1:5] = True
    likely[1, 0:4, 0:2] = True
    likely[3, 0:2, 0:4] = True
    noise = np.random.default_rng(2019).uniform(0.02, 0.45, likely.shape)
    return masks, np.where(likely, 1 - noise, noise).round(3)


def matthews(masks, probabilities):
    """Return the MCC of tensorflow-addons, of all pixels in two batches and of a prediction with only one class."""
    predicted = (probabilities > 0.5).astype(int)
    streamed = tfa.metrics.MatthewsCorrelationCoefficient(num_classes=2)
    for part in (slice(0, 3), slice(3, 5)):
        streamed.update_state(np.eye(2)[masks[part].ravel()], np.eye(2)[predicted[part].ravel()])
    empty = tfa.metrics.MatthewsCorrelationCoefficient(num_classes=2)
    empty.update_state(np.eye(2)[masks.ravel()], np.eye(2)[np.zeros(masks.size, int)])
    return {"mcc": streamed.result(), "mcc_nothing_predicted": empty.result()}


def tfa_focal(masks, probabilities):
    """Return the focal loss of tensorflow-addons: the mean over pixels, and the sums over a last axis of pixels."""
    true, pred = masks.astype("float32"), probabilities.astype("float32")
    focal = tfa.losses.SigmoidFocalCrossEntropy(reduction=tf.keras.losses.Reduction.NONE)
    other = tfa.losses.SigmoidFocalCrossEntropy(alpha=0.6, gamma=1.5, reduction=tf.keras.losses.Reduction.NONE)
    return {
        "focal": tf.reduce_mean(focal(true[..., None], pred[..., None])),
        "focal_alpha_0.6_gamma_1.5": tf.reduce_mean(other(true[..., None], pred[..., None])),
        "focal_sum_by_image": focal(true.reshape(5, -1), pred.reshape(5, -1)),
    }


def losses_and_scores(masks, probabilities):
    """Return the losses and metrics of segmentation-models."""
    true = tf.constant(masks[..., None], tf.float32)
    pred = tf.constant(probabilities[..., None], tf.float32)
    functions = {
        "focal": sm.losses.BinaryFocalLoss(),
        "focal_alpha_0.6_gamma_1.5": sm.losses.BinaryFocalLoss(alpha=0.6, gamma=1.5),
        "dice_pooled": sm.losses.DiceLoss(),
        "dice_per_image": sm.losses.DiceLoss(per_image=True),
        "dice_smooth_1": sm.losses.DiceLoss(per_image=True, smooth=1.0),
        "focal_plus_dice": sm.losses.binary_focal_dice_loss,
        "three_focal_plus_dice": 3 * sm.losses.BinaryFocalLoss() + sm.losses.DiceLoss(),
    }
    for name, per_image in (("per_image", True), ("pooled", False)):
        functions[f"iou_{name}"] = sm.metrics.IOUScore(threshold=0.5, per_image=per_image)
        functions[f"f1_{name}"] = sm.metrics.FScore(beta=1, threshold=0.5, per_image=per_image)
        functions[f"f2_{name}"] = sm.metrics.FScore(beta=2, threshold=0.5, per_image=per_image)
    return {name: function(true, pred) for name, function in functions.items()}


def weight_averaging(start, period):
    """Return the weights after each of nine SGD steps, and the running average of tensorflow-addons.

    Steps are counted from 0. The weights after step ``start`` and after every ``period`` further steps are averaged.
    """
    optimizer = tfa.optimizers.SWA(tf.keras.optimizers.legacy.SGD(0.5), start_averaging=start, average_period=period)
    weights = tf.Variable([1.0, -2.0])
    gradients = [[0.5, -1.0], [1.0, 0.25], [-2.0, 0.5], [0.75, 2.0], [0.1, -0.3]]
    gradients += [[-0.6, 0.9], [1.2, -1.5], [0.4, 0.8], [-0.2, -0.7]]
    steps, averages = [], []
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), weights)])
        steps.append(weights.numpy())
        averages.append(optimizer.get_slot(weights, "average").numpy())
    optimizer.assign_average_vars([weights])
    return {
        "start_averaging": start,
        "average_period": period,
        "weights_after_step": steps,
        "average_after_step": averages,
        "assigned": weights,
    }


def plain(value):
    """Return a value as JSON types, with floats at the nine digits that distinguish float32 numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    listed = np.asarray(value).tolist()
    return plain(listed) if isinstance(listed, list) else float(f"{listed:.9g}")


def compute():
    """Return the contents of reference.json."""
    masks, probabilities = inputs()
    computed = {
        "versions": {
            "tensorflow": tf.__version__,
            "tensorflow-addons": tfa.__version__,
            "segmentation-models": version("segmentation-models"),
        },
        "inputs": {"masks": masks, "probabilities": probabilities},
        "tensorflow-addons": {**matthews(masks, probabilities), **tfa_focal(masks, probabilities)},
        "segmentation-models": losses_and_scores(masks, probabilities),
        "weight averaging": {"every step": weight_averaging(3, 1), "every second": weight_averaging(2, 2)},
    }
    return plain(computed)


def flat(value, name=""):
    """Yield (name, number or text) for every leaf of nested dictionaries and lists."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from flat(item, f"{name} / {key}" if name else str(key))
    else:
        yield name, value


def differences(committed, computed):
    """Return one line for every item that is missing on one side or differs."""
    old, new = dict(flat(committed)), dict(flat(computed))
    return [
        f"{name}: committed {old.get(name)}, computed {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if not same(old.get(name), new.get(name))
    ]


def same(old, new):
    """Return whether two leaves agree, with a tolerance for numbers."""
    if isinstance(old, (int, float)) and isinstance(new, (int, float)):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return old == new


def written(computed):
    """Return the text of reference.json, with one item per line so that diffs are readable."""
    parts = []
    for part, items in computed.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in items.items()]
        parts.append(f"{json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main():
    """Compare the reference numbers, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="rewrite reference.json")
    write = parser.parse_args().write
    computed = compute()
    if write:
        REFERENCE.write_text(written(computed))
        return
    moved = differences(json.loads(REFERENCE.read_text()), computed)
    if moved:
        sys.exit("\n".join([f"{len(moved)} reference numbers differ:", *moved]))
    sys.stdout.write(f"All {len(dict(flat(computed)))} reference numbers agree to {TOLERANCE:g}.\n")


if __name__ == "__main__":
    main()
