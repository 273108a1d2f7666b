"""Training step of the paper's networks at full size: seconds, memory, and whether it waits for its data.

Baseline: the same step on one batch held in memory, in the same run. The training follows
experiments/classifier_augmentation.yaml or segmenter_window_swa.yaml, but starts from random weights and uses
generated files. The time of the whole recipe is extrapolated from the steps, for the number of images that the
competition's 9,378 negatives and 2,669 positives give.

Run with: python benchmarks/training_step.py classifier|segmenter [--steps 20] [--batch-size N]
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

from pneumoseg.config import ClassifierSettings, Experiment, load_experiment
from pneumoseg.data import loaders
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.index import index_dataset
from pneumoseg.data.sampling import random_epoch
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.synthetic import write_dataset
from pneumoseg.training.engine import compile_phase
from pneumoseg.training.objective import segmentation_loss

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
EXPERIMENT = {"classifier": "classifier_augmentation.yaml", "segmenter": "segmenter_window_swa.yaml"}
# Images for training and validation, 80 / 20: all of them, or for the segmenter the positives and as many negatives.
IMAGES = {"classifier": (9638, 2409), "segmenter": (4270, 1068)}
PAPER = {"classifier": f"the paper's: {25 * 50 / 60:.1f} hours on a GTX 1080 Ti", "segmenter": "the paper does not say"}


class Steps(keras.callbacks.Callback):
    """Record the seconds of each step, including the wait for its data."""

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
    """Return the peak memory so far: the GPU's if there is one, else the process's."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def network(settings: Experiment) -> tuple[keras.Model, keras.losses.Loss]:
    """Return the network with random weights, and its loss."""
    if isinstance(settings, ClassifierSettings):
        return build_classifier(settings.backbone, settings.image_size, None), keras.losses.BinaryCrossentropy()
    model = build_segmenter(settings.architecture, settings.backbone, settings.image_size, None)
    return model, segmentation_loss(settings.loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["classifier", "segmenter"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int)
    options = parser.parse_args()
    settings = load_experiment(EXPERIMENTS / EXPERIMENT[options.kind])
    batch = options.batch_size or settings.batch_size
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two generated files that no index accepts
        data = Path(temporary) / "data"
        write_dataset(data, train=(options.steps + 2) * batch, test=0, seed=0)
        manifest = index_dataset(data / "dicom-images-train", data / "train-rle.csv")
        make = loaders.classification_examples if options.kind == "classifier" else loaders.segmentation_examples
        # Every file is decoded again each time, as for the classifier with the competition's data set.
        examples = make(manifest, settings.image_size, cache_dir=temporary, decoded_images_gigabytes=0)
        chosen = settings.augmentation
        augmentations = [Augmentation(chosen.transforms, chosen.probability, chosen.zoom)] if chosen else []
        labels = manifest["has_pneumothorax"].to_numpy()
        epoch = random_epoch(labels, 0, seed=0, augmented=bool(augmentations))
        measure(options.kind, settings, examples.batches(batch, epoch, augmentations), batch, options.steps)


def measure(
    kind: str,
    settings: Experiment,
    batches: tf.data.Dataset,
    batch: int,
    steps: int,
) -> None:
    held = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    model, loss = network(settings)
    print(f"{model.name}, {settings.image_size} x {settings.image_size}, batch {batch}, float32,", end=" ")
    print(f"{model.count_params():,} parameters, {os.cpu_count()} cores, {sys.platform}, no weights downloaded")
    seconds = {}
    for phase, count in zip(settings.phases, (min(steps, 5), steps), strict=True):
        part = phase.trainable
        compile_phase(model, phase, loss, [])
        noted = fitted(model, batches, count + 1)
        seconds[part] = statistics.median(noted.seconds[1:])
        print(f"{part} trainable, {count} steps after the first ({noted.seconds[0]:.1f} s):", end=" ")
        print(f"{seconds[part]:.2f} s per step, memory up to {gibibytes():.1f} GiB, loss {noted.losses[-1]:.3f}")
    without_loader = statistics.median(fitted(model, held, 6).seconds[1:])
    print(f"all trainable, one batch held in memory, 5 steps: {without_loader:.2f} s per step")
    print(f"ratio of a step with its data to one without: {seconds['all'] / without_loader:.2f}")
    loading = time.perf_counter()
    loaded = sum(1 for _ in itertools.islice(batches, steps))
    print(f"the data alone: {loaded * batch / (time.perf_counter() - loading):.0f} images/s")
    model.predict(held.take(1), verbose=0)
    predicting = time.perf_counter()
    model.predict(held.take(3), verbose=0)
    prediction = (time.perf_counter() - predicting) / 3
    print(f"prediction: {prediction:.2f} s per batch")
    training, validation = (math.ceil(images / batch) for images in IMAGES[kind])
    epochs = sum(phase.epochs for phase in settings.phases)
    total = training * sum(p.epochs * seconds[p.trainable] for p in settings.phases) + validation * epochs * prediction
    print(f"the whole recipe on this machine: {total / 86400:.1f} days; {PAPER[kind]}")


if __name__ == "__main__":
    main()
