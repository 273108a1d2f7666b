"""Cost of augmentation: milliseconds per transform, and images per second of the classifier's loader.

The baseline is the same loader without augmentation in the same run. Both decode every file again in each pass.
benchmarks/training_step.py measures whether training waits for augmentation.

Run with: python benchmarks/augmentation.py [FOLDER OF DICOM FILES]   (without one, on generated files)
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import time

import numpy as np
import pandas as pd
from loader import BATCH, ROUNDS, films, seconds

from pneumoseg.data import loaders
from pneumoseg.data.augmentation import TRANSFORMS, Augmentation
from pneumoseg.data.sampling import random_epoch
from pneumoseg.dicom import read_image

PAPER = ("clahe", "optical_distortion", "zoom_in", "zoom_out")


def milliseconds(image: np.ndarray, mask: np.ndarray | None, transforms: tuple[str, ...], probability: float) -> float:
    augment = Augmentation(transforms, probability)
    augment(image, mask, seed=0)
    start = time.perf_counter()
    for seed in range(40):
        augment(image, mask, seed=seed)
    return (time.perf_counter() - start) / 40 * 1000


def transforms(image: np.ndarray) -> None:
    mask = np.zeros(image.shape, bool)
    mask[200:500, 200:400] = True
    print(f"milliseconds per image of {image.shape[0]} x {image.shape[1]}     alone   with its mask")
    for name in TRANSFORMS:
        print(f"{name:36} {milliseconds(image, None, (name,), 1):8.1f} {milliseconds(image, mask, (name,), 1):8.1f}")
    paper = [milliseconds(image, m, PAPER, 0.5) for m in (None, mask)]
    print(f"{'the four of the paper, each at 50%':36} {paper[0]:8.1f} {paper[1]:8.1f}")


def loader(manifest: pd.DataFrame, cache: str) -> None:
    # As for a data set that is too large for memory, each pass reads and decodes every file.
    examples = loaders.classification_examples(manifest, 1024, cache_dir=cache, decoded_images_gigabytes=0)
    labels = manifest["has_pneumothorax"].to_numpy()
    plain = examples.batches(BATCH, random_epoch(labels, 0, seed=0))
    augmented = examples.batches(BATCH, random_epoch(labels, 0, seed=0, augmented=True), [Augmentation(PAPER, 0.5)])
    times: dict[str, list[tuple[float, float]]] = {"without augmentation": [], "with augmentation": []}
    for _ in range(ROUNDS + 1):
        for name, batches in zip(times, (plain, augmented), strict=True):
            times[name].append(seconds(batches.__iter__))
    without, with_ = (measured[1:] for measured in times.values())
    busy = []
    for name, measured in zip(times, (without, with_), strict=True):
        passed, processor = (statistics.median(column) for column in zip(*measured, strict=True))
        busy.append(1000 * processor / len(manifest))
        rate = len(manifest) / passed
        print(f"classifier's loader, 1024, {name:22} {rate:6.0f} images/s   {busy[-1]:5.2f} ms of processor time")
    ratio = statistics.median(base[0] / own[0] for base, own in zip(without, with_, strict=True))
    print(f"ratio: {ratio:.2f} (median of {ROUNDS} rounds in turn, {os.cpu_count()} cores)")
    print(f"augmentation: {busy[1] - busy[0]:.2f} ms of processor time per image")


if __name__ == "__main__":
    with films(__doc__) as (manifest, temporary):
        transforms(read_image(manifest["path"][0]))
        loader(manifest, temporary)
