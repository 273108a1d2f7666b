"""Manifest to `tf.data`: images, labels and masks, decoded and resized in the graph without a line of Python."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from pneumoseg import rle
from pneumoseg.data.transcoding import encoded_frames

_MEMORY_BUDGET = 2 * 1024**3  # bytes of decoded images kept between epochs; a larger set is decoded anew


def classification_dataset(
    manifest: pd.DataFrame,
    image_size: int,
    batch_size: int,
    *,
    cache_dir: str | Path,
    shuffle_seed: int | None = None,
) -> tf.data.Dataset:
    """Batches for the classifier.

    Args:
        manifest: One row an image, see `index_dataset`.
        image_size: Side in pixels of the square that the network sees, see `resize_to_square`.
        batch_size: Images a batch; the last batch may be smaller.
        cache_dir: Folder for images that need transcoding.
        shuffle_seed: None keeps the manifest's order; a number gives another order each epoch, the same for each run.

    Returns:
        Batches of images, uint8 (batch, image_size, image_size, 1), and labels, float32 (batch, 1).

    Raises:
        ValueError: If the manifest is empty.
        DicomError: If a file that needs transcoding cannot be read any more.
    """
    labels = tf.data.Dataset.from_tensor_slices(manifest["has_pneumothorax"].to_numpy(np.float32)[:, None])
    records = tf.data.Dataset.zip(_image_records(manifest, cache_dir), labels)

    def load(record: dict[str, tf.Tensor], label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _load_image(record, image_size), label

    return _batches(records, load, image_size**2, batch_size, shuffle_seed)


def segmentation_dataset(
    manifest: pd.DataFrame,
    image_size: int,
    batch_size: int,
    *,
    cache_dir: str | Path,
    shuffle_seed: int | None = None,
) -> tf.data.Dataset:
    """Batches for the segmenter; arguments and errors as `classification_dataset`.

    Returns:
        Batches of images, uint8 (batch, image_size, image_size, 1), and masks of the same shape, uint8, 0 or 1.
    """
    records = tf.data.Dataset.zip(_image_records(manifest, cache_dir), _mask_records(manifest))

    def load(record: dict[str, tf.Tensor], runs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return _load_image(record, image_size), _load_mask(runs, image_size)

    return _batches(records, load, 2 * image_size**2, batch_size, shuffle_seed)


def resize_to_square(image: tf.Tensor, size: int) -> tf.Tensor:
    """Fit an image into a square, its aspect ratio kept, by the geometry of `postprocessing.fit_square`.

    Shrinking averages over the area that a new pixel covers, so that thin lines do not alias; enlarging is bilinear.

    Args:
        image: uint8, (H, W, 1).
        size: The square's side in pixels.

    Returns:
        uint8, (size, size, 1); what the image does not cover is 0.
    """
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    resized = tf.cond(
        (height == size) & (width == size), lambda: image, lambda: _resize_and_pad(image, height, width, size)
    )
    return tf.ensure_shape(resized, (size, size, 1))


def _resize_and_pad(image: tf.Tensor, height: tf.Tensor, width: tf.Tensor, size: int) -> tf.Tensor:
    longest = tf.maximum(height, width)
    new_height = tf.maximum(1, (2 * height * size + longest) // (2 * longest))
    new_width = tf.maximum(1, (2 * width * size + longest) // (2 * longest))
    new_shape = tf.stack([new_height, new_width])
    resized = tf.cond(
        longest > size,
        lambda: tf.image.resize(image, new_shape, "area"),
        lambda: tf.image.resize(image, new_shape, "bilinear"),
    )
    top, left = (size - new_height) // 2, (size - new_width) // 2
    return tf.image.pad_to_bounding_box(tf.cast(tf.round(resized), tf.uint8), top, left, size, size)


def _image_records(manifest: pd.DataFrame, cache_dir: str | Path) -> tf.data.Dataset:
    if manifest.empty:
        raise ValueError("the manifest has no row: nothing to load")
    frames = encoded_frames(manifest, cache_dir)
    columns = {name: frames[name].to_numpy() for name in ("offset", "length", "is_png")}
    return tf.data.Dataset.from_tensor_slices({"path": frames["path"].tolist(), **columns})


def _load_image(record: dict[str, tf.Tensor], image_size: int) -> tf.Tensor:
    frame = tf.strings.substr(tf.io.read_file(record["path"]), record["offset"], record["length"])
    image = tf.cond(
        record["is_png"],
        lambda: tf.io.decode_png(frame, channels=1),
        # The default method differs from libjpeg, and so from `read_image`, by up to a few grey levels.
        lambda: tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE"),
    )
    return resize_to_square(image, image_size)


def _mask_records(manifest: pd.DataFrame) -> tf.data.Dataset:
    shapes = manifest[["rows", "columns"]].to_numpy(np.int64)
    spans = [rle.spans(text, (rows, columns)) for text, (rows, columns) in zip(manifest["rle"], shapes, strict=True)]
    splits = np.cumsum([0] + [len(starts) for starts, _ in spans])
    starts, ends = (np.concatenate([span[side] for span in spans]) for side in (0, 1))
    runs = {
        name: tf.RaggedTensor.from_row_splits(values, splits) for name, values in (("starts", starts), ("ends", ends))
    }
    return tf.data.Dataset.from_tensor_slices({**runs, "shape": shapes})


def _load_mask(runs: dict[str, tf.Tensor], image_size: int) -> tf.Tensor:
    return tf.cond(
        tf.size(runs["starts"]) == 0,
        lambda: tf.zeros((image_size, image_size, 1), tf.uint8),
        # 255 stands for the mask while it is resized: a pixel that is covered by half or more stays.
        lambda: resize_to_square(255 * _draw(**runs), image_size) // 128,
    )


def _draw(starts: tf.Tensor, ends: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """The mask, uint8 (H, W, 1), whose column-major pixels from each start to before its end are 1."""
    rows, columns = shape[0], shape[1]
    steps = tf.concat([tf.ones_like(starts), -tf.ones_like(ends)], 0)
    # One pixel more than the image has, for a run that ends with the last one.
    changes = tf.scatter_nd(tf.concat([starts, ends], 0)[:, None], tf.cast(steps, tf.int32), [rows * columns + 1])
    inside = tf.reshape(tf.cumsum(changes)[:-1], [columns, rows])
    return tf.cast(tf.transpose(inside), tf.uint8)[..., None]


def _batches(
    records: tf.data.Dataset, load: Callable, bytes_each: int, batch_size: int, shuffle_seed: int | None
) -> tf.data.Dataset:
    count = len(records)

    def loaded(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def shuffled(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset if shuffle_seed is None else dataset.shuffle(count, shuffle_seed)

    fits = count * bytes_each <= _MEMORY_BUDGET
    examples = shuffled(loaded(records).cache()) if fits else loaded(shuffled(records))
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)
