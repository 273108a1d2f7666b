"""Averages of the weights of several epochs: batch statistics, scores, and which epochs to choose."""

import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from pneumoseg.atomic_write import atomic_write
from pneumoseg.callbacks.epoch_weights import epoch_path, load_epoch_weights
from pneumoseg.callbacks.swa import running_mean
from pneumoseg.config import SegmentationLoss, SegmenterSettings, WeightAveraging
from pneumoseg.data.loaders import files_named, segmentation_examples
from pneumoseg.device import announce_device
from pneumoseg.models.batch_statistics import recompute_batch_statistics
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.freezing import set_trainable
from pneumoseg.training.objective import segmentation_loss, segmentation_metrics
from pneumoseg.training.run import Run
from pneumoseg.training.schedule import trainable_part_at
from pneumoseg.xla import uses_xla

_log = logging.getLogger(__name__)


def score_average(
    model: keras.Model,
    weights: Sequence[np.ndarray],
    part: str,
    loss: SegmentationLoss,
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    jit_compile: bool = False,
) -> dict[str, float]:
    """Give a segmenter averaged weights, recompute its batch statistics, and score it.

    Args:
        model: Segmenter, which has the averaged weights afterwards.
        weights: Averaged weights, as `model.get_weights()` orders them.
        part: Part of the network that was trained, see `models.freezing`; batch statistics of frozen layers stay
            unchanged.
        loss: Loss to score.
        training: Batches of training images for the statistics.
        validation: Batches of validation images to score.
        jit_compile: Whether XLA compiles the network that is scored.

    Returns:
        The validation scores, and with the prefix `averaged_statistics_` those before the statistics were recomputed.
    """
    set_trainable(model, part)
    # New metrics: Keras does not reset the earlier ones when a model is compiled again.
    model.compile(loss=segmentation_loss(loss), metrics=segmentation_metrics(), jit_compile=uses_xla(jit_compile))
    model.set_weights(weights)
    before = model.evaluate(validation, verbose=0, return_dict=True)
    recompute_batch_statistics(model, training)
    scores = model.evaluate(validation, verbose=0, return_dict=True)
    return {f"val_{name}": value for name, value in scores.items()} | {
        f"averaged_statistics_val_{name}": value for name, value in before.items()
    }


def average_epochs(run: Run, epochs: str, manifest: pd.DataFrame, folder: str | Path | None = None) -> dict[str, Any]:
    """Average epochs of a finished segmenter run that kept their weights, and write the bundle (section 4.1.2).

    The scores are written next to the bundle, as `.json`.

    Args:
        run: Run of the segmenter.
        epochs: A window such as "13-16", counted from 1 and inclusive; or "best:4", the window of four epochs with the
            best mean validation IoU.
        manifest: Manifest that the run was trained on.
        folder: Folder of the bundle; by default `swa_13-16`, for example, in the run's folder.

    Returns:
        The scores, see `score_average`, with the bundle's `folder` and the window's `start_epoch` and `end_epoch`.

    Raises:
        ValueError: If the run is not a segmenter's, `epochs` is malformed or names epochs that were not kept, the
            manifest lacks images of the run, or the folder is that of one of the run's own bundles.

    Example:
        >>> average_epochs(Run("runs/segmenter"), "best:4", manifest)["val_iou"]  # doctest: +SKIP
    """
    settings = run.settings()
    if not isinstance(settings, SegmenterSettings):
        raise ValueError(f"{run.folder} holds a classifier's run: only a segmenter's epochs can be averaged")
    if not run.is_finished:
        raise ValueError(f"{run.folder} is not finished: finish it with --resume first")
    start, end = _kept_window(run, epochs)
    folder = Path(folder or run.average_folder(start, end))
    if folder.resolve() in (run.best.resolve(), run.swa.resolve()):
        raise ValueError(f"{folder} is the run's own: name another folder")
    announce_device(keras.config.dtype_policy().name, settings.jit_compile)
    bundle, average = load_bundle(run.best), list[np.ndarray]()
    for count, epoch in enumerate(range(start, end + 1), start=1):
        average = running_mean(average, load_epoch_weights(run.epoch_weights, epoch), count)
    splits, memory = _splits(run, manifest), settings.decoded_images_gigabytes
    with files_named(*splits):
        training, validation = (
            segmentation_examples(
                rows, settings.image_size, cache_dir=run.cache_dir, decoded_images_gigabytes=memory
            ).batches(settings.batch_size)
            for rows in splits
        )
        part = trainable_part_at(settings.phases, end)
        scores = score_average(
            bundle.model, average, part, settings.loss, training, validation, jit_compile=settings.jit_compile
        )
    save_bundle(folder, bundle.model, "segmenter", bundle.arguments, {"probability": 0.5}, bundle.images)
    metrics = {"folder": str(folder), "start_epoch": start, "end_epoch": end, **scores}
    with atomic_write(_scores_file(folder)) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    return metrics


def log_average(run: Run, window: WeightAveraging, average: float, best: float) -> None:
    """Log the validation IoU of a run's average and of its best epoch, and a remedy if the average is worse.

    Args:
        run: Run of the segmenter.
        window: Epochs that were averaged.
        average: Validation IoU of the average, 0 to 1.
        best: Validation IoU of the best epoch, 0 to 1.
    """
    epochs = range(window.start_epoch, window.end_epoch + 1, window.every)
    _log.info(f"Validation IoU: {average:.4f} for the average of {len(epochs)} epochs, {best:.4f} for the best epoch")
    if average < best:
        _log.warning(_worse(run.swa, average, best))


def worse_average(bundle: str | Path) -> str | None:
    """Return a sentence if an average in a run's folder has a lower validation IoU than the run's best epoch.

    Args:
        bundle: Folder of the bundle, `swa/` or one that `average_epochs` wrote.

    Returns:
        Both values and a remedy; None if the average is not worse, or nothing next to the bundle tells.
    """
    bundle = Path(bundle)
    run = Run(bundle.parent)
    best = run.metrics().get("val_iou")
    if bundle == run.swa:
        average = run.metrics().get("swa_val_iou")
    else:
        scores = _scores_file(bundle)
        average = json.loads(scores.read_text(encoding="utf-8")).get("val_iou") if scores.exists() else None
    if average is None or best is None or average >= best:
        return None
    return _worse(bundle, average, best)


def _scores_file(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.json")


def _worse(bundle: Path, average: float, best: float) -> str:
    run = Run(bundle.parent)
    remedy = f"try `pneumoseg swa {run.folder} --epochs best:4 --manifest ...`"
    if not run.epoch_weights.exists():
        remedy = "train with epoch_weights_gigabytes above 0 and try `pneumoseg swa ... --epochs best:4`"
    return (
        f"{bundle}: the averaged weights have a validation IoU of {average:.4f}, below the best epoch's {best:.4f}. "
        f"The paper averaged where its own peaked (4.1.2): {remedy}, or assemble the pipeline with {run.best}"
    )


def chosen_window(epochs: str, history: pd.DataFrame) -> tuple[int, int]:
    """Return the first and the last epoch of "13-16" or "best:4", counted from 1 and inclusive.

    Of several windows with the best mean validation IoU the first is taken. A window with a NaN is never taken.

    Args:
        epochs: The window, or "best:" and the number of epochs.
        history: Table with `epoch` and `val_iou`, one row per epoch.

    Raises:
        ValueError: If the text is neither, or no such window is within the history.

    Example:
        >>> chosen_window("best:2", pd.DataFrame({"epoch": [1, 2, 3], "val_iou": [0.5, 0.7, 0.6]}))
        (2, 3)
    """
    last = int(history["epoch"].iloc[-1])
    if best := re.fullmatch(r"best:(\d+)", epochs):
        length = int(best[1])
        values = history["val_iou"].tolist()
        starts = [start for start in range(last - length + 1) if not np.isnan(values[start : start + length]).any()]
        if length >= 1 and starts:
            start = max(starts, key=lambda start: math.fsum(values[start : start + length]))
            return start + 1, start + length
    elif window := re.fullmatch(r"(\d+)-(\d+)", epochs):
        start, end = int(window[1]), int(window[2])
        if 1 <= start <= end <= last:
            return start, end
    raise ValueError(
        f"epochs {epochs!r}: expected a window such as 13-16, or best:4, within {last} epochs that were kept"
    )


def _kept_window(run: Run, epochs: str) -> tuple[int, int]:
    """Return the window of `chosen_window` within a run; "best:4" chooses among the epochs whose weights were kept."""
    history = run.history()
    not_kept = [not epoch_path(run.epoch_weights, epoch).exists() for epoch in history["epoch"]]
    if all(not_kept):
        raise ValueError(f"{run.folder} kept no epoch's weights: train it with epoch_weights_gigabytes above 0")
    return chosen_window(epochs, history.assign(val_iou=history["val_iou"].mask(not_kept)))


def _splits(run: Run, manifest: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the manifest rows of a run's training and validation images."""
    split = run.split()
    missing = ~split["image_id"].isin(manifest["image_id"])
    if missing.any():
        raise ValueError(
            f"{missing.sum()} of {len(split)} images of {run.folder} are not in the manifest: "
            "name the one it was trained on"
        )
    return [
        manifest[manifest["image_id"].isin(split.loc[split["split"] == name, "image_id"])] for name in ("train", "val")
    ]
