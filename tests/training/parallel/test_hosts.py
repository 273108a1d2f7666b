"""Trainings in two processes that reach each other over loopback: they end with the weights of one process."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from pneumoseg.data.index import save_manifest
from pneumoseg.training.run import Run

EPOCHS = 3
# A program that is compiled without optimization is ready earlier. Each process has one device.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@dataclass(frozen=True)
class Ended:
    """A process that ended: its exit status, its output, and the weights after each epoch."""

    status: int
    text: str
    weights: dict[int, list[np.ndarray]]


@dataclass(frozen=True)
class Experiment:
    """An experiment file and a manifest, on which processes train together."""

    file: Path
    manifest: Path
    scratch: Path

    def train(self, *outs, kill=None, kill_in=0, options=()):
        """Train in one process per folder, which may differ; `kill` is the number of the one that dies."""
        address = f"127.0.0.1:{free_port()}"
        processes = []
        for number, out in enumerate(outs):
            record = self.scratch / f"weights_{number}.npz"
            record.unlink(missing_ok=True)
            place = ["--hosts", len(outs), "--host", number, "--coordinator", address] if len(outs) > 1 else []
            arguments = [record, kill_in if kill == number else 0, "train", self.file, "--manifest", self.manifest]
            arguments += ["--out", out, "--backend", "jax", *place, *options]
            command = [sys.executable, "-m", "tests.training.parallel.host", *map(str, arguments)]
            processes.append((start(command), record))
        return [end(process, record) for process, record in processes]


def start(command, **variables):
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": QUICK} | variables
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path.cwd()
    )


def end(process, record=None):
    text, weights = process.communicate()[0], {}
    if record is not None and record.exists():
        with np.load(record) as file:
            for name in sorted(file.files):
                weights.setdefault(int(name.split()[0]), []).append(file[name])
    return Ended(process.returncode, text, weights)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def experiment(request, manifest, tmp_path_factory):
    """Writes the experiment of a task."""

    def write(kind):
        folder = tmp_path_factory.mktemp(kind)
        settings = request.getfixturevalue(f"compact_{kind}")().settings
        (folder / "experiment.yaml").write_text(yaml.safe_dump(settings.model_dump()))
        save_manifest(manifest, folder / "manifest.csv")
        return Experiment(folder / "experiment.yaml", folder / "manifest.csv", folder)

    return write


@pytest.fixture(scope="module", params=["classifier", "segmenter"])
def trained(request, experiment):
    """An experiment, the folder in which one process with one device trained it, and how that ended."""
    chosen = experiment(request.param)
    (one,) = chosen.train(chosen.scratch / "one")
    assert one.status == 0, one.text
    assert sorted(one.weights) == [1, 2, 3]
    return chosen, Run(chosen.scratch / "one"), one


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def assert_same_results(two, one):
    tables = [run.history().drop(columns="seconds") for run in (one, two)]
    assert list(tables[0]) == list(tables[1])
    np.testing.assert_allclose(*tables, atol=1e-5)
    if one.predictions_file.exists():
        expected, found = one.validation_predictions(), two.validation_predictions()
        assert found["image_id"].tolist() == expected["image_id"].tolist()
        np.testing.assert_allclose(found["probability"], expected["probability"], rtol=0, atol=1e-5)
    expected, found = one.metrics(), two.metrics()
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"seconds"}:
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name


def test_two_hosts_end_with_the_weights_of_one_and_only_the_first_writes(trained, tmp_path):
    chosen, one, expected = trained
    first, second = chosen.train(tmp_path / "two", tmp_path / "absent" / "two")
    assert (first.status, second.status) == (0, 0), first.text + second.text
    for epoch in range(1, EPOCHS + 1):
        assert_same(first.weights[epoch], expected.weights[epoch])
        assert_same(second.weights[epoch], expected.weights[epoch])
    assert_same_results(Run(tmp_path / "two"), one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two"]
    assert "2 devices of 2 hosts" in first.text
    assert "Phase 1" in first.text
    assert "Phase 1" not in second.text


def assert_killed(ended, killed):
    assert ended[killed].status == -signal.SIGKILL
    for each in ended[:killed] + ended[killed + 1 :]:
        assert each.status not in (0, -signal.SIGKILL)
        assert "another host ended" in each.text or "another task died" in each.text


def assert_continued(ended, out, trained):
    _, one, expected = trained
    for each in ended:
        assert each.status == 0, each.text
        assert_same(each.weights[3], expected.weights[3])
    assert_same_results(Run(out), one)


@pytest.mark.parametrize("trained", ["classifier"], indirect=True)
def test_a_killed_host_ends_the_other_and_two_or_one_continue(trained, tmp_path):
    chosen, out = trained[0], tmp_path / "run"
    assert_killed(chosen.train(out, out, kill=0, kill_in=2), 0)
    assert Run(out).history()["epoch"].tolist() == [1]
    assert_killed(chosen.train(out, out, kill=1, kill_in=3, options=["--resume"]), 1)
    assert Run(out).history()["epoch"].tolist() == [1, 2]
    assert_continued(chosen.train(out, options=["--resume"]), out, trained)


@pytest.mark.parametrize("trained", ["classifier"], indirect=True)
def test_two_hosts_continue_what_one_began(trained, tmp_path):
    chosen, out = trained[0], tmp_path / "run"
    assert_killed(chosen.train(out, kill=0, kill_in=2), 0)
    assert_continued(chosen.train(out, out, options=["--resume"]), out, trained)


@pytest.fixture(scope="module")
def refused(experiment, tmp_path_factory):
    """Starts two processes that end before they train, each with its own changes of the command."""
    chosen = experiment("classifier")

    def train(*changes, variables=({}, {}), place=True):
        port = free_port()
        processes = []
        for number, own in enumerate(changes):
            options = {"--manifest": chosen.manifest, "--out": chosen.scratch / "refused", "--backend": "jax"}
            if place:
                options |= {"--hosts": 2, "--host": number, "--coordinator": f"127.0.0.1:{port}"}
            given = [str(word) for pair in (options | own).items() for word in pair if word is not None]
            command = [sys.executable, "-m", "pneumoseg", "train", str(chosen.file), *given]
            processes.append(start(command, **variables[number]))
        return [end(process) for process in processes]

    return train


def test_another_manifest_ends_all(refused, tmp_path):
    (tmp_path / "other.csv").write_text("image_id\n")
    for each in refused({}, {"--manifest": tmp_path / "other.csv"}):
        assert each.status == 2
        assert "the manifest differs between host 0 and host 1" in each.text


def join_and(number, address, then, seconds=60, **variables):
    """Start a process that joins another one within some seconds, and does something then."""
    program = f"with hosts.joined_hosts(hosts.place_of(2, {number}, '{address}')) as joined: {then}"
    program = (
        f"import logging; from pneumoseg import hosts; logging.basicConfig(); hosts.JOIN_SECONDS = {seconds}\n{program}"
    )
    return start([sys.executable, "-c", program], **variables)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_ends_all_with_its_message(failing):
    address = f"127.0.0.1:{free_port()}"
    then = ["joined.meet(); joined.meet()"] * 2
    then[failing] = "joined.meet(); raise ValueError('the disk is full')"
    ended = [end(process) for process in [join_and(number, address, then[number]) for number in range(2)]]
    assert [each.status for each in ended] == [2, 2]
    assert f"host {failing} stopped, and with it all others: the disk is full" in ended[1 - failing].text
    assert "ValueError: the disk is full" in ended[failing].text


def test_a_folder_that_is_not_shared_is_noticed(refused, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "checkpoint.npz").write_bytes(b"1")
    for each in refused({"--resume": None, "--out": tmp_path / "own"}, {"--resume": None, "--out": tmp_path / "none"}):
        assert each.status == 2
        assert "a file system that all hosts share" in each.text
    assert not (tmp_path / "none").exists()


def test_the_variables_of_slurm_are_enough(refused, tmp_path):
    (tmp_path / "other.csv").write_text("image_id\n")
    step = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    tasks = [step | {"SLURM_PROCID": number, "SLURM_LOCALID": number} for number in "01"]
    for each in refused({}, {"--manifest": tmp_path / "other.csv"}, variables=tasks, place=False):
        assert each.status == 2
        assert "the manifest differs between host 0 and host 1" in each.text


_BUILD = """
    import keras
    from pneumoseg.data_parallel import all_devices
    from pneumoseg.models.weights import build_pretrained
    built = []

    def build():
        built.append(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
        return built[-1]

    keras.utils.set_random_seed(0)
    with all_devices():
        model = build_pretrained(build, "imagenet", "xception")
        places = [len(one.weights[0].value.sharding.device_set) for one in built]
        print(places, model.weights[0].numpy().tolist())
"""


def test_processes_of_one_machine_download_weights_one_after_the_other(tmp_path):
    """The network made for the download, under a lock, is on one device: else each would wait for the other's."""
    alone = end(start([sys.executable, "-c", textwrap.dedent(_BUILD)], KERAS_HOME=str(tmp_path)))
    address = f"127.0.0.1:{free_port()}"
    both = [end(p) for p in [join_and(number, address, _BUILD, KERAS_HOME=str(tmp_path)) for number in range(2)]]
    assert [one.status for one in (alone, *both)] == [0, 0, 0], both[0].text + both[1].text
    weights = alone.text.splitlines()[-1].removeprefix("[1] ")
    assert [one.text.splitlines()[-1] for one in both] == [f"[1, 2] {weights}"] * 2


@pytest.mark.parametrize("number", [0, 1])
def test_waiting_for_the_others_ends(number):
    ended = end(join_and(number, f"127.0.0.1:{free_port()}", "pass", seconds=3))
    assert ended.status == 2
    assert f"host {number} waited 3 s" in ended.text


def test_a_port_that_is_taken_is_named():
    with socket.socket(socket.AF_INET6) as listening:
        listening.bind(("::", 0))
        listening.listen()
        ended = end(join_and(0, f"127.0.0.1:{listening.getsockname()[1]}", "pass"))
    assert "give all hosts another --coordinator, with a free port" in ended.text
