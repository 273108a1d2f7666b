"""Images per second of the loaders, compared with two baselines in the same run.

(a) `tf.io.decode_jpeg` alone, on the same JPEG frames in memory: the upper limit with this decoder.
(b) pydicom with pillow in a Keras PyDataset, with one worker thread or one worker process per core: the obvious
    solution.

Every fifth image has a mask of 1.4% of its pixels, about as in the competition. Processor time is measured too, because
it depends less on other work on the machine than the time that passes.

Run with: python benchmarks/loader.py [FOLDER OF JPEG-BASELINE DICOM FILES]   (without one, on generated files)
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pydicom
import tensorflow as tf

# `fit` reads a PyDataset with this class, which has no public name in Keras 3.
from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer

from pneumoseg import rle
from pneumoseg.data import loaders
from pneumoseg.data.files import find_images
from pneumoseg.dicom import read_dicom
from pneumoseg.synthetic import write_dataset

BATCH = 4
ROUNDS = 5


class PydicomDataset(keras.utils.PyDataset):
    """Baseline (b), reading files with pydicom."""

    def __init__(self, manifest: pd.DataFrame, **workers: object) -> None:
        super().__init__(max_queue_size=16, **workers)
        self.paths = manifest["path"].tolist()
        self.labels = manifest["has_pneumothorax"].to_numpy(np.float32)

    def __len__(self) -> int:
        return math.ceil(len(self.paths) / BATCH)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = slice(number * BATCH, (number + 1) * BATCH)
        images = []
        for path in self.paths[chosen]:
            dataset = pydicom.dcmread(path)
            dataset.pixel_array_options(decoding_plugin="pillow")
            images.append(dataset.pixel_array)
        return np.stack(images)[..., None], self.labels[chosen]


def ellipse(rows: int, columns: int) -> str:
    """Return the runs of an ellipse of 1.4% of an image."""
    y, x = np.mgrid[:rows, :columns]
    return rle.encode(((y / rows - 0.4) / 0.1) ** 2 + ((x / columns - 0.3) / 0.045) ** 2 < 1)


def jpeg_manifest(folder: Path, least: int = 400) -> pd.DataFrame:
    """Return a manifest of the JPEG-baseline files in a folder, repeated so that loading takes tenths of a second."""
    rows = []
    for path in find_images(folder).paths:
        image, header = read_dicom(path)
        if header.frame_length:
            shape = {"rows": image.shape[0], "columns": image.shape[1]}
            frame = {"frame_offset": header.frame_offset, "frame_length": header.frame_length}
            shape["rle"] = "-1" if len(rows) % 5 else ellipse(*image.shape)
            rows.append({"image_id": path.stem, "path": str(path), "has_pneumothorax": False, **shape, **frame})
    return pd.concat([pd.DataFrame(rows)] * math.ceil(least / len(rows)), ignore_index=True)


def raw_decoding(manifest: pd.DataFrame) -> tf.data.Dataset:
    """Return baseline (a), which only decodes frames in memory."""
    frames = []
    for row in manifest.itertuples():
        with open(row.path, "rb") as file:
            file.seek(row.frame_offset)
            frames.append(file.read(row.frame_length))

    def decode(frame: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE")

    dataset = tf.data.Dataset.from_tensor_slices(frames)
    return dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def pydicom_batches(manifest: pd.DataFrame, **workers: object) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    enqueuer = OrderedEnqueuer(PydicomDataset(manifest, **workers), **workers)
    enqueuer.start()
    yield from itertools.islice(enqueuer.get(), math.ceil(len(manifest) / BATCH))
    enqueuer.stop()


def seconds(batches: Callable[[], Iterable[object]]) -> tuple[float, float]:
    """Return the time that passes in one pass, and the processor time of all threads (not of other processes)."""
    start = time.perf_counter(), time.process_time()
    for _ in batches():
        pass
    return time.perf_counter() - start[0], time.process_time() - start[1]


def compare(manifest: pd.DataFrame, cache: str) -> None:
    cores = os.cpu_count()
    # As for a data set that is too large for memory, each pass reads and decodes every file.
    choices = {"cache_dir": cache, "decoded_images_gigabytes": 0}
    classifier = loaders.classification_examples(manifest, 1024, **choices).batches(BATCH)
    segmenter = loaders.segmentation_examples(manifest, 512, **choices).batches(BATCH)
    candidates = {
        "(a) decode_jpeg alone": raw_decoding(manifest).__iter__,
        "classifier's loader, 1024": classifier.__iter__,
        "segmenter's loader, 512": segmenter.__iter__,
        f"(b) PyDataset, {cores} threads": lambda: pydicom_batches(manifest, workers=cores),
        f"(b) PyDataset, {cores} processes": lambda: pydicom_batches(manifest, workers=cores, use_multiprocessing=True),
    }
    for batches in candidates.values():
        seconds(batches)
    # The candidates take turns, so that other work on the machine affects all of them equally.
    times = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, batches in candidates.items():
            times[name].append(seconds(batches))
    names = list(candidates)
    print(f"{len(manifest)} images per round, median of {ROUNDS} rounds in turn, {cores} cores")
    for name in names:
        against = [
            statistics.median(base[0] / own[0] for base, own in zip(times[baseline], times[name], strict=True))
            for baseline in (names[0], *names[3:])
        ]
        passed, busy = (statistics.median(column) for column in zip(*times[name], strict=True))
        rates = f"{len(manifest) / passed:7.0f} images/s   {1000 * busy / len(manifest):5.2f} ms of processor time"
        ratios = "   ".join(f"{ratio:6.2f}" for ratio in against)
        print(f"{name:28} {rates}   ratio to (a), (b) threads, (b) processes: {ratios}")


@contextmanager
def films(description: str | None) -> Iterator[tuple[pd.DataFrame, str]]:
    """Yield the manifest of the folder named on the command line, or of generated files, and a cache folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary) / "generated"
            write_dataset(folder, train=10, test=60, seed=0)
            folder /= "dicom-images-test"
        yield jpeg_manifest(folder), temporary


if __name__ == "__main__":
    with films(__doc__) as (manifest, temporary):
        compare(manifest, temporary)
