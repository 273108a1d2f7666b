"""The place of a process among those that train together, as options or SLURM's variables tell it."""

import pytest

from pneumoseg import hosts
from pneumoseg.hosts import Place, place_of

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Outside of SLURM, on JAX."""
    for name in (*STEP, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "jax")


def test_options_tell_the_place():
    assert place_of(2, 1, "node1:1234") == Place(2, 1, "node1:1234")
    assert not place_of(2, 1, "node1:1234").writes
    assert place_of(2, 0, "node1:1234").writes


def test_no_options_or_a_single_host_mean_a_single_process():
    assert place_of(None, None, None) == place_of(1, 0, "node1:1234") == Place()
    assert Place().writes


def test_a_step_of_slurm_tells_the_place_unless_options_do(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert place_of(None, None, None) == Place(8, 5)
    assert place_of(2, 1, "node1:1234") == Place(2, 1, "node1:1234")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert place_of(None, None, None) == Place()


def test_the_shell_of_an_allocation_for_several_tasks_is_a_single_process(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert place_of(None, None, None) == Place()


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "idle"),
    [(4, "2", "0,1,2,3", True), (8, "2", "0,1,2,3", False), (4, "1", "0,1,2,3", False), (4, "1", None, False)],
)
def test_gpus_that_no_task_takes_are_told(tasks, nodes, gpus, idle, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_NNODES", nodes)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    for number in range(tasks):
        hosts._warn_of_idle_gpus(Place(tasks, number))
    assert caplog.text.count("2 TASKS ON EACH MACHINE WITH 4 GPUS") == idle


@pytest.mark.parametrize(
    ("text", "lost"),
    [("UNAVAILABLE: gone", True), ("DEADLINE_EXCEEDED: GetKeyValue() timed out", True), ("INTERNAL: no", False)],
)
def test_lost_connections_are_told_as_such(text, lost):
    error = pytest.importorskip("jax").errors.JaxRuntimeError(text)
    told = hosts._told_error(error)
    assert isinstance(told, ConnectionError) == lost
    assert (told is error) != lost
    assert hosts._told_error(ValueError(text)).args == (text,)


@pytest.mark.parametrize("missing", ["SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_NTASKS"])
def test_an_allocation_without_a_step_of_several_tasks_is_a_single_process(missing, monkeypatch):
    for name, value in STEP.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    assert place_of(None, None, None) == Place()
    monkeypatch.setenv(missing, STEP[missing])
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert place_of(None, None, None) == Place()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((2, None, None), "--host and --coordinator missing"),
        ((None, 0, "node1:1234"), "--hosts missing"),
        ((2, 2, "node1:1234"), "expected 0 to 1"),
        ((2, -1, "node1:1234"), "expected 0 to 1"),
        ((0, 0, "node1:1234"), "--hosts 0"),
        ((2, 0, "node1"), "expected HOST:PORT"),
        ((2, 0, "node1:"), "expected HOST:PORT"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        place_of(*options)


@pytest.mark.parametrize("backend", ["tensorflow", None])
def test_several_hosts_need_jax(backend, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND")
    if backend:
        monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(ValueError, match="add --backend jax"):
        place_of(2, 0, "node1:1234")
