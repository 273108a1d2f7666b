"""Folds as tasks of Ray: the same result as one after the other, and what a failure or a dead worker leaves."""

from functools import partial

import numpy as np
import pytest

from pneumoseg.models.bundle import load_bundle
from pneumoseg.training.jobs import Job
from pneumoseg.training.ray_tasks import OnRay
from pneumoseg.training.run import Run
from pneumoseg.training.train import FoldsFailedError, cross_validate
from tests.training.conftest import SHORT

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def job(folder, name, code):
    return Job(name, folder / name / "log.txt", partial(exec, code))


DIES_ONCE = """
import os, signal
if not os.path.exists("died"):
    open("died", "w").close()
    signal.raise_signal(signal.SIGKILL)
print("trained")
"""


def test_a_dead_worker_is_replaced_and_a_failure_ends_none(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    jobs = [
        job(tmp_path, "error", "raise ValueError('no masks')"),
        job(tmp_path, "dies once", DIES_ONCE),
        job(tmp_path, "dies", "import signal; signal.raise_signal(signal.SIGKILL)"),
        Job("elsewhere", tmp_path / "elsewhere/log.txt", print, str(tmp_path / "absent")),
        job(tmp_path, "good", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"),
    ]
    failures = OnRay()(jobs)
    assert failures.keys() == {"error", "dies", "elsewhere"}
    assert failures["error"] == "no masks"
    assert failures["dies"] == "its worker died (WorkerCrashedError)"
    assert "has no folder" in failures["elsewhere"]
    assert (tmp_path / "dies once/log.txt").read_text() == "trained\n"
    assert (tmp_path / "good/log.txt").read_text() == "-1\n"  # without a GPU of its own it uses none
    assert caplog.text.count("dies: its worker died (WorkerCrashedError): started again") == 3


class Unpacked:
    """Work that is an expression, which is evaluated as it is unpacked."""

    def __init__(self, expression):
        self._expression = expression

    def __reduce__(self):
        return eval, (self._expression,)


def test_the_gpus_of_a_task_are_settled_before_its_job_is_unpacked(tmp_path):
    """A training imports TensorFlow, which looks for GPUs; they cannot be hidden after that."""
    noted = tmp_path / "noted"
    seen = "__import__('os').environ.get('CUDA_VISIBLE_DEVICES', 'all')"
    work = Unpacked(f"[open({str(noted)!r}, 'w').write({seen}), print][1]")
    assert OnRay()([Job("a", tmp_path / "a/log.txt", work)]) == {}
    assert noted.read_text() == "-1"


def test_what_a_machine_lacks_is_told_in_one_line(tmp_path):
    failures = OnRay()([Job("a", tmp_path / "a/log.txt", Unpacked("__import__('absent')"))])
    assert failures == {"a": "ModuleNotFoundError: No module named 'absent'"}


def test_more_than_this_machine_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no machine has 1 CPUs and 64 GPUs for a task"):
        OnRay(gpus_per_task=64)([job(tmp_path, "a", "")])
    assert OnRay(gpus_per_task=64)([]) == {}


def test_folds_are_those_of_the_sequential_way(classifier, manifest, tmp_path):
    task = classifier(**SHORT, cross_validate=True, deterministic=True)
    expected = cross_validate(task, manifest, Run(tmp_path / "turn"))
    metrics = cross_validate(task, manifest, Run(tmp_path / "ray"), run_jobs=OnRay())
    assert _without_seconds(metrics) == _without_seconds(expected)
    one, other = (Run(tmp_path / name) for name in ("turn", "ray"))
    assert one.predictions_file.read_text() == other.predictions_file.read_text()
    for first, second in zip(one.deployable(), other.deployable(), strict=True):
        for weight, same in zip(*(load_bundle(path).model.get_weights() for path in (first, second)), strict=True):
            np.testing.assert_array_equal(weight, same)
    assert ["Phase 1: epochs 1 to 1" in fold.log.read_text() for fold in other.folds()] == [True, True]
    # The finished ones are kept: no task is started.
    again = cross_validate(task, manifest, Run(tmp_path / "ray", resume=True), run_jobs=OnRay(gpus_per_task=64))
    assert again == metrics


def _without_seconds(metrics):
    return metrics | {"folds": [{k: v for k, v in fold.items() if k != "seconds"} for fold in metrics["folds"]]}


def test_a_failed_fold_ends_no_other(classifier, manifest, tmp_path, untrained):
    task, run = classifier(**SHORT, cross_validate=True), tmp_path / "run"

    def first_fails(jobs):
        for each in jobs[1:]:
            each.work()
        return {jobs[0].name: "no memory"}

    message = r"run: 1 of 2 folds failed: fold_1: no memory; the others are kept: continue with --resume"
    with pytest.raises(FoldsFailedError, match=message):
        cross_validate(task, manifest, Run(run), run_jobs=first_fails)
    assert [fold.is_finished for fold in (Run(run).fold(1), Run(run).fold(2))] == [False, True]
    missing = []

    def none(jobs):
        missing.extend(each.name for each in jobs)
        return {"fold_1": "no memory"}

    with pytest.raises(FoldsFailedError):
        cross_validate(task, manifest, Run(run, resume=True), run_jobs=none)
    assert missing == ["fold_1"]
