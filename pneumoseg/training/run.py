"""A run's folder: settings, split, environment, history, scores."""

import importlib.metadata
import io
import json
import logging
import os
import platform
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import yaml

from pneumoseg.atomic_write import atomic_write
from pneumoseg.config import ClassifierSettings, SegmenterSettings, Settings, Split
from pneumoseg.data.patients import describe_patients, doubts_about_patients, has_known_patients
from pneumoseg.data.splits import START, patients_on_both_sides, stratified_split
from pneumoseg.device import announce_device
from pneumoseg.identifiers import read_text_table

_log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.npz"
FINISHED = "metrics.json"
PREDICTIONS = "predictions.csv"
EPOCH_WEIGHTS = "epochs"
_FILES = (
    "best", "swa", CHECKPOINT, FINISHED, PREDICTIONS, "curves.png", "enrichment.csv", "environment.json", "history.csv",
    "settings.yaml", "split.csv", START,
)  # fmt: skip

# Makes a callback that watches a run, from the run's folder.
Watch = Callable[[Path], keras.callbacks.Callback]

_PACKAGES = ("pneumoseg", "tensorflow", "keras", "segmentation-models", "albumentations", "numpy", "pydicom")


@contextmanager
def open_run(
    folder: str | Path,
    settings: ClassifierSettings | SegmenterSettings,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    *,
    resume: bool = False,
) -> Iterator[Path]:
    """Make the folder of a run and write what is known before it trains, or check that a stopped run can go on.

    Writes `settings.yaml` (complete, can be run again), `split.csv` (`image_id, side`, and `content`, a checksum of an
    image's truth and size) and `environment.json`, and logs on what it will train, see `device`. No other process can
    open the run until this one leaves the context or ends, however it ends.

    Args:
        folder: The run's folder.
        settings: From an experiment file.
        training: Manifest rows.
        validation: Manifest rows.
        resume: Whether to go on from the run's checkpoint; where there is none, the run starts.

    Raises:
        FileExistsError: If the folder holds a finished run, or, unless it is to be resumed, a stopped one, or another
            process has it open.
        ValueError: If the run to resume has other settings, or other images on its sides, or these have changed.
    """
    folder = Path(folder)
    refuse_finished(folder)
    if (folder / CHECKPOINT).exists():
        if not resume:
            raise FileExistsError(f"{folder} holds a stopped run: go on with --resume, or remove it to train anew")
        check_unchanged(folder, settings, training, validation)
    folder.mkdir(parents=True, exist_ok=True)
    environment = _environment() | announce_device(settings.precision, settings.jit_compile)
    texts = _descriptions(settings, training, validation) | {"environment.json": json.dumps(environment, indent=2)}
    with _locked(folder):
        for name in _FILES:
            for leftover in folder.glob(f".{name}.*"):  # of a write that a killed process did not end
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for leftover in (folder / EPOCH_WEIGHTS).glob(".epoch_*"):
            leftover.unlink()
        for name, text in texts.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        yield folder


def refuse_finished(folder: Path) -> None:
    """Protect a finished run.

    Raises:
        FileExistsError: If the folder holds one.
    """
    if (folder / FINISHED).exists():
        raise FileExistsError(f"{folder} holds a finished run: choose another folder, or remove it to train anew")


def metrics_of_finished(
    folder: Path, settings: Settings, training: pd.DataFrame, validation: pd.DataFrame
) -> dict[str, Any] | None:
    """What an earlier process that finished the same run found, so that going on with it is no mistake.

    Its `metrics.json` becomes as new as what was checked, for make.

    Returns:
        None if the run is not finished.

    Raises:
        ValueError: If it is, and had other settings or images.
    """
    path = folder / FINISHED
    if not path.exists():
        return None
    check_unchanged(folder, settings, training, validation)
    _log.info(f"{folder} is finished already")
    path.touch()
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return metrics


def check_unchanged(folder: Path, settings: Settings, training: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Refuse to build on a run that had other settings, or other images on its sides, or other masks or files of them.

    Raises:
        ValueError: If it had.
    """
    for name, text in _descriptions(settings, training, validation).items():
        try:
            before = (folder / name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ValueError(f"{folder} cannot go on, it has no {name}: choose another folder") from error
        if not _SAME[name](before, text, settings):
            raise ValueError(
                f"{folder} cannot go on, its {name} says otherwise than the experiment and the manifest do now: "
                "change them back, choose another folder (make: RUNS=), or remove this one to train again"
            )


def _same_settings(before: str, now: str, settings: Settings) -> bool:
    """Whether a run had these settings; what its version did not know has its default."""
    try:
        return before == now or type(settings).model_validate(yaml.safe_load(before)) == settings
    except (ValueError, yaml.YAMLError):
        return False


def _same_split(before: str, now: str, _: Settings) -> bool:
    """Whether a run had these images, on these sides, with this content, as far as its version kept it."""
    one, other = (read_text_table(io.StringIO(text)) for text in (before, now))
    return one.equals(other[[name for name in other if name in one]])


_SAME = {"settings.yaml": _same_settings, "split.csv": _same_split}


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
    shared = patients_on_both_sides(training, validation)
    _log.info(f"Patients on both sides: {shared} ({describe_patients(manifest)})")
    if not has_known_patients(manifest):
        _log.info("One patient's images may be on both sides unseen, which makes scores too good: index with an id map")
    warn_about_patients(manifest)
    return training, validation


def warn_about_patients(manifest: pd.DataFrame) -> None:
    """Log what makes a split by patient doubtful."""
    for text in doubts_about_patients(manifest):
        _log.warning(f"WARNING: {text}")


def finish_run(
    folder: Path,
    history: pd.DataFrame,
    best_epoch: int,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    further: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write `metrics.json`: the best epoch's values, the size of each side, and `further` scores.

    It marks the run as finished, which then needs its checkpoint no more.
    """
    metrics: dict[str, Any] = {"best_epoch": best_epoch}
    metrics |= history.loc[history["epoch"] == best_epoch].drop(columns="epoch").iloc[0].to_dict()
    for name, side in (("training", training), ("validation", validation)):
        metrics |= {f"{name}_images": len(side), f"{name}_positives": int(side["has_pneumothorax"].sum())}
    metrics = write_metrics(folder, metrics | dict(further or {}))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return metrics


def read_validation_predictions(run: Path) -> pd.DataFrame:
    """Read a classifier run's `predictions.csv`: what the best bundle says of each validation image.

    Returns:
        One row per image, ids as text, `has_pneumothorax` as bool and `probability` as float64, NaN of a network that
        diverged.
    """
    table = read_text_table(run / PREDICTIONS)
    return table.assign(
        has_pneumothorax=table["has_pneumothorax"] == "True", probability=pd.to_numeric(table["probability"])
    )


def write_metrics(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write `metrics.json` and return what it holds: null stands for NaN, which JSON has not."""
    metrics = {name: None if value != value else value for name, value in metrics.items()}
    with atomic_write(folder / FINISHED) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    return metrics


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise FileExistsError(f"{folder} is being trained by another process: wait for it, or stop it") from error
    finally:
        os.close(descriptor)


def _descriptions(settings: Settings, training: pd.DataFrame, validation: pd.DataFrame) -> dict[str, str]:
    """What makes a run the same run, by the name of its file."""
    sides = (("training", training), ("validation", validation))
    split = pd.concat([side[["image_id"]].assign(side=name, content=_content(side)) for name, side in sides])
    return {
        "settings.yaml": yaml.safe_dump(settings.model_dump(), sort_keys=False),
        "split.csv": split.to_csv(index=False),
    }


def _content(manifest: pd.DataFrame) -> list[str]:
    """A checksum of each image's truth, size and length: other masks or files under the same names differ."""
    columns = ["has_pneumothorax", "rle", "rows", "columns", "frame_length"]
    rows = manifest[columns].itertuples(index=False, name=None)
    return [f"{zlib.crc32(' '.join(map(str, row)).encode()):08x}" for row in rows]


def _environment() -> dict[str, Any]:
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count(), **versions}


class Run:
    """TEMPORARY."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.finished = self.folder / FINISHED
