"""The trials of a sweep: trained where they are missing, each a run of its own."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pneumoseg.data.index import load_manifest
from pneumoseg.folder_lock import locked_folder
from pneumoseg.report.live_curves import live_curves
from pneumoseg.sweep.sweep_file import Trial
from pneumoseg.training.jobs import Job, RunJobs, in_turn
from pneumoseg.training.run import Run
from pneumoseg.training.tasks import task_for
from pneumoseg.training.train import cross_validate, finish_runs, train

_log = logging.getLogger(__name__)


def train_trials(
    trials: Sequence[Trial], manifest: str | Path, out: str | Path, *, run_jobs: RunJobs = in_turn
) -> dict[str, str]:
    """Train the trials of a sweep that are not finished; a stopped one goes on where it stopped.

    Args:
        trials: Trials, see `load_trials`.
        manifest: CSV file of the manifest.
        out: Folder of the runs, one per trial. Runs of other trials are left alone.
        run_jobs: Carries out the trainings, see `jobs`.

    Returns:
        The reason of each trial that failed, by name.

    Raises:
        FileExistsError: If another process is writing the folder.
        ValueError: If the networks cannot be built with the settings, or a trial's run has other settings or, if it is
            finished, other images; nothing is trained then.

    Example:
        >>> train_trials(load_trials("sweep.yaml"), "manifest.csv", "runs/sweep")  # doctest: +SKIP
        {}
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with locked_folder(out, "written"):
        jobs = _prepare_trials(trials, manifest, out)
        _tell_others(out, list(jobs))
        _log.info(f"{out}: {len(jobs)} trials, {sum(run.is_finished for run in jobs)} finished already")
        return finish_runs(jobs, run_jobs)


def _prepare_trials(trials: Sequence[Trial], manifest: str | Path, out: Path) -> dict[Run, Job]:
    """Return the training of each trial, after all checks that need no network."""
    jobs = {}
    for trial in trials:
        run = Run(out / trial.name, Path(manifest).parent / "cache", resume=True)
        task_for(trial.settings).check_network()
        run.require_settings(trial.settings)
        jobs[run] = Job(trial.name, run.log, partial(train_trial, trial, manifest, run))
    return jobs


def train_trial(trial: Trial, manifest: str | Path, run: Run) -> None:
    """Train one trial, cross-validated if its settings say so; a finished one is only checked.

    Args:
        trial: Settings of the training.
        manifest: CSV file of the manifest.
        run: Run to train in, or to go on with.

    Raises:
        ValueError: If the run has other settings or images, or the training failed.
    """
    task = task_for(trial.settings)
    start = cross_validate if trial.settings.cross_validate else train
    start(task, load_manifest(manifest), run, make_callback=live_curves(task))


def _tell_others(out: Path, runs: Sequence[Run]) -> None:
    """Say which runs of the folder belong to no trial."""
    names = {run.folder.name for run in runs}
    others = [path.name for path in sorted(out.iterdir()) if path.name not in names and _is_run(path)]
    if others:
        _log.warning(
            f"{out}: {len(others)} runs of trials that the sweep does not name are left alone: {', '.join(others)}"
        )


def _is_run(path: Path) -> bool:
    return path.is_dir() and (Run(path).is_single or bool(Run(path).folds()))
