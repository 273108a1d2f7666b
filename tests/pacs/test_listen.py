"""The commands `listen` and `queue`, as a user types them, and the service as a process that is killed."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pydicom
import pytest
from typer.testing import CliRunner

from pneumoseg.cli import app
from pneumoseg.inference import assemble_pipeline
from pneumoseg.pacs.spool import Spool
from tests.inference.test_folder import save_classifier, save_segmenter
from tests.pacs.hospital import ROOT, Archive, send, study_of, wait_until, write_radiograph

ALL = ["OT", "SEG", "SR"]
KILLS, IMAGES = 20, 30


@pytest.fixture
def archive():
    archive = Archive().start()
    yield archive
    archive.stop()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline of untrained networks that lets every image pass and keeps every pixel."""
    folder = tmp_path_factory.mktemp("pipeline")
    save_classifier(folder / "c")
    save_segmenter(folder / "s", 0.5)
    options = {"classifier_threshold": 0, "mask_threshold": 0, "minimum_area": 0}
    assemble_pipeline(folder / "c", folder / "s", folder / "p", **options)
    return folder / "p"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def header_values(datasets):
    """Return all values of headers that are long enough to be told from other text."""
    values = {str(element.value) for dataset in datasets for element in dataset if element.keyword != "PixelData"}
    return {value for value in values if len(value) >= 6}


def assert_discreet(log, datasets):
    values = header_values(datasets)
    assert f"{ROOT}.1.3" in values
    assert not [value for value in values if value in log]
    for part in (ROOT, "2.25.", "Quixote", "Dulcinea", "Panza", "PATID", "Windmill", "Traceback"):
        assert part not in log


class Life:
    """The supervisor of a service, and what it and its processes print.

    Attributes:
        process: The id of the running service.
        listening: Number of processes that began to listen.
    """

    def __init__(self, folder, port, archive_port):
        self.process, self.listening, self.lines, self.log = 0, 0, [], folder.with_suffix(".log")
        arguments = [folder, port, archive_port]
        with open(self.log, "w") as errors:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "tests.pacs.quick_listen", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self):
        for line in self._supervisor.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("process"):
                self.process = int(line.split()[1])
            self.listening += line.startswith("listening")

    def kill(self, number):
        os.kill(self.process, number)

    def wait(self):
        assert self._supervisor.wait(40) == 0
        self._reading.join()

    def end(self):
        if self._supervisor.poll() is None:
            self._supervisor.kill()
            self.kill(signal.SIGKILL)
            self._supervisor.wait()


def send_until_confirmed(port, dataset):
    """Send an image again and again, as a scanner does, until it is confirmed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if send(port, dataset) == [0]:
                return
        except (AssertionError, AttributeError, RuntimeError):  # no connection, or no answer
            threading.Event().wait(0.02)
    raise TimeoutError


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_no_result_is_lost_or_doubled_when_the_process_is_killed(tmp_path, archive):
    datasets = [pydicom.dcmread(write_radiograph(tmp_path / "sent", number)) for number in range(IMAGES)]
    port, folder, kills, chance = free_port(), tmp_path / "queue", threading.Semaphore(0), random.Random(13)
    life = Life(folder, port, archive.port)

    def scan():
        for number, dataset in enumerate(datasets):
            if number * KILLS // IMAGES > (number - 1) * KILLS // IMAGES:
                assert kills.acquire(timeout=60)
            send_until_confirmed(port, dataset)

    try:
        scanner = threading.Thread(target=scan)
        scanner.start()
        past = [set(), set()]
        for kill in range(KILLS):
            kills.release()
            wait_until(lambda kill=kill: life.listening == kill + 1)
            # Three kills in a row may not hit the same image, which would then count as their cause.
            wait_until(lambda: predicted(folder) > past[-2] or not list(folder.glob("new/*")))
            threading.Event().wait(chance.uniform(0, 0.4))
            life.kill(signal.SIGKILL)
            past.append(predicted(folder))
        kills.release(IMAGES)
        scanner.join(60)
        spool = Spool(folder)
        wait_until(lambda: spool.status().done == IMAGES, 60)
        wait_until(lambda: life.listening == KILLS + 1)
        life.kill(signal.SIGTERM)
        life.wait()
    finally:
        life.end()
    assert [line for line in life.lines if line.startswith("ended")] == ["ended -9"] * KILLS + ["ended 0"]
    assert spool.status() == (0, 0, IMAGES, [], 0)
    assert archive.results() == {study_of(number): ALL for number in range(IMAGES)}
    by_uid = {dataset.SOPInstanceUID: dataset for dataset in archive.stored}
    assert len(by_uid) == 3 * IMAGES
    assert all(dataset == by_uid[dataset.SOPInstanceUID] for dataset in archive.stored)
    assert_discreet(life.log.read_text(), [*datasets, *archive.stored])
    assert sorted(path.name for path in spool.temporary.iterdir()) == []


def predicted(folder):
    """Return the keys of the images that the networks are done with."""
    return {path.name for path in folder.glob("out/*")} | {path.name for path in folder.glob("done/*")}
