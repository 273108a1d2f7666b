"""Loading of a manifest with `tf.data`: images, labels and masks.

Images are decoded and resized inside the graph, masks once before that. The only step of the graph in Python is
augmentation, which only training uses.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from pneumoseg import rle
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.masks import require_masks
from pneumoseg.data.pixel_aspect import pixel_aspects
from pneumoseg.data.sampling import UNCHANGED, EpochPlan
from pneumoseg.data.transcoding import check_files, encoded_frames
from pneumoseg.data_parallel import rows_of_this_process
from pneumoseg.device import leave_gpus_to_jax
from pneumoseg.geometry import letterbox_image, square_shape

_log = logging.getLogger(__name__)
leave_gpus_to_jax()  # before TensorFlow first looks for devices
GIGABYTES = 2.5  # of decoded images kept between epochs; the paper's training set for the segmenter takes 2.24


class Examples:
    """Images and their targets, which can be batched in any order.

    They are created by `classification_examples` and `segmentation_examples`. A set that is small enough is decoded
    once and kept in memory.

    Args:
        records: What each image is loaded from: arrays of one element per image, by name.
        load: Function from the elements of one image, as tensors by name, to the image, uint8 (size, size, 1), and its
            target.
        bytes_each: Size of a decoded image and its target in bytes.
        has_masks: Whether the target is a mask, which an augmentation changes together with the image.
        gigabytes: Greatest size of the decoded set in memory, in gigabytes (10^9 bytes).

    Example:
        >>> examples = classification_examples(manifest, 512, cache_dir="cache")  # doctest: +SKIP
        >>> images, labels = next(iter(examples.batches(8)))  # doctest: +SKIP
    """

    def __init__(
        self, records: dict[str, np.ndarray], load: Callable, bytes_each: int, has_masks: bool, gigabytes: float
    ) -> None:
        self._records, self._load, self._has_masks = records, load, has_masks
        self._count = count = len(records["path"])
        size = count * bytes_each
        self._fits = size <= gigabytes * 1e9
        kept = "kept in memory" if self._fits else "decoded again each epoch"
        _log.info(f"{count} images, {size / 1e9:.3g} GB decoded: {kept} (decoded_images_gigabytes: {gigabytes:g})")
        self._decoded: tuple[tf.Tensor, tf.Tensor] | None = None

    def batches(
        self, batch_size: int, epoch: EpochPlan | None = None, augmentations: Sequence[Augmentation] = ()
    ) -> tf.data.Dataset:
        """Batch the examples.

        Args:
            batch_size: Images per batch; the last batch may be smaller.
            epoch: Positions of the examples in their order, with a transform for each; None for all examples in order,
                unchanged.
            augmentations: The augmentations that the transforms of `epoch` are positions in.

        Returns:
            Batches of images, uint8 (batch, size, size, 1), and targets.
        """
        if epoch is None:
            positions = np.arange(self._count)
            epoch = EpochPlan(positions, np.full(self._count, UNCHANGED), positions)
        source, load = self._from_memory(epoch.rows) if self._fits else self._from_files(epoch.rows)

        def example(source: Any, transform: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image, target = load(source)
            if not augmentations:
                return image, target
            return tf.cond(
                transform == UNCHANGED,
                lambda: (image, target),
                lambda: self._changed(image, target, transform, seed, augmentations),
            )

        return _own_batches((source, epoch.transforms, epoch.seeds), example, batch_size)

    def _from_files(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], Callable]:
        return {name: values[rows] for name, values in self._records.items()}, self._load

    def _from_memory(self, rows: np.ndarray) -> tuple[np.ndarray, Callable]:
        if self._decoded is None:
            order = tf.data.Dataset.from_tensor_slices(self._records)
            self._decoded = next(iter(_mapped_batches(order, self._load, self._count)))
        images, targets = self._decoded
        return rows, lambda row: (images[row], targets[row])

    def _changed(
        self,
        image: tf.Tensor,
        target: tf.Tensor,
        transform: tf.Tensor,
        seed: tf.Tensor,
        augmentations: Sequence[Augmentation],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def change(image: np.ndarray, mask: np.ndarray, transform: int, seed: int) -> list[np.ndarray]:
            changed = augmentations[transform](image, mask if self._has_masks else None, seed=seed)
            return [changed["image"], changed.get("mask", mask)]

        # The result depends only on the arguments, seed included, so calls may run in parallel.
        changed = tf.numpy_function(change, [image, target, transform, seed], [image.dtype, target.dtype], False)
        return tf.ensure_shape(changed[0], image.shape), tf.ensure_shape(changed[1], target.shape)


def classification_examples(
    manifest: pd.DataFrame, image_size: int, *, cache_dir: str | Path, decoded_images_gigabytes: float = GIGABYTES
) -> Examples:
    """Create examples for the classifier.

    Args:
        manifest: One row per image, see `index_dataset`.
        image_size: Side of the square network input in pixels, see `letterbox_image`.
        cache_dir: Folder for transcoded images.
        decoded_images_gigabytes: Greatest size of the decoded set in memory, in gigabytes (10^9 bytes); while it is
            being decoded, twice as much is needed. A larger set is decoded again in each pass.

    Returns:
        Images, uint8 (image_size, image_size, 1), and labels, float32 (1,), in the manifest's order.

    Raises:
        ValueError: If the manifest is empty.
        ImageError: If a file that needs transcoding can no longer be read.

    Example:
        >>> examples = classification_examples(manifest, 512, cache_dir="cache")  # doctest: +SKIP
    """
    records, shape = _image_records(manifest, cache_dir), _common_shape(manifest)
    labels = manifest["has_pneumothorax"].to_numpy(np.float32)[:, None]

    def load(record: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return _load_image(record, image_size, shape), record["label"]

    return Examples({**records, "label": labels}, load, image_size**2, False, decoded_images_gigabytes)


def segmentation_examples(
    manifest: pd.DataFrame, image_size: int, *, cache_dir: str | Path, decoded_images_gigabytes: float = GIGABYTES
) -> Examples:
    """Create examples for the segmenter.

    Args:
        manifest: One row per image, see `index_dataset`.
        image_size: Side of the square network input in pixels, see `letterbox_image`.
        cache_dir: Folder for transcoded images.
        decoded_images_gigabytes: Greatest size of the decoded set in memory, in gigabytes (10^9 bytes); while it is
            being decoded, twice as much is needed. A larger set is decoded again in each pass.

    Returns:
        Images, uint8 (image_size, image_size, 1), and masks of the same shape, uint8, 0 or 1, in the manifest's order.

    Raises:
        ValueError: If the manifest is empty, or the mask of an image is not known.
        ImageError: If a file that needs transcoding can no longer be read.

    Example:
        >>> examples = segmentation_examples(manifest, 512, cache_dir="cache")  # doctest: +SKIP
    """
    records, shape = _image_records(manifest, cache_dir), _common_shape(manifest)
    runs = _mask_runs(manifest, image_size, shape)

    def load(record: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return _load_image(record, image_size, shape), _mask_of_runs(record["runs"], image_size)

    return Examples({**records, "runs": runs}, load, 2 * image_size**2, True, decoded_images_gigabytes)


@contextmanager
def files_named(*manifests: pd.DataFrame) -> Iterator[None]:
    """Convert an error inside a graph that loads images into an error that names the file, if a file is the cause.

    Args:
        *manifests: The manifests whose images are loaded within the context.

    Raises:
        ImageError: If a file was changed after it was indexed and can no longer be used.

    Example:
        >>> with files_named(manifest):  # doctest: +SKIP
        ...     model.fit(examples.batches(8))  # doctest: +SKIP
    """
    try:
        yield
    except tf.errors.OpError:
        for manifest in manifests:
            check_files(manifest)
        raise


def _mapped_batches(dataset: tf.data.Dataset, function: Callable, batch_size: int) -> tf.data.Dataset:
    """Map elements in parallel into batches, in order."""
    mapped = dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    # Each result is copied into its batch by the thread that computed it, not by one thread for all.
    options.experimental_optimization.map_and_batch_fusion = True
    return mapped.batch(batch_size).prefetch(tf.data.AUTOTUNE).with_options(options)


def _own_batches(elements: Any, function: Callable, batch_size: int) -> tf.data.Dataset:
    """Map elements into batches, of which those that other processes compute with stay zero, see `data_parallel`.

    Args:
        elements: Arrays, (n, ...) each, nested in tuples and dictionaries.
        function: Function of an element.
        batch_size: Elements per batch.
    """
    count = len(tf.nest.flatten(elements)[0])
    if rows_of_this_process(batch_size) == range(batch_size):
        return _mapped_batches(tf.data.Dataset.from_tensor_slices(elements), function, batch_size)
    whole, rest = divmod(count, batch_size)
    parts = [(0, whole, batch_size), (count - rest, 1, rest)]
    first, *last = [_own_part(elements, function, *part) for part in parts if part[1] * part[2]]
    return functools.reduce(tf.data.Dataset.concatenate, last, first)


def _own_part(elements: Any, function: Callable, first: int, number: int, size: int) -> tf.data.Dataset:
    """Map the elements from `first` on into batches of one size, zero where another process computes with them."""
    rows = rows_of_this_process(size)
    # A batch cannot be empty: a process without images loads the first one, which no device of its own uses.
    loaded = rows or range(1)
    positions = (first + size * np.arange(number)[:, None] + np.asarray(loaded)).ravel()
    chosen = tf.nest.map_structure(lambda values: values[positions], elements)
    batches = _mapped_batches(tf.data.Dataset.from_tensor_slices(chosen), function, len(loaded))

    def padded(values: tf.Tensor) -> tf.Tensor:
        around = [(loaded.start, size - loaded.stop)] + [(0, 0)] * (values.shape.rank - 1)
        return tf.ensure_shape(tf.pad(values, around), (None, *values.shape[1:]))

    return batches.map(lambda *values: tf.nest.map_structure(padded, values))


def _image_records(manifest: pd.DataFrame, cache_dir: str | Path) -> dict[str, np.ndarray]:
    if manifest.empty:
        raise ValueError("the manifest has no row: expected at least one image")
    frames = encoded_frames(manifest, cache_dir)
    records = {name: frames[name].to_numpy() for name in ("offset", "length")}
    if frames["is_png"].any():
        records["is_png"] = frames["is_png"].to_numpy()
    paths = np.array([os.fsencode(path) for path in frames["path"]], object)
    return {"path": paths, "square": _square_shapes(manifest), **records}


def _square_shapes(manifest: pd.DataFrame) -> np.ndarray:
    """Return the shape of each image once its pixels are square, int32 (n, 2)."""
    shapes = zip(manifest["rows"], manifest["columns"], pixel_aspects(manifest), strict=True)
    return np.array([square_shape((rows, columns), aspect) for rows, columns, aspect in shapes], np.int32)


def _common_shape(manifest: pd.DataFrame) -> tuple[int, int] | None:
    """Return the shape of all images, or None if they differ or their pixels are not square.

    A graph that knows the shape needs no conditions. These would cost as much time as reading the file.
    """
    shapes = manifest[["rows", "columns"]].drop_duplicates()
    return tuple(shapes.iloc[0].tolist()) if len(shapes) == 1 and (pixel_aspects(manifest) == 1).all() else None


def _load_image(record: dict[str, tf.Tensor], image_size: int, shape: tuple[int, int] | None) -> tf.Tensor:
    frame = tf.strings.substr(tf.io.read_file(record["path"]), record["offset"], record["length"])
    if "is_png" in record:
        image = tf.cond(record["is_png"], lambda: tf.io.decode_png(frame, channels=1), lambda: _decode_jpeg(frame))
    else:
        image = _decode_jpeg(frame)
    if shape is None:
        return letterbox_image(image, image_size, record["square"])
    return letterbox_image(tf.ensure_shape(image, (*shape, 1)), image_size)


def _decode_jpeg(frame: tf.Tensor) -> tf.Tensor:
    # The default method differs from libjpeg, and thus from `read_image`, by a few grey levels.
    return tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE")


def _mask_runs(manifest: pd.DataFrame, image_size: int, shape: tuple[int, int] | None) -> np.ndarray:
    """Return the runs of each mask once it has the network's size: the bytes of int32, start, end, start and so on."""
    require_masks(manifest)
    rows = zip(manifest["rle"], manifest["rows"], manifest["columns"], _square_shapes(manifest), strict=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = pool.map(lambda row: _runs_at(image_size, *row, is_common=shape is not None), rows)
        return np.array(list(runs), object)


def _runs_at(size: int, code: str, rows: int, columns: int, square: np.ndarray, *, is_common: bool) -> bytes:
    """Return the runs of one mask; `is_common` means that all masks have its shape and that its pixels are square."""
    if not rle.run_bounds(code, (rows, columns))[0].size:
        return b""
    mask = rle.decode(code, (rows, columns))
    with tf.device("CPU"):
        # The mask is resized as 0 and 255, and a pixel that is covered by half or more is kept.
        image = tf.constant(255 * mask[..., None].astype(np.uint8))
        # A graph is compiled for each shape, which pays only if many masks share it.
        resized = letterbox_image(image, size, None if is_common else tf.constant(square)).numpy().ravel()
    return np.flatnonzero(np.diff(resized > 127, prepend=False, append=False)).astype(np.int32).tobytes()


def _mask_of_runs(runs: tf.Tensor, size: int) -> tf.Tensor:
    """Return the mask, uint8 (size, size, 1), whose pixels in row-major order from each start up to its end are 1."""
    bounds = tf.reshape(tf.io.decode_raw(runs, tf.int32), (-1, 2))
    inside = tf.ragged.range(bounds[:, 0], bounds[:, 1]).flat_values[:, None]
    return tf.reshape(tf.scatter_nd(inside, tf.ones_like(inside[:, 0], tf.uint8), [size**2]), (size, size, 1))
