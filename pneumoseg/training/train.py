"""Training and cross-validation: a task and a manifest make a run."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from pneumoseg.atomic_write import atomic_write
from pneumoseg.config import Split
from pneumoseg.data.loaders import files_named
from pneumoseg.data.masks import leave_out_unknown_masks
from pneumoseg.data.patients import describe_patients, doubts_about_patients, has_known_patients
from pneumoseg.data.splits import count_shared_patients, stratified_folds, stratified_split
from pneumoseg.data_parallel import all_devices, share_batches, warn_of_idle_devices
from pneumoseg.models.bundle_spec import DataSplit, is_bundle, read_bundle_spec
from pneumoseg.training.engine import Engine
from pneumoseg.training.jobs import Job, RunJobs, here
from pneumoseg.training.run import Run
from pneumoseg.training.tasks import Task, TrainingData

_log = logging.getLogger(__name__)
_XLA_DETERMINISM = "xla_gpu_deterministic_ops"

# Makes a further callback for a run, or for the run of each fold.
CallbackMaker = Callable[[Run], keras.callbacks.Callback]


def train(
    task: Task, manifest: pd.DataFrame, run: Run, *, make_callback: CallbackMaker | None = None
) -> dict[str, Any]:
    """Train a network in phases and keep the bundle of the best epoch.

    The run's folder gets the settings, the split, the history, the best bundle and the metrics; of a classifier also
    the predictions of the validation images, and of a segmenter that averages weights also the bundle with the average.

    Args:
        task: What to train, with the settings of the experiment.
        manifest: Table with one row per image, see `index_dataset`.
        run: Folder to train in. A stopped run continues from its last finished epoch if it is to be resumed, and a
            finished one is then left unchanged.
        make_callback: Function that makes one more Keras callback for the run; it is called after all others.

    Returns:
        The metrics: the best epoch's values, the number of images and positives in each split, and the scores of the
        average.

    Raises:
        FileExistsError: If the folder holds a run that is not to be resumed, or another process is training in it.
        ValueError: If the manifest cannot be split or has no mask for a segmenter, the settings do not fit the network,
            the run to resume had other settings or images, the settings want cross-validation, `start_from` was
            trained on images that are now kept out, or JAX is to be deterministic on a GPU without XLA's flag for it.
        DivergedError: If the training diverged.

    Example:
        >>> from pneumoseg.config import load_experiment
        >>> from pneumoseg.training.tasks import task_for
        >>> task = task_for(load_experiment("experiments/demo_segmenter.yaml"))  # doctest: +SKIP
        >>> metrics = train(task, manifest, Run("runs/segmenter"))  # doctest: +SKIP
        >>> metrics["val_iou"]  # doctest: +SKIP
    """
    if task.settings.cross_validate:
        raise ValueError("cross_validate is true: call cross_validate")
    if run.folds():
        raise ValueError(f"{run.folder} holds a cross-validation: choose another folder")
    _check_masks(task, manifest)
    training, validation = _split(manifest, task.settings.split)
    return _train_split(task, training, validation, run, make_callback)


def cross_validate(
    task: Task,
    manifest: pd.DataFrame,
    run: Run,
    *,
    make_callback: CallbackMaker | None = None,
    run_jobs: RunJobs = here,
) -> dict[str, Any]:
    """Train one network per fold; the number of folds is 1 / validation_fraction (0.2 gives five).

    The best epoch of each fold is still chosen on the images that its predictions are scored on, as in any run here, so
    that the scores are a little too good.

    Args:
        task: What to train, with the settings of the experiment.
        manifest: Table with one row per image, see `index_dataset`.
        run: Folder for a run per fold, the metrics, and the classifiers' predictions of all images, each by the fold
            that kept it out. A run that is to be resumed keeps its finished folds.
        make_callback: Function that makes one more Keras callback for the run of each fold.
        run_jobs: Trains the folds that are not finished, see `jobs`: by default one after the other in this process,
            where the first error ends them all; `on_ray` trains them at the same time.

    Returns:
        The metrics: `folds` with the best epoch and its scores for each fold; of classifiers also the scores of all
        out-of-fold predictions together, see `scores`.

    Raises:
        FileExistsError: If the folder holds a run that is not to be resumed.
        ValueError: If the manifest cannot be split into folds or has no mask for a segmenter, the run to resume had
            other settings or images or was not cross-validated, or `start_from` was trained on images that a fold keeps
            out.
        DivergedError: If the training of a fold diverged.
        FoldsFailedError: If `run_jobs` went on after a fold had failed.

    Example:
        >>> task = ClassifierTask(load_experiment("experiments/classifier_k_fold.yaml"))  # doctest: +SKIP
        >>> cross_validate(task, manifest, Run("runs/folds"))["mcc"]  # doctest: +SKIP
    """
    jobs = _prepare_folds(task, manifest, run, make_callback)
    if failures := finish_runs(jobs, run_jobs):
        raise FoldsFailedError(run, len(jobs), failures)
    return _summarize_folds(task, run, list(jobs))


def finish_runs(jobs: Mapping[Run, Job], run_jobs: RunJobs) -> dict[str, str]:
    """Carry out the jobs of the runs that are not finished, and check those that are.

    Args:
        jobs: The job of each run, which only checks a finished one.
        run_jobs: Carries out the others, see `jobs`.

    Returns:
        The reason of each job that failed or left no finished run, by name.
    """
    here([job for run, job in jobs.items() if run.is_finished])
    failures = run_jobs([job for run, job in jobs.items() if not run.is_finished])
    for run, job in jobs.items():
        if not run.is_finished:
            failures.setdefault(job.name, f"{run.folder} holds no finished run")
    return failures


class FoldsFailedError(ValueError):
    """Error of a cross-validation of which some folds failed; names them, the reasons, and how to go on.

    Args:
        run: Run of the cross-validation.
        folds: Number of its folds.
        failures: Reason of each fold that failed, by name.

    Example:
        >>> print(FoldsFailedError(Run("runs/folds"), 5, {"fold_2": "killed by SIGKILL"}))
        runs/folds: 1 of 5 folds failed: fold_2: killed by SIGKILL; the others are kept: continue with --resume
    """

    def __init__(self, run: Run, folds: int, failures: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        super().__init__(
            f"{run.folder}: {len(failures)} of {folds} folds failed: {reasons}; the others are kept: continue with "
            "--resume"
        )


def _prepare_folds(task: Task, manifest: pd.DataFrame, run: Run, make_callback: CallbackMaker | None) -> dict[Run, Job]:
    """Return the training of each fold, after all checks that need no network."""
    _refuse_other_runs(run)
    _check_masks(task, manifest)
    split = task.settings.split
    splits = stratified_folds(
        manifest, round(1 / split.validation_fraction), seed=split.seed, group_by_patient=split.group_by_patient
    )
    _warn_about_patients(manifest)
    if not run.is_finished:
        for _, validation in splits:
            task.images_trained_before(validation)
    jobs = {}
    for number, (training, validation) in enumerate(splits, start=1):
        fold, name = run.fold(number), f"Fold {number} of {len(splits)}"
        work = partial(_train_fold, name, task, training, validation, fold, make_callback)
        jobs[fold] = Job(fold.folder.name, fold.log, work)
    return jobs


def _train_fold(
    name: str,
    task: Task,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    run: Run,
    make_callback: CallbackMaker | None,
) -> None:
    _log.info(
        f"{name}: {len(training)} images for training, {len(validation)} kept out, "
        f"{count_shared_patients(training, validation)} patients in both"
    )
    _train_split(task, training, validation, run, make_callback)


def _summarize_folds(task: Task, run: Run, folds: Sequence[Run]) -> dict[str, Any]:
    if run.is_finished:
        return run.metrics()
    scores = [{k: v for k, v in fold.metrics().items() if k == "best_epoch" or "val_" in k} for fold in folds]
    return run.write_metrics({"folds": scores, **task.summarize_folds(run, folds)})


def _train_split(
    task: Task, kept_in: pd.DataFrame, kept_out: pd.DataFrame, run: Run, make_callback: CallbackMaker | None
) -> dict[str, Any]:
    settings, training, validation = task.settings, task.choose_images(kept_in), task.choose_images(kept_out)
    finished = run.finished_metrics(settings, training, validation)
    if finished is not None:
        return finished
    images = DataSplit({*training["image_id"], *_trained_before(task, run, kept_out)}, validation["image_id"])
    copies = task.copies(training)
    if task.deterministic:
        _make_deterministic()
    keras.utils.set_random_seed(settings.seed)
    with (
        all_devices() as devices,
        run.open(settings, training, validation),
        files_named(training, validation),
    ):
        warn_of_idle_devices(settings.batch_size, devices)
        model = share_batches(task.build_model())
        examples, checked = (task.make_examples(rows, run.cache_dir) for rows in (training, validation))
        data = TrainingData(training, validation, examples, checked.batches(settings.batch_size), images)
        if copies is not None:
            _write_copies(run, copies)
        callbacks = task.callbacks(run)
        engine = Engine(
            model,
            task.schedule,
            task.objective(data),
            run,
            lambda model, logs: task.save(run.best, model, logs, images),
            callbacks=callbacks,
            observers=[make_callback(run)] if make_callback else [],
        )
        history = engine.fit(
            lambda number: examples.batches(
                settings.batch_size, task.plan_epoch(data.labels, number), task.augmentations
            )
        )
        further = task.complete(run, model, data, history, callbacks)
        return run.finish(history, engine.best_epoch, training, validation, further)


def _make_deterministic() -> None:
    """Use operations that give the same bits each time, or raise an error if this process no longer can."""
    if keras.backend.backend() == "tensorflow":
        tf.config.experimental.enable_op_determinism()
        return
    import jax

    # On a CPU the programs of XLA give the same bits anyway. For a GPU it reads its flags once, when JAX starts.
    if jax.default_backend() != "cpu" and _XLA_DETERMINISM not in os.environ.get("XLA_FLAGS", ""):
        raise ValueError(
            f"deterministic is true, and XLA may use operations that differ in the last bits on {jax.devices()[0]}: "
            f"set XLA_FLAGS=--{_XLA_DETERMINISM}=true in the environment, or leave out deterministic"
        )


def _trained_before(task: Task, run: Run, kept_out: pd.DataFrame) -> frozenset[str]:
    """Return the images that `start_from` was trained on, now or when a run to be resumed began."""
    images = read_bundle_spec(run.best).images if run.checkpoint.exists() and is_bundle(run.best) else None
    return task.images_trained_before(kept_out) | (images.training if images else frozenset())


def _write_copies(run: Run, copies: pd.DataFrame) -> None:
    with atomic_write(run.enrichment_file) as temporary:
        copies.to_csv(temporary, index=False)
    _log.info(f"Enrichment: {len(copies)} copies of positives, listed in {run.enrichment_file.name}")


def _check_masks(task: Task, manifest: pd.DataFrame) -> None:
    """Log how many images a task leaves out of each split because they have a label alone; refuse a manifest of these.

    They are left out after the split, see `SegmenterTask.choose_images`.
    """
    if task.needs_masks:
        leave_out_unknown_masks(manifest, "the training of a segmenter")


def _split(manifest: pd.DataFrame, split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split as the settings say, and log how many patients are in both splits."""
    training, validation = stratified_split(
        manifest, split.validation_fraction, seed=split.seed, group_by_patient=split.group_by_patient
    )
    for name, rows in (("Training", training), ("Validation", validation)):
        _log.info(f"{name}: {len(rows)} images, {rows['has_pneumothorax'].sum()} positive")
    if has_known_patients(manifest):
        shared = count_shared_patients(training, validation)
        _log.info(f"Patients in both splits: {shared} ({describe_patients(manifest)})")
    else:
        _log.info(f"Patients in both splits: not known ({describe_patients(manifest)})")
        _log.info(
            "A patient's images may be in both splits unnoticed, which makes scores too good: index with an id map"
        )
    _warn_about_patients(manifest)
    return training, validation


def _warn_about_patients(manifest: pd.DataFrame) -> None:
    for text in doubts_about_patients(manifest):
        _log.warning(f"WARNING: {text}")


def _refuse_other_runs(run: Run) -> None:
    if not run.resume:
        run.refuse_finished()
    if run.is_single:
        raise ValueError(f"{run.folder} holds a run without cross-validation: choose another folder")
    if run.folder.exists() and not run.resume:
        raise FileExistsError(f"{run.folder} exists: continue it with --resume, or remove it to train again")
