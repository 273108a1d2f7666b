"""The folder of a training run: its files, their names, and the lock that keeps two processes apart."""

import importlib.metadata
import io
import json
import logging
import os
import platform
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pneumoseg.atomic_write import atomic_write
from pneumoseg.config import Experiment, load_experiment
from pneumoseg.data.pixel_aspect import pixel_aspects
from pneumoseg.device import announce_device
from pneumoseg.folder_lock import locked_folder
from pneumoseg.identifiers import read_text_table

_log = logging.getLogger(__name__)
_SETTINGS = "settings.yaml"
_SPLIT = "split.csv"
_ENVIRONMENT = "environment.json"
_PACKAGES = ("pneumoseg", "tensorflow", "keras", "segmentation-models", "albumentations", "numpy", "pydicom")


class Run:
    """The folder of one training, or of a cross-validation with one training per fold.

    Only this class knows the names of the files in the folder. A run is finished as soon as its metrics are written.

    Args:
        folder: The run's folder, which need not exist yet.
        cache_dir: Folder for images that need transcoding; by default `cache` next to the run's folder.
        resume: Whether to continue a stopped training from its checkpoint. A finished run is then left unchanged.

    Attributes:
        folder: The run's folder.
        cache_dir: Folder for images that need transcoding.
        resume: Whether a stopped training is continued.
        best: Folder of the bundle with the best epoch's weights.
        swa: Folder of the bundle with the averaged weights.
        epoch_weights: Folder of the weights kept after each epoch.
        tensorboard: Folder of TensorBoard's logs.
        metrics_file: File of the metrics, whose presence marks the run as finished.
        checkpoint: File from which a stopped training continues.
        history_file: Table of all epochs, see `history`.
        predictions_file: Table of validation predictions, see `validation_predictions`.
        enrichment_file: Table of the copies that enrichment made.
        curves: Picture of the history.
        log: All that the training printed, if it ran in a process of its own, see `jobs`.

    Example:
        >>> run = Run("runs/not_trained_yet")
        >>> run.is_finished
        False
        >>> run.history()[["epoch", "val_iou"]]  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, cache_dir: str | Path | None = None, *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self.cache_dir = Path(cache_dir) if cache_dir is not None else self.folder.parent / "cache"
        self.resume = resume
        self.best, self.swa = self.folder / "best", self.folder / "swa"
        self.epoch_weights, self.tensorboard = self.folder / "epochs", self.folder / "tensorboard"
        self.checkpoint, self.history_file = self.folder / "checkpoint.npz", self.folder / "history.csv"
        self.predictions_file = self.folder / "validation_predictions.csv"
        self.enrichment_file, self.curves = self.folder / "enrichment.csv", self.folder / "curves.png"
        self.metrics_file, self._split = self.folder / "metrics.json", self.folder / _SPLIT
        self.log = self.folder / "log.txt"

    @property
    def state_files(self) -> list[Path]:
        """The files that tell how far the training has come; they need not exist."""
        return [self.checkpoint, self.history_file, self.metrics_file, self._split]

    @property
    def is_finished(self) -> bool:
        """Whether the training ended and its metrics are written."""
        return self.metrics_file.exists()

    @property
    def is_single(self) -> bool:
        """Whether the folder holds one training rather than folds, stopped ones included."""
        return self._split.exists()

    def settings(self) -> Experiment:
        """Return the experiment's settings.

        Raises:
            ConfigError: If the settings are invalid.
            ValueError: If the folder holds none.
        """
        if self.folds():
            raise ValueError(f"{self.folder} holds a cross-validation: name the run of a fold, such as fold_1 in it")
        if not (self.folder / _SETTINGS).exists():
            raise ValueError(f"{self.folder} holds no run: it has no {_SETTINGS}")
        return load_experiment(self.folder / _SETTINGS)

    def history(self) -> pd.DataFrame:
        """Return the table of all epochs so far, one row per epoch, see `HistoryFile`.

        Raises:
            ValueError: If there is no history.
        """
        if not self.history_file.exists():
            raise ValueError(f"{self.folder} holds no run: it has no {self.history_file.name}")
        return pd.read_csv(self.history_file)

    def split(self) -> pd.DataFrame:
        """Return which images were trained and validated on.

        Returns:
            One row per image: `image_id`, `split` ("train" or "val") and `content`, a checksum of the image's truth and
            size; all as text.

        Raises:
            ValueError: If the folder holds no split.
        """
        if not self._split.exists():
            raise ValueError(f"{self.folder} holds no run: it has no {_SPLIT}")
        return read_text_table(self._split)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of a finished run; an empty dictionary if it is not finished."""
        if not self.is_finished:
            return {}
        metrics: dict[str, Any] = json.loads(self.metrics_file.read_text(encoding="utf-8"))
        return metrics

    def validation_predictions(self) -> pd.DataFrame:
        """Return the best classifier's predictions of the validation images; of folds those of all images.

        Returns:
            One row per image: `image_id`, `patient_id`, `patient_source` and `sex` as text, `has_pneumothorax` as bool
            and `probability` as float64, which is NaN if the network diverged; of folds also `fold`.

        Raises:
            ValueError: If the folder holds no finished classifier run.
        """
        if not self.predictions_file.exists() or not self.is_finished:
            raise ValueError(
                f"{self.folder} holds no finished classifier run: it needs {self.predictions_file.name} and "
                f"{self.metrics_file.name}"
            )
        table = read_text_table(self.predictions_file)
        positive = table["has_pneumothorax"] == "True"
        return table.assign(has_pneumothorax=positive, probability=pd.to_numeric(table["probability"]))

    def fold(self, number: int) -> "Run":
        """Return the run of one fold, counted from 1, which is always resumed where it stopped."""
        return Run(self.folder / f"fold_{number}", self.cache_dir, resume=True)

    def folds(self) -> "list[Run]":
        """Return the runs of the folds in order; an empty list if the run was not cross-validated."""
        numbers = [path.name.removeprefix("fold_") for path in self.folder.glob("fold_*") if path.is_dir()]
        return [self.fold(number) for number in sorted(int(number) for number in numbers if number.isdecimal())]

    def trainings(self) -> "list[Run]":
        """Return the run of each fold if there are folds, else this run alone."""
        return self.folds() or [self]

    def deployable(self) -> list[Path]:
        """Return the bundles that a pipeline should use: the averaged weights if there are any, else the best epoch's.

        Returns:
            One folder per fold; a single one if the run was not cross-validated.

        Raises:
            ValueError: If the run is not finished.
        """
        if not self.is_finished:
            raise ValueError(
                f"{self.folder} holds no finished run: name another folder, or finish it with "
                f"`pneumoseg train EXPERIMENT --manifest ... --out {self.folder} --resume`"
            )
        return [run.swa if run.swa.exists() else run.best for run in self.trainings()]

    def report_files(self) -> list[Path]:
        """Return the files that a report shows: histories and metrics, of folds and later averages as well."""
        files = [path for run in (self, *self.folds()) for path in (run.history_file, run.metrics_file)]
        return [path for path in files if path.exists()] + self._average_files()

    def average_folder(self, start_epoch: int, end_epoch: int) -> Path:
        """Return the default folder of an average that is made after the training, epochs counted from 1."""
        return self.folder / f"swa_{start_epoch}-{end_epoch}"

    def later_averages(self) -> list[dict[str, Any]]:
        """Return the scores of all averages in the default folders that were made after the training."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in self._average_files()]

    def _average_files(self) -> list[Path]:
        return sorted(self.folder.glob("swa_*.json"))

    @contextmanager
    def open(self, settings: Experiment, training: pd.DataFrame, validation: pd.DataFrame) -> Iterator[None]:
        """Prepare the folder for training and lock it against other processes while the context lasts.

        Writes `settings.yaml` (complete, so that it can be run again), `split.csv` and `environment.json`, and logs
        which device will train, see `device`. The lock ends with the process, however that ends.

        Args:
            settings: Settings of the experiment.
            training: Manifest rows of the images to train on.
            validation: Manifest rows of the images to validate on.

        Raises:
            FileExistsError: If the folder holds a finished run, or a stopped one that is not to be resumed, or another
                process is training in it.
            ValueError: If the run to resume has other settings or images, or its images have changed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # The lock comes first, since the process that has it may be about to finish the run.
        with locked_folder(self.folder, "trained"):
            self.refuse_finished()
            if self.checkpoint.exists():
                self._require_resumable(settings, training, validation)
            else:
                self._remove_earlier_training()
            environment = _environment() | announce_device(settings.precision, settings.jit_compile)
            texts = _descriptions(settings, training, validation) | {_ENVIRONMENT: json.dumps(environment, indent=2)}
            self._remove_leftovers()
            for name, text in texts.items():
                with atomic_write(self.folder / name) as temporary:
                    temporary.write_text(text, encoding="utf-8")
            yield

    def refuse_finished(self) -> None:
        """Protect a finished run.

        Raises:
            FileExistsError: If the run is finished.
        """
        if self.is_finished:
            raise FileExistsError(
                f"{self.folder} holds a finished run: choose another folder, or remove it to train again"
            )

    def require_settings(self, settings: Experiment) -> None:
        """Check that a training which this folder already holds, if any, has these settings; of folds the first one.

        Raises:
            ValueError: If it has others.
        """
        first = self.trainings()[0].folder / _SETTINGS
        if first.exists() and not _same_settings(first.read_text(encoding="utf-8"), settings):
            raise ValueError(
                f"{self.folder} holds a run with other settings: choose another folder, or remove this one to train "
                "again"
            )

    def finished_metrics(
        self, settings: Experiment, training: pd.DataFrame, validation: pd.DataFrame
    ) -> dict[str, Any] | None:
        """Return the metrics of a run that has already finished and is to be resumed, or None.

        Args:
            settings: Settings of the experiment.
            training: Manifest rows of the images to train on.
            validation: Manifest rows of the images to validate on.

        Raises:
            ValueError: If the finished run had other settings or images.
        """
        if not (self.resume and self.is_finished):
            return None
        self._check_unchanged(settings, training, validation)
        _log.info(f"{self.folder} is finished already")
        return self.metrics()

    def finish(
        self,
        history: pd.DataFrame,
        best_epoch: int,
        training: pd.DataFrame,
        validation: pd.DataFrame,
        further: Mapping[str, float],
    ) -> dict[str, Any]:
        """Write the metrics, which marks the run as finished, and remove its checkpoint.

        Args:
            history: Table of all epochs, see `HistoryFile`.
            best_epoch: Number of the best epoch, counted from 1.
            training: Manifest rows of the images trained on.
            validation: Manifest rows of the images validated on.
            further: More metrics to write.

        Returns:
            The best epoch's values, the number of images and positives of each split, and `further`.
        """
        metrics: dict[str, Any] = {"best_epoch": best_epoch}
        metrics |= history.loc[history["epoch"] == best_epoch].drop(columns="epoch").iloc[0].to_dict()
        for name, rows in (("training", training), ("validation", validation)):
            metrics |= {f"{name}_images": len(rows), f"{name}_positives": int(rows["has_pneumothorax"].sum())}
        metrics = self.write_metrics(metrics | dict(further))
        self.checkpoint.unlink(missing_ok=True)
        return metrics

    def write_metrics(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the metrics and return them with None in place of NaN, which JSON does not know."""
        metrics = {name: None if value != value else value for name, value in metrics.items()}
        with atomic_write(self.metrics_file) as temporary:
            temporary.write_text(json.dumps(metrics, indent=2), encoding="utf-8")
        return metrics

    def _require_resumable(self, settings: Experiment, training: pd.DataFrame, validation: pd.DataFrame) -> None:
        if not self.resume:
            raise FileExistsError(
                f"{self.folder} holds a stopped run: continue it with --resume, or remove it to train again"
            )
        self._check_unchanged(settings, training, validation)

    def _remove_earlier_training(self) -> None:
        """Remove the results of a training that lost its checkpoint, which must not mix with those of a new one."""
        for folder in (self.best, self.swa, self.epoch_weights):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.history_file, self.predictions_file, self.enrichment_file, *self._average_files()):
            file.unlink(missing_ok=True)

    def _check_unchanged(self, settings: Experiment, training: pd.DataFrame, validation: pd.DataFrame) -> None:
        for name, text in _descriptions(settings, training, validation).items():
            try:
                before = (self.folder / name).read_text(encoding="utf-8")
            except FileNotFoundError as error:
                raise ValueError(f"{self.folder} cannot be resumed, it has no {name}: choose another folder") from error
            same = _same_settings(before, settings) if name == _SETTINGS else _same_split(before, text)
            if not same:
                raise ValueError(
                    f"{self.folder} cannot be resumed, its {name} differs from the present experiment and manifest: "
                    "change them back, choose another folder, or remove this one to train again"
                )

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of writes that a killed process did not finish."""
        files = (self.best, self.swa, self.checkpoint, self.history_file, self.predictions_file, self.enrichment_file)
        names = [path.name for path in (*files, self.curves, self.metrics_file)] + [_SETTINGS, _SPLIT, _ENVIRONMENT]
        for leftover in [path for name in names for path in self.folder.glob(f".{name}.*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for leftover in self.epoch_weights.glob(".epoch_*"):
            leftover.unlink()


def _same_settings(before: str, settings: Experiment) -> bool:
    """Return whether a run had these settings; a key that its version did not know has its default."""
    try:
        return type(settings).model_validate(yaml.safe_load(before)) == settings
    except (ValueError, yaml.YAMLError):
        return False


def _same_split(before: str, now: str) -> bool:
    """Return whether a run had the same images in the same splits, with the same content if its version noted that."""
    one, other = (read_text_table(io.StringIO(text)) for text in (before, now))
    return one.equals(other[[name for name in other if name in one]])


def _descriptions(settings: Experiment, training: pd.DataFrame, validation: pd.DataFrame) -> dict[str, str]:
    """Return the texts that tell one run from another, by the names of their files."""
    splits = (("train", training), ("val", validation))
    table = pd.concat([rows[["image_id"]].assign(split=name, content=_content(rows)) for name, rows in splits])
    return {_SETTINGS: yaml.safe_dump(settings.model_dump(), sort_keys=False), _SPLIT: table.to_csv(index=False)}


def _content(manifest: pd.DataFrame) -> list[str]:
    """Return a checksum of each image's truth, size and length, by which another mask or file is noticed."""
    columns = ["has_pneumothorax", "rle", "rows", "columns", "frame_length"]
    rows = manifest[columns].itertuples(index=False, name=None)
    # Square pixels add nothing, so that a run of an earlier version, which knew no others, can be resumed.
    aspects = [() if aspect == 1 else (aspect,) for aspect in pixel_aspects(manifest).tolist()]
    texts = [" ".join(map(str, row + aspect)) for row, aspect in zip(rows, aspects, strict=True)]
    return [f"{zlib.crc32(text.encode()):08x}" for text in texts]


def _environment() -> dict[str, Any]:
    import keras

    packages = _PACKAGES + (("jax", "jaxlib") if keras.backend.backend() == "jax" else ())
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count(), **versions}
