"""What the studies on generated data share: a data set, settings and trained networks of a seed."""

import shutil
import warnings
from pathlib import Path
from typing import TypeVar

import pandas as pd

from pneumoseg.config import (
    ClassifierSettings,
    SegmenterSettings,
    load_classifier_settings,
    load_segmenter_settings,
)
from pneumoseg.data.index import index_dataset
from pneumoseg.synthetic import write_dataset
from pneumoseg.training.classifier import train_classifier
from pneumoseg.training.segmenter import train_segmenter

Experiment = TypeVar("Experiment", ClassifierSettings, SegmenterSettings)


def manifests(data: Path, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of 500 training and 300 test images, generated if they are not there."""
    if not (data / "train-rle.csv").exists():
        shutil.rmtree(data, ignore_errors=True)  # half-written
        write_dataset(data, train=500, test=300, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the two files that no index accepts
        training = index_dataset(data / "dicom-images-train", data / "train-rle.csv", id_map=data / "nih_id.csv")
    return training, index_dataset(data / "dicom-images-test", data / "test-rle.csv")


def seeded(settings: Experiment, seed: int) -> Experiment:
    """The same experiment with another split and other weights."""
    split = settings.split.model_copy(update={"seed": seed})
    return settings.model_copy(update={"seed": seed, "split": split})


def trained(run: Path, name: str, seed: int, manifest: pd.DataFrame, cache: Path) -> Path:
    """The run of an experiment and a seed, trained if it is not there."""
    load, train = (
        (load_classifier_settings, train_classifier)
        if "classifier" in name
        else (load_segmenter_settings, train_segmenter)
    )
    settings = seeded(load(Path(__file__).with_name(f"{name}.yaml")), seed)
    if not (run / "metrics.json").exists():
        train(settings, manifest, run, cache, resume=True)
    elif load(run / "settings.yaml") != settings:
        raise SystemExit(f"{run} was trained with other settings: remove it, or name another folder")
    return run
