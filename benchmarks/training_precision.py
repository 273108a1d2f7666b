"""Training in mixed_bfloat16 against float32: seconds per step and the curves of the loss.

Both train on the same generated images, in the same order and from the same initial weights, with their steps taken in
turn in one process. A second training in float32 from other initial weights shows how much curves differ anyway.

Run with: python benchmarks/training_precision.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pneumoseg.config import SegmentationLoss
from pneumoseg.data import loaders
from pneumoseg.data.index import index_dataset
from pneumoseg.data.sampling import random_epoch
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.processor import processor_name
from pneumoseg.synthetic import write_dataset
from pneumoseg.training.objective import segmentation_loss, segmentation_metrics
from pneumoseg.training.precision import precision

SIZE, BATCH, EPOCHS = 64, 8, 4
TRAIN, HELD_OUT = 15, 5  # batches
LOSS = SegmentationLoss(focal_weight=1.0, dice_weight=1.0, alpha=0.25, gamma=2.0, per_image=False)
BUILDERS = {
    "classifier-compact": lambda: build_classifier("compact", SIZE, None),
    "segmenter-compact": lambda: build_segmenter("unet", "compact", SIZE, None),
}
TRAININGS = {
    "float32": ("float32", 0),
    "float32, other weights": ("float32", 1),
    "mixed_bfloat16": ("mixed_bfloat16", 0),
}


def batches(kind: str, folder: Path) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Return batches to train on and to score on, in memory."""
    write_dataset(folder, train=(TRAIN + HELD_OUT) * BATCH, test=0, seed=0, size=SIZE)
    manifest = index_dataset(folder / "dicom-images-train", folder / "train-rle.csv")
    make = loaders.classification_examples if kind == "classifier" else loaders.segmentation_examples
    labels = manifest["has_pneumothorax"].to_numpy()
    read = list(make(manifest, SIZE, cache_dir=folder).batches(BATCH, random_epoch(labels, 0, seed=0, augmented=False)))
    return read[:TRAIN], read[TRAIN : TRAIN + HELD_OUT]


def compiled(name: str, policy: str, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    with precision(policy):
        model = BUILDERS[name]()
    classifies = name.startswith("classifier")
    loss = keras.losses.BinaryCrossentropy() if classifies else segmentation_loss(LOSS)
    metrics = [keras.metrics.AUC(name="auc")] if classifies else segmentation_metrics()
    model.compile(keras.optimizers.Adam(5e-4), loss, metrics=metrics, jit_compile=False)
    return model


def compare(name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # generated files that no index accepts
        training, held_out = batches(name.partition("-")[0], Path(temporary) / "data")
    models = {each: compiled(name, *arguments) for each, arguments in TRAININGS.items()}
    seconds, losses = {each: [] for each in models}, {each: [] for each in models}
    for images, truth in EPOCHS * [batch[:2] for batch in training]:
        for each, model in models.items():
            model.reset_metrics()
            begun = time.perf_counter()
            logs = model.train_on_batch(images, truth, return_dict=True)
            seconds[each].append(time.perf_counter() - begun)
            losses[each].append(float(logs["loss"]))
    report(name, models, seconds, losses, held_out)


def report(name: str, models: dict, seconds: dict, losses: dict, held_out: list[tf.Tensor]) -> None:
    parameters = models["float32"].count_params()
    print(f"{name}, {SIZE} x {SIZE}, batch {BATCH}, {parameters:,} parameters, {EPOCHS * TRAIN} steps", flush=True)
    images, truth = (np.concatenate([batch[part] for batch in held_out]) for part in (0, 1))
    for each, model in models.items():
        curve = ", ".join(f"{loss:.4f}" for loss in np.reshape(losses[each], (EPOCHS, TRAIN)).mean(axis=1))
        scores = model.evaluate(images, truth, batch_size=BATCH, verbose=0, return_dict=True)
        held = ", ".join(f"{key} {score:.4f}" for key, score in scores.items())
        step = statistics.median(seconds[each][2:]) * 1000  # the first steps trace the graph
        print(f"  {each}: {step:.1f} ms per step; loss by epoch: {curve}; held out: {held}", flush=True)
    pairs = zip(seconds["mixed_bfloat16"][2:], seconds["float32"][2:], strict=True)
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"  seconds of a step relative to float32, median: {ratio:.2f}", flush=True)


def main() -> None:
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    print(f"{processor_name()}, {os.cpu_count()} cores, {versions}", flush=True)
    for name in BUILDERS:
        compare(name)


if __name__ == "__main__":
    main()
