"""A training step of the paper's classifier at full size: seconds, memory, and whether it waits for its data.

Baseline: the same step on one batch held in memory, in the same run. Trains as experiments/classifier_augmentation.yaml
says, but from random weights, on generated files. The recipe's time is worked out from the steps for the 9,638 training
and 2,409 validation images that the competition's 12,047 give.

Run with: python benchmarks/classifier_step.py [--steps 20] [--image-size 1024] [--backbone xception]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import itertools
import math
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import keras
import tensorflow as tf

from pneumoseg.config import load_classifier_settings
from pneumoseg.data import loaders
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.index import index_dataset
from pneumoseg.data.sampling import random_epoch
from pneumoseg.models.classifier import build_classifier
from pneumoseg.synthetic import write_dataset
from pneumoseg.training.phases import compile_phase

EXPERIMENT = Path(__file__).parents[1] / "experiments/classifier_augmentation.yaml"
TRAINING, VALIDATION = 9638, 2409


class Steps(keras.callbacks.Callback):
    """The seconds of each step, the wait for its data included."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self.losses.append((logs or {}).get("loss", math.nan))
        self._last = now


def fitted(model: keras.Model, batches: tf.data.Dataset, steps: int) -> Steps:
    noted = Steps()
    model.fit(batches.take(steps), callbacks=[noted], verbose=0)
    return noted


def gibibytes() -> float:
    """The most memory so far: the GPU's if there is one, else the process's."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--backbone", default="xception")
    options = parser.parse_args()
    settings, steps = load_classifier_settings(EXPERIMENT), options.steps
    batch = settings.batch_size
    loaders._MEMORY_BUDGET = 0  # as with the competition's set: every file is decoded anew
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two generated files that no index accepts
        data = Path(temporary) / "data"
        write_dataset(data, train=(steps + 2) * batch, test=0, seed=0)
        manifest = index_dataset(data / "dicom-images-train", data / "train-rle.csv")
        examples = loaders.classification_examples(manifest, options.image_size, cache_dir=temporary)
        chosen = settings.augmentation
        augmentations = [Augmentation(chosen.techniques, chosen.probability, chosen.zoom)]
        epoch = random_epoch(manifest["has_pneumothorax"].to_numpy(), 0, seed=0, augmented=True)
        batches = examples.batches(batch, epoch, augmentations)
        held = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
        model = build_classifier(options.backbone, options.image_size, weights=None)
        print(f"{options.backbone}, {options.image_size} x {options.image_size}, batch {batch}, float32,", end=" ")
        print(f"{model.count_params():,} parameters, {os.cpu_count()} cores, {sys.platform}, no weights downloaded")
        seconds = {}
        for phase, count in zip(settings.phases, (min(steps, 5), steps), strict=True):
            part = phase.trainable
            compile_phase(model, phase, keras.losses.BinaryCrossentropy(), [])
            noted = fitted(model, batches, count + 1)
            seconds[part] = statistics.median(noted.seconds[1:])
            print(f"{part} trainable, {count} steps after the first ({noted.seconds[0]:.1f} s):", end=" ")
            print(f"{seconds[part]:.2f} s a step, memory up to {gibibytes():.1f} GiB, loss {noted.losses[-1]:.3f}")
        without_loader = statistics.median(fitted(model, held, 6).seconds[1:])
        print(f"all trainable, one batch held in memory, 5 steps: {without_loader:.2f} s a step")
        print(f"ratio of a step with loader and augmentation to one without: {seconds['all'] / without_loader:.2f}")
        loading = time.perf_counter()
        loaded = sum(1 for _ in itertools.islice(batches, steps))
        print(f"the loader alone: {loaded * batch / (time.perf_counter() - loading):.0f} images/s")
        model.predict(held.take(1), verbose=0)
        predicting = time.perf_counter()
        model.predict(held.take(3), verbose=0)
        prediction = (time.perf_counter() - predicting) / 3
        print(f"prediction: {prediction:.2f} s a batch")
        training = math.ceil(TRAINING / batch) * sum(p.epochs * seconds[p.trainable] for p in settings.phases)
        validation = math.ceil(VALIDATION / batch) * sum(p.epochs for p in settings.phases) * prediction
        total = training + validation
        print(f"the whole recipe on this machine: {total / 86400:.1f} days; the paper's: {25 * 50 / 60:.1f} hours")


if __name__ == "__main__":
    main()
