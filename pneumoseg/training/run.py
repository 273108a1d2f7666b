"""A run's folder: settings, split, environment, history, scores."""

import importlib.metadata
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pneumoseg.config import Settings, Split
from pneumoseg.data.splits import patients_on_both_sides, stratified_split
from pneumoseg.whole_file import whole_file

_log = logging.getLogger(__name__)
_PACKAGES = ("pneumoseg", "tensorflow", "keras", "segmentation-models", "numpy", "pydicom")


def start_run(folder: str | Path, settings: Settings, training: pd.DataFrame, validation: pd.DataFrame) -> Path:
    """Make the folder of a run and write what is known before it trains.

    Writes `settings.yaml` (complete, can be run again), `split.csv` (`image_id, side`) and `environment.json`.

    Raises:
        FileExistsError: If the folder holds a finished run.
    """
    folder = Path(folder)
    if (folder / "metrics.json").exists():
        raise FileExistsError(f"{folder} holds a finished run: choose another folder, or remove it to train anew")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(), sort_keys=False), encoding="utf-8")
    sides = [
        side[["image_id"]].assign(side=name) for side, name in ((training, "training"), (validation, "validation"))
    ]
    pd.concat(sides).to_csv(folder / "split.csv", index=False)
    (folder / "environment.json").write_text(json.dumps(_environment(), indent=2), encoding="utf-8")
    return folder


def split_manifest(manifest: pd.DataFrame, split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split as the settings say, and log how many patients stand on both sides.

    Raises:
        ValueError: As `stratified_split`.
    """
    training, validation = stratified_split(
        manifest, split.validation_fraction, seed=split.seed, group_by_patient=split.group_by_patient
    )
    for name, side in (("Training", training), ("Validation", validation)):
        _log.info(f"{name}: {len(side)} images, {side['has_pneumothorax'].sum()} positive")
    shared, total = patients_on_both_sides(training, validation), manifest["patient_id"].nunique()
    mapped = (manifest["patient_source"] == "id map").sum()
    _log.info(f"Patients on both sides: {shared} of {total} ({mapped} of {len(manifest)} images known from an id map)")
    if not mapped:
        _log.info("The competition's DICOM headers give each image a patient of its own: more may be shared unseen")
    return training, validation


def finish_run(
    folder: Path, history: pd.DataFrame, best_epoch: int, training: pd.DataFrame, validation: pd.DataFrame
) -> dict[str, Any]:
    """Write `metrics.json`, which marks the run as finished: the best epoch's values and the size of each side."""
    metrics: dict[str, Any] = {"best_epoch": best_epoch}
    metrics |= history.loc[history["epoch"] == best_epoch].drop(columns="epoch").iloc[0].to_dict()
    for name, side in (("training", training), ("validation", validation)):
        metrics |= {f"{name}_images": len(side), f"{name}_positives": int(side["has_pneumothorax"].sum())}
    # JSON has no NaN.
    metrics = {name: None if value != value else value for name, value in metrics.items()}
    with whole_file(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    return metrics


def _environment() -> dict[str, Any]:
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count(), **versions}
