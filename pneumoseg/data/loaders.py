"""Loading of a manifest with `tf.data`: images, labels and masks, decoded and resized inside the graph.

The only step in Python is augmentation, which only training uses.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from pneumoseg import rle
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.masks import require_masks
from pneumoseg.data.pixel_aspect import pixel_aspects
from pneumoseg.data.sampling import UNCHANGED, EpochPlan
from pneumoseg.data.transcoding import check_files, encoded_frames
from pneumoseg.geometry import letterbox_image, square_shape

_log = logging.getLogger(__name__)
GIGABYTES = 2.5  # of decoded images kept between epochs; the paper's training set for the segmenter takes 2.24


class Examples:
    """Images and their targets, which can be batched in any order.

    They are created by `classification_examples` and `segmentation_examples`. A set that is small enough is decoded
    once and kept in memory.

    Args:
        count: Number of images.
        load: Function from a position, a scalar tensor, to an image, uint8 (size, size, 1), and its target.
        bytes_each: Size of a decoded image and its target in bytes.
        has_masks: Whether the target is a mask, which an augmentation changes together with the image.
        gigabytes: Greatest size of the decoded set in memory, in gigabytes (10^9 bytes).

    Example:
        >>> examples = classification_examples(manifest, 512, cache_dir="cache")  # doctest: +SKIP
        >>> images, labels = next(iter(examples.batches(8)))  # doctest: +SKIP
    """

    def __init__(self, count: int, load: Callable, bytes_each: int, has_masks: bool, gigabytes: float) -> None:
        self._count, self._load, self._has_masks = count, load, has_masks
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
        load = self._from_memory() if self._fits else self._load

        def example(row: tf.Tensor, transform: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image, target = load(row)
            if not augmentations:
                return image, target
            return tf.cond(
                transform == UNCHANGED,
                lambda: (image, target),
                lambda: self._changed(image, target, transform, seed, augmentations),
            )

        order = tf.data.Dataset.from_tensor_slices((epoch.rows, epoch.transforms, epoch.seeds))
        examples = order.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def _from_memory(self) -> Callable:
        if self._decoded is None:
            decoded = tf.data.Dataset.range(self._count).map(self._load, num_parallel_calls=tf.data.AUTOTUNE)
            self._decoded = next(iter(decoded.batch(self._count)))
        images, targets = self._decoded
        return lambda row: (images[row], targets[row])

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
    records = _image_records(manifest, cache_dir)
    labels = tf.constant(manifest["has_pneumothorax"].to_numpy(np.float32)[:, None])

    def load(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _load_image(_row(records, row), image_size), labels[row]

    return Examples(len(manifest), load, image_size**2, False, decoded_images_gigabytes)


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
    images, masks = _image_records(manifest, cache_dir), _mask_records(manifest)

    def load(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _load_image(_row(images, row), image_size), _load_mask(_row(masks, row), image_size)

    return Examples(len(manifest), load, 2 * image_size**2, True, decoded_images_gigabytes)


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


def _row(records: dict[str, tf.Tensor], row: tf.Tensor) -> dict[str, tf.Tensor]:
    return {name: values[row] for name, values in records.items()}


def _image_records(manifest: pd.DataFrame, cache_dir: str | Path) -> dict[str, tf.Tensor]:
    if manifest.empty:
        raise ValueError("the manifest has no row: expected at least one image")
    frames = encoded_frames(manifest, cache_dir)
    columns = {name: tf.constant(frames[name].to_numpy()) for name in ("offset", "length", "is_png")}
    paths = tf.constant([os.fsencode(path) for path in frames["path"]])
    return {"path": paths, "square": _square_shapes(manifest), **columns}


def _square_shapes(manifest: pd.DataFrame) -> tf.Tensor:
    """Return the shape of each image once its pixels are square, int32 (n, 2)."""
    shapes = zip(manifest["rows"], manifest["columns"], pixel_aspects(manifest), strict=True)
    return tf.constant([square_shape((rows, columns), aspect) for rows, columns, aspect in shapes], tf.int32)


def _load_image(record: dict[str, tf.Tensor], image_size: int) -> tf.Tensor:
    frame = tf.strings.substr(tf.io.read_file(record["path"]), record["offset"], record["length"])
    image = tf.cond(
        record["is_png"],
        lambda: tf.io.decode_png(frame, channels=1),
        # The default method differs from libjpeg, and thus from `read_image`, by a few grey levels.
        lambda: tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE"),
    )
    return letterbox_image(image, image_size, record["square"])


def _mask_records(manifest: pd.DataFrame) -> dict[str, tf.Tensor]:
    require_masks(manifest)
    shapes = manifest[["rows", "columns"]].to_numpy(np.int64)
    spans = [
        rle.run_bounds(text, (rows, columns)) for text, (rows, columns) in zip(manifest["rle"], shapes, strict=True)
    ]
    splits = np.cumsum([0] + [len(starts) for starts, _ in spans])
    starts, ends = (np.concatenate([span[side] for span in spans]) for side in (0, 1))
    runs = {
        name: tf.RaggedTensor.from_row_splits(values, splits) for name, values in (("starts", starts), ("ends", ends))
    }
    return {**runs, "shape": tf.constant(shapes), "square": _square_shapes(manifest)}


def _load_mask(runs: dict[str, tf.Tensor], image_size: int) -> tf.Tensor:
    return tf.cond(
        tf.size(runs["starts"]) == 0,
        lambda: tf.zeros((image_size, image_size, 1), tf.uint8),
        # The mask is resized as 0 and 255, and a pixel that is covered by half or more is kept.
        lambda: letterbox_image(_mask_of_runs(runs, 255), image_size, runs["square"]) // 128,
    )


def _mask_of_runs(runs: dict[str, tf.Tensor], value: int) -> tf.Tensor:
    """Return uint8 (H, W, 1), `value` in the pixels in column-major order from each start up to its end."""
    rows, columns = runs["shape"][0], runs["shape"][1]
    inside = tf.ragged.range(runs["starts"], runs["ends"]).flat_values
    pixels = inside % rows * columns + inside // rows
    values = tf.fill(tf.shape(pixels), tf.constant(value, tf.uint8))
    return tf.reshape(tf.scatter_nd(pixels[:, None], values, [rows * columns]), [rows, columns, 1])
