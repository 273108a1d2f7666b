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
from pneumoseg.cli.listen import serve
from pneumoseg.folder_lock import locked_folder
from pneumoseg.pacs.event_log import EventLog
from pneumoseg.pacs.receiver import Receiver
from pneumoseg.pacs.sender import StoreSender
from pneumoseg.pacs.service import Service
from pneumoseg.pacs.spool import Added, Spool, key_of
from tests.pacs.fresh_home import empty_home, left_behind
from tests.pacs.hospital import ROOT, Archive, QuickPipeline, send, study_of, wait_until, write_radiograph

ALL = ["OT", "SEG", "SR"]
KILLS, IMAGES = 20, 30
SEEDS = [13]


@pytest.fixture
def archive():
    archive = Archive().start()
    yield archive
    archive.stop()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def header_values(datasets):
    """Return all values of headers that are long enough to be told from other text."""
    values = {str(element.value) for dataset in datasets for element in dataset if element.keyword != "PixelData"}
    return {value for value in values if len(value) >= 6} - {"pneumoseg"}  # the manufacturer


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
@pytest.mark.parametrize("seed", SEEDS)
def test_no_result_is_lost_or_doubled_when_the_process_is_killed(tmp_path, archive, seed):
    datasets = [pydicom.dcmread(write_radiograph(tmp_path / "sent", number)) for number in range(IMAGES)]
    port, folder, kills, chance = free_port(), tmp_path / "queue", threading.Semaphore(0), random.Random(seed)
    life = Life(folder, port, archive.port)

    def scan():
        for number, dataset in enumerate(datasets):
            if number * KILLS // IMAGES > (number - 1) * KILLS // IMAGES:
                assert kills.acquire(timeout=60)
            send_until_confirmed(port, dataset)

    try:
        scanner = threading.Thread(target=scan)
        scanner.start()
        for kill in range(KILLS):
            kills.release()
            wait_until(lambda kill=kill: life.listening == kill + 1)
            threading.Event().wait(chance.uniform(0, 0.4))
            life.kill(signal.SIGKILL)
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


@pytest.fixture
def options(tmp_path):
    """Return options of `listen` that are right, as a dictionary; the pipeline is not one that can be loaded."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "pipeline.json").touch()
    return {
        "--pipeline": tmp_path / "p",
        "--spool": tmp_path / "queue",
        "--accept": "SCANNER",
        "--to": "A@[::1]:104",
        "--port": "0",
    }


def listen(options):
    """Run `listen` with options that it refuses, and return the error's text."""
    arguments = [
        argument for name, value in options.items() for argument in ([name] if value is True else [name, value])
    ]
    result = invoke("listen", *arguments)
    assert isinstance(result.exception, (ValueError, OSError)), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"--accept": ""}, "is not an AE title"),
        ({"--accept": "A,,B"}, "is not an AE title"),
        ({"--accept": "SEVENTEENLETTERSX"}, "is not an AE title"),
        ({"--aet": "back\\slash"}, "is not an AE title"),
        ({"--to": "A@::1:104"}, "expected AET@HOST:PORT"),
        ({"--to": "A@host"}, "expected AET@HOST:PORT"),
        ({"--to": "host:104"}, "expected AET@HOST:PORT"),
        ({"--to": "A@host:0"}, "expected AET@HOST:PORT"),
        ({"--to": "A@host:65536"}, "expected AET@HOST:PORT"),
        ({"--to": "back\\slash@127.0.0.1:104"}, "is not an AE title"),
        ({"--to": "A@pacs.example:104"}, "another computer, without TLS: give --tls CERT KEY CA and --to-tls"),
        ({"--to": "A@192.168.0.1:104"}, "another computer, without TLS"),
        ({"--host": "0.0.0.0"}, "--host 0.0.0.0 lets other computers connect without TLS: give --tls CERT KEY CA"),
        ({"--host": ""}, "lets other computers connect"),
        ({"--stow": "https://pacs.example"}, "name one receiver"),
        ({"--port": "104", "--aet": "A", "--to": "A@127.0.0.1:104"}, "A@127.0.0.1:104 is this service itself"),
        ({"--to-tls": True}, "with the certificates of --tls"),
        ({"--objects": "seg,gsps"}, "gsps"),
    ],
)
def test_wrong_options_are_refused(options, changed, error):
    assert error in listen(options | changed)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://pacs.example/dicom-web", "another computer, without TLS: give an https URL"),
        ("ftp://127.0.0.1/dicom-web", "expected an http or https URL"),
        ("https://user:secret@pacs.example/dicom-web", "without a user in it"),
        ("https://", "expected an http or https URL"),
    ],
)
def test_wrong_urls_are_refused(options, url, error):
    del options["--to"]
    message = listen(options | {"--stow": url})
    assert error in message
    assert "secret" not in message


def test_a_port_that_is_taken_is_told_before_a_queue_is_made(options):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert listen(options | {"--port": str(port)}).startswith(f"cannot listen on 127.0.0.1 port {port} (Address")
    assert not options["--spool"].exists()


def test_a_receiver_of_the_results_must_be_named(options):
    del options["--to"]
    assert "name one receiver" in listen(options)


def test_a_folder_that_is_not_a_queue_is_refused(options, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    assert "holds other files" in listen(options | {"--spool": tmp_path / "other"})


def test_a_folder_without_a_pipeline_is_refused(options, tmp_path):
    assert "no pipeline" in listen(options | {"--pipeline": tmp_path})


def test_certificates_that_are_missing_are_refused(options, tmp_path):
    arguments = [str(argument) for pair in options.items() for argument in pair]
    result = invoke("listen", *arguments, "--tls", *["/missing.pem"] * 3)
    assert isinstance(result.exception, FileNotFoundError)


def test_mistakes_are_told_before_tensorflow_is_loaded(options):
    script = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; from pneumoseg.cli import main; main()"
    )
    arguments = [str(argument) for pair in options.items() for argument in pair]
    command = [sys.executable, "-c", script, "listen", *arguments]
    with locked_folder(Spool(options["--spool"]).folder, "served"):
        finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"pneumoseg: {options['--spool']} is being served by another process")
    assert finished.stderr.count("\n") == 1


def test_the_command_as_a_user_runs_it(pipeline, archive, tmp_path):
    arguments = ["--pipeline", pipeline, "--spool", tmp_path / "queue", "--accept", "OTHER,SCANNER"]
    target, environment = f"ARCHIVE@127.0.0.1:{archive.port}", empty_home(tmp_path)
    command = [sys.executable, "-m", "pneumoseg", "listen", *arguments, "--to", target, "--port", 0]
    with open(tmp_path / "log", "w") as log:
        service = subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = service.stdout.readline()
        port = int(line.split()[6].rstrip(","))
        assert line == f"listening as PNEUMOSEG on 127.0.0.1 port {port}, results go to {target}\n"
        datasets = [
            pydicom.dcmread(write_radiograph(tmp_path / "sent", number, **elements))
            for number, elements in enumerate([{}, {}, {"ViewPosition": "LL"}, {"PixelData": bytes(40)}])
        ]
        assert send(port, *datasets) == [0, 0, 0, 0]
        spool = Spool(tmp_path / "queue")
        wait_until(lambda: (spool.status().done, len(spool.status().failures)) == (2, 2))
        shown = invoke("queue", tmp_path / "queue").stdout
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0
        assert left_behind(environment) == []
    finally:
        service.kill()
        service.wait()
    assert archive.results() == {study_of(0): ALL, study_of(1): ALL}
    assert shown.splitlines()[0].endswith("; 2 done, 2 failed")
    assert_discreet((tmp_path / "log").read_text(), [*datasets, *archive.stored])
    assert "stopped: 4 received, " in (tmp_path / "log").read_text()
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "queue").rglob("*")} == {0}


def queue_of(tmp_path, reasons):
    """Return a queue with one failed image per reason, and their keys."""
    spool, keys = Spool(tmp_path / "queue"), []
    for number, reason in enumerate(reasons):
        uid = f"{ROOT}.{number}.3"
        assert spool.add(write_radiograph(spool.temporary / "incoming", number), uid) is Added.NEW
        keys.append(key_of(uid))
        if reason:
            spool.fail(keys[-1], reason)
            os.utime(spool.folder / "failed" / keys[-1], (1000 + number,) * 2)
    return spool, keys


def test_the_queue_is_shown_by_state_and_reason(tmp_path):
    spool, keys = queue_of(tmp_path, ["", "", "KeyError", "seg: no", "KeyError"])
    for key in keys[:2]:
        os.utime(spool.image(key), (time.time() - 3700, time.time() - 3700))
    result = invoke("queue", spool.folder)
    assert result.exit_code == 0
    first, *lines = result.stdout.splitlines()
    assert first.startswith(
        "2 images wait for the networks (new), the results of 0 to be sent (out), the oldest for 1:01:4"
    )
    assert first.endswith("; 0 done, 3 failed")
    assert lines == ["2 failed: KeyError", f"  {keys[2]}", f"  {keys[4]}", "1 failed: seg: no", f"  {keys[3]}"]


def test_long_lists_are_cut(tmp_path):
    spool, keys = queue_of(tmp_path, ["KeyError"] * 23)
    lines = invoke("queue", spool.folder).stdout.splitlines()
    assert lines[1:] == ["23 failed: KeyError", *(f"  {key}" for key in keys[3:]), "  ... and 3 earlier ones"]


def test_failed_images_are_put_back(tmp_path):
    spool, keys = queue_of(tmp_path, ["KeyError", "KeyError", "KeyError"])
    result = invoke("queue", spool.folder, "--retry", keys[1])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"{keys[1]} is back in the queue"
    assert spool.waiting() == [keys[1]]
    assert invoke("queue", spool.folder, "--retry", "all").exit_code == 0
    assert sorted(spool.waiting()) == sorted(keys)


def test_an_unknown_key_gives_status_one_and_the_others_are_put_back(tmp_path):
    spool, keys = queue_of(tmp_path, ["KeyError"])
    result = invoke("queue", spool.folder, "--retry", "nonsense", "--retry", keys[0])
    assert result.exit_code == 1
    assert "no failed image has the key 'nonsense'" in result.stderr
    assert spool.waiting() == keys


@pytest.mark.parametrize("options", [[], ["--retry", "all"]])
def test_a_folder_without_a_queue_is_refused_and_stays_as_it_is(tmp_path, options):
    (tmp_path / "new").mkdir()
    result = invoke("queue", tmp_path, *options)
    assert isinstance(result.exception, FileNotFoundError)
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]


@pytest.mark.parametrize("options", [[], ["--retry", "0" * 32]])
def test_a_queue_that_is_shown_is_not_changed(tmp_path, options):
    spool, keys = queue_of(tmp_path, ["", "KeyError"])
    (spool.folder / "done").chmod(0o750)
    before = {path: (path.stat().st_mode, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")}
    assert keys[1] in invoke("queue", spool.folder, *options).stdout
    assert {path: (path.stat().st_mode, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")} == before


SERVE = """
import sys, threading
from pneumoseg.cli import listen
from pneumoseg.pacs.event_log import EventLog

class Service:
    counts = {}
    stopping = threading.Event()

    def run(self, started):
        kind = sys.argv[1]
        started()
        if kind == "broken":
            raise KeyError("DOE^JANE")
        self.stopping.wait(60)
        if kind == "hanging":
            threading.Event().wait(60)

    def stop(self):
        self.stopping.set()

    def abandon(self):
        print("abandoned", flush=True)

listen.STOP_S = 0.5 if sys.argv[1] == "hanging" else 50
log = EventLog()
log.install()
listen.serve(Service(), log, lambda: print("listening", flush=True))
print("ended")
"""


@pytest.mark.parametrize(
    ("kind", "number", "status", "printed"),
    [
        ("sound", signal.SIGTERM, 0, "ended\n"),
        ("sound", signal.SIGINT, 0, "ended\n"),
        ("hanging", signal.SIGTERM, 0, "abandoned\n"),
        ("broken", None, 1, ""),
    ],
)
def test_a_service_ends_in_time_whatever_it_does(kind, number, status, printed):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "listening\n"
    if number is not None:
        process.send_signal(number)
    out, log = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, printed)
    assert "stopped: no images" in log
    assert "DOE" not in log
    assert ("KeyError" in log) == (kind == "broken")


def test_a_service_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    spool = Spool(tmp_path / "queue")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        receiver = Receiver(spool, ["SCANNER"], port=port)
        service = Service(spool, QuickPipeline(), receiver, StoreSender("ARCHIVE", "127.0.0.1", 104))
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            serve(service, EventLog(), lambda: pytest.fail("it listens"))
    with locked_folder(spool.folder, "served"):
        pass
