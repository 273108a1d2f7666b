"""Train the classifier: settings and manifest to a run."""

from pathlib import Path
from typing import Any

import keras
import pandas as pd

from pneumoseg.callbacks.best_bundle import BestBundle
from pneumoseg.config import ClassifierSettings
from pneumoseg.data.loaders import classification_dataset
from pneumoseg.metrics import MatthewsCorrelation
from pneumoseg.models.bundle import save_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.training.phases import fit_phases
from pneumoseg.training.run import finish_run, split_manifest, start_run


def train_classifier(
    settings: ClassifierSettings, manifest: pd.DataFrame, folder: str | Path, cache_dir: str | Path
) -> dict[str, Any]:
    """Train a classifier in phases and keep the bundle of the epoch with the best validation MCC (section 4.1.1).

    Args:
        settings: From an experiment file.
        manifest: One row an image, see `index_dataset`.
        folder: The run's folder; gets the settings, the split, `history.csv`, `metrics.json` and `best/`.
        cache_dir: Folder for images that need transcoding.

    Returns:
        What `metrics.json` holds: the best epoch's values, and how many images each side had.

    Raises:
        FileExistsError: If the folder holds a finished run.
        ValueError: If the manifest cannot be split, or the settings do not fit the network.
    """
    keras.utils.set_random_seed(settings.seed)
    arguments: dict[str, Any] = {"backbone": settings.backbone, "image_size": settings.image_size}
    model = build_classifier(**arguments, weights=settings.weights)
    training, validation = split_manifest(manifest, settings.split)
    folder = start_run(folder, settings, training, validation)

    def save(model: keras.Model) -> None:
        save_bundle(folder / "best", model, "classifier", arguments, {"probability": 0.5})

    best = BestBundle("val_mcc", save)
    size, batch = settings.image_size, settings.batch_size
    history = fit_phases(
        model,
        settings.phases,
        classification_dataset(training, size, batch, cache_dir=cache_dir, shuffle_seed=settings.seed),
        classification_dataset(validation, size, batch, cache_dir=cache_dir),
        keras.losses.BinaryCrossentropy(),
        [
            MatthewsCorrelation(),
            keras.metrics.AUC(name="auc"),
            keras.metrics.Precision(name="precision"),
            keras.metrics.Recall(name="recall"),
            keras.metrics.BinaryAccuracy(name="accuracy"),
        ],
        best,
        folder,
    )
    return finish_run(folder, history.table, best.best_epoch, training, validation)
