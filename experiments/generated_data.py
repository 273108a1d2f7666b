"""Data sets, settings and trained networks by seed, which the studies on generated data share."""

import shutil
import warnings
from pathlib import Path

import pandas as pd

from pneumoseg.config import Experiment, load_experiment
from pneumoseg.data.index import index_dataset
from pneumoseg.synthetic import write_dataset
from pneumoseg.training.run import Run
from pneumoseg.training.tasks import task_for
from pneumoseg.training.train import train


def manifests(data: Path, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the manifests of 500 training and 300 test images, which are generated if they are not there."""
    if not (data / "train-rle.csv").exists():
        shutil.rmtree(data, ignore_errors=True)  # half-written
        write_dataset(data, train=500, test=300, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the two files that no index accepts
        training = index_dataset(data / "dicom-images-train", data / "train-rle.csv", id_map=data / "nih_id.csv")
    return training, index_dataset(data / "dicom-images-test", data / "test-rle.csv")


def seeded(settings: Experiment, seed: int) -> Experiment:
    """Return the same experiment with another split and other weights."""
    split = settings.split.model_copy(update={"seed": seed})
    return settings.model_copy(update={"seed": seed, "split": split})


def trained(folder: Path, name: str, seed: int, manifest: pd.DataFrame, cache: Path) -> Run:
    """Return the run of an experiment and a seed, which is trained if it is not there."""
    settings, run = (
        seeded(load_experiment(Path(__file__).with_name(f"{name}.yaml")), seed),
        Run(folder, cache, resume=True),
    )
    if not run.is_finished:
        train(task_for(settings), manifest, run)
    elif run.settings() != settings:
        raise SystemExit(f"{folder} was trained with other settings: remove it, or name another folder")
    return run
