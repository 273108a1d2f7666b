"""The place of a process among those that train together, as options or SLURM's variables tell it."""

import pytest

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
    for name in STEP:
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
