"""Averages of epochs' weights: normalized anew, scored, kept as a bundle."""

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
from pneumoseg.callbacks.swa import SWA
from pneumoseg.config import Phase, SegmentationLoss, WeightAveraging, load_segmenter_settings
from pneumoseg.data.loaders import files_named, segmentation_examples
from pneumoseg.device import announce_device
from pneumoseg.identifiers import read_text_table
from pneumoseg.models.batch_statistics import recompute_batch_statistics
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.freezing import set_trainable
from pneumoseg.training.objective import segmentation_loss, segmentation_metrics
from pneumoseg.training.phases import load_sides
from pneumoseg.training.run import EPOCH_WEIGHTS, FINISHED

_log = logging.getLogger(__name__)


def keep_average(
    folder: Path,
    model: keras.Model,
    weights: Sequence[np.ndarray],
    arguments: dict[str, Any],
    part: str,
    loss: SegmentationLoss,
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    jit_compile: bool = False,
) -> dict[str, float]:
    """Give a segmenter averaged weights, recompute its batch statistics, score it, and save it.

    Args:
        folder: Of the bundle.
        model: A segmenter; has the averaged weights afterwards.
        weights: As `model.get_weights()` orders them.
        arguments: The builder's.
        part: Of the network, that was trained, see `models.freezing`: batch statistics of the rest stay.
        loss: Scored, too.
        training: Batches for the statistics.
        validation: Batches to score.
        jit_compile: Whether XLA compiles the network that is scored.

    Returns:
        The validation scores, and under `averaged_statistics_` those before the statistics were recomputed.
    """
    set_trainable(model, part)
    # New metrics: Keras does not reset those of before when a model is compiled anew.
    model.compile(loss=segmentation_loss(loss), metrics=segmentation_metrics(), jit_compile=jit_compile)
    model.set_weights(weights)
    before = model.evaluate(validation, verbose=0, return_dict=True)
    recompute_batch_statistics(model, training)
    scores = model.evaluate(validation, verbose=0, return_dict=True)
    save_bundle(folder, model, "segmenter", arguments, {"probability": 0.5})
    return {f"val_{name}": value for name, value in scores.items()} | {
        f"averaged_statistics_val_{name}": value for name, value in before.items()
    }


def average_epochs(
    run: str | Path, epochs: str, manifest: pd.DataFrame, cache_dir: str | Path, folder: str | Path | None = None
) -> dict[str, Any]:
    """Average epochs of a finished segmenter run whose weights were kept (section 4.1.2).

    Args:
        run: Its folder.
        epochs: "13-16", one-based and inclusive; or "best:4", the window of four with the best mean validation IoU.
        manifest: That the run was trained on.
        cache_dir: Folder for images that need transcoding.
        folder: Of the bundle; by default `swa_13-16`, say, in the run's. The scores go beside it, as `.json`.

    Returns:
        The scores, see `keep_average`, with the bundle's `folder` and the window's `start_epoch` and `end_epoch`.

    Raises:
        ValueError: If `epochs` is malformed or names epochs that were not kept, the manifest lacks the run's images, or
            the folder is that of the run's own bundles.
    """
    run = Path(run)
    settings = load_segmenter_settings(run / "settings.yaml")
    history = pd.read_csv(run / "history.csv")
    # "best:4" is to choose among what was kept.
    not_kept = [not epoch_path(run / EPOCH_WEIGHTS, epoch).exists() for epoch in history["epoch"]]
    if all(not_kept):
        raise ValueError(f"{run} kept no epoch's weights: train it with epoch_weights_gigabytes above 0")
    start, end = chosen_window(epochs, history.assign(val_iou=history["val_iou"].mask(not_kept)))
    folder = Path(folder or run / f"swa_{start}-{end}")
    if folder in (run / "best", run / "swa"):
        raise ValueError(f"{folder} is the run's own: name another folder")
    announce_device(keras.config.dtype_policy().name, settings.jit_compile)
    average = SWA(start, end)
    bundle = load_bundle(run / "best")
    for epoch in range(start, end + 1):
        bundle.model.set_weights(load_epoch_weights(run / EPOCH_WEIGHTS, epoch))
        average.set_model(bundle.model)
        average.on_epoch_end(epoch - 1)
    part, loss, sides = trainable_part_at(settings.phases, end), settings.loss, _sides(run, manifest)
    with files_named(*sides):
        training, validation = (
            examples.batches(settings.batch_size)
            for examples in load_sides(segmentation_examples, settings, sides, cache_dir)
        )
        scores = keep_average(
            folder, bundle.model, average.average, bundle.arguments, part, loss, training, validation,
            jit_compile=settings.jit_compile,
        )  # fmt: skip
    metrics = {"folder": str(folder), "start_epoch": start, "end_epoch": end, **scores}
    with atomic_write(folder.with_name(f"{folder.name}.json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    return metrics


def log_average(run: Path, window: WeightAveraging, average: float, best: float) -> None:
    """Log the validation IoU of a run's average and of its best epoch, and what to do where the average is worse."""
    epochs = range(window.start_epoch, window.end_epoch + 1, window.every)
    _log.info(f"Validation IoU: {average:.4f} for the average of {len(epochs)} epochs, {best:.4f} for the best epoch")
    if average < best:
        _log.warning(_worse(run / "swa", average, best))


def worse_average(bundle: str | Path) -> str | None:
    """Say that an average in a run's folder has a lower validation IoU than the run's best epoch.

    Args:
        bundle: Its folder, `swa/` or one that `average_epochs` made.

    Returns:
        Both values and what to do; None where the average is not worse, or nothing next to the bundle tells.
    """
    bundle = Path(bundle)
    metrics, later = (_read(bundle.with_name(name)) for name in (FINISHED, f"{bundle.name}.json"))
    average = metrics.get("swa_val_iou") if bundle.name == "swa" else later.get("val_iou")
    best = metrics.get("val_iou")
    if average is None or best is None or average >= best:
        return None
    return _worse(bundle, average, best)


def _worse(bundle: Path, average: float, best: float) -> str:
    remedy = f"try `pneumoseg swa {bundle.parent} --epochs best:4 --manifest ...`"
    if not (bundle.parent / EPOCH_WEIGHTS).exists():
        remedy = "train with epoch_weights_gigabytes above 0 and try `pneumoseg swa ... --epochs best:4`"
    return (
        f"{bundle}: the averaged weights have a validation IoU of {average:.4f}, below the best epoch's {best:.4f}. "
        f"The paper averaged where its own peaked (4.1.2): {remedy}, or assemble the pipeline with "
        f"{bundle.with_name('best')}"
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def chosen_window(epochs: str, history: pd.DataFrame) -> tuple[int, int]:
    """Read "13-16" or "best:4" as the first and the last epoch of a window, one-based and inclusive.

    Of several windows with the best mean validation IoU the first is taken; one with a NaN is not.

    Raises:
        ValueError: If the text is neither, or no such window is within the history.
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


def trainable_part_at(phases: Sequence[Phase], epoch: int) -> str:
    """Which part of the network was trainable in an epoch, one-based."""
    last = 0
    for phase in phases:
        last += phase.epochs
        if epoch <= last:
            break
    return phase.trainable


def _sides(run: Path, manifest: pd.DataFrame) -> list[pd.DataFrame]:
    split = read_text_table(run / "split.csv")
    missing = ~split["image_id"].isin(manifest["image_id"])
    if missing.any():
        raise ValueError(
            f"{missing.sum()} of {len(split)} images of {run} are not in the manifest: name the one it was trained on"
        )
    names = ("training", "validation")
    return [manifest[manifest["image_id"].isin(split.loc[split["side"] == name, "image_id"])] for name in names]
