"""What the studies on generated data share: a data set and settings of a seed."""

import shutil
import warnings
from pathlib import Path
from typing import TypeVar

import pandas as pd

from pneumoseg.config import ClassifierSettings, SegmenterSettings
from pneumoseg.data.index import index_dataset
from pneumoseg.synthetic import write_dataset

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
