"""The service: in one process, first with fakes at both ends, then over the network."""

import contextlib
import errno
import logging
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pydicom
import pytest

from pneumoseg.folder_lock import locked_folder
from pneumoseg.image_errors import DamagedError, ImageError
from pneumoseg.pacs import service as service_module
from pneumoseg.pacs.delivery import BusyError, Refusal, UnreachableError
from pneumoseg.pacs.receiver import Receiver
from pneumoseg.pacs.sender import StoreSender
from pneumoseg.pacs.service import Service
from pneumoseg.pacs.spool import Added, Spool, key_of
from tests.pacs.hospital import ROOT, Archive, QuickPipeline, send, study_of, wait_until, write_radiograph


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(service_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(service_module, "_POLL_S", 0.05)
    monkeypatch.setattr(service_module, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(service_module, "LONGEST_LOCAL_PAUSE_S", 0.05)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "queue")


class Door:
    """Receiver of images that opens and closes, and through which nothing comes."""

    is_open = False

    def start(self):
        self.is_open = True

    def stop(self):
        self.is_open = False


class Post:
    """Sender that notes what it was given, after a list of faults to raise and of kinds to refuse."""

    def __init__(self, faults=(), refused=()):
        self.sent, self.faults, self.refused, self.attempts = [], list(faults), refused, 0

    def send(self, files, delivered):
        self.attempts += 1
        if self.faults:
            raise self.faults.pop(0)
        refusals = []
        for path in files:
            if path.stem in self.refused:
                refusals.append(Refusal(path, "no"))
            else:
                self.sent.append((path.parent.name, path.stem, path.read_bytes()))
                delivered(path)
        return refusals

    def close(self):
        pass


@contextlib.contextmanager
def running(service):
    """Run a service in a thread; stop it at the end."""
    started, faults = threading.Event(), []

    def run():
        try:
            service.run(started.set)
        except Exception as error:
            faults.append(error)
        started.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(10)
        yield faults
    finally:
        service.stop()
        thread.join(20)
        assert not thread.is_alive()


def add(spool, number=0, **elements):
    assert spool.add(write_radiograph(spool.temporary / "incoming", number, **elements), uid_of(number)) is Added.NEW
    return key_of(uid_of(number))


def uid_of(number):
    return f"{ROOT}.{number}.3"


def is_idle(spool):
    status = spool.status()
    return status.new == status.out == 0


def serve(spool, pipeline=None, post=None, **options):
    """Run a service on what is in the queue until nothing waits any more, and return the sender."""
    post = post or Post()
    with running(Service(spool, pipeline or QuickPipeline(), Door(), post, **options)):
        wait_until(lambda: is_idle(spool))
    return post


def reasons(spool):
    return [failure.reason for failure in spool.status().failures]


def test_images_are_worked_on_in_order_and_their_results_sent(spool):
    keys = [add(spool, number) for number in range(3)]
    for age, key in enumerate(keys):
        os.utime(spool.image(key), (1000 + age, 1000 + age))
    seen = []
    post = serve(spool, QuickPipeline(lambda path: seen.append(path.name)))
    assert seen == keys
    assert [(key, kind) for key, kind, _ in post.sent] == [(key, kind) for key in keys for kind in ("sc", "seg", "sr")]
    assert spool.status() == (0, 0, 3, [], 0)


def test_only_the_kinds_that_are_asked_for_are_sent(spool):
    key = add(spool)
    assert [sent[:2] for sent in serve(spool, kinds=["sr"]).sent] == [(key, "sr")]


def test_an_image_without_any_object_is_done(spool):
    add(spool)
    assert serve(spool, kinds=[]).attempts == 0
    assert spool.status() == (0, 0, 1, [], 0)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"ViewPosition": "LL"}, "RefusedError: is a lateral view"),
        ({"StudyInstanceUID": ""}, "RefusedError: has no valid Study Instance UID"),
        ({"PixelData": bytes(40)}, "DamagedError: is cut short or contradicts itself"),
        ({"NumberOfFrames": 3}, "UnsupportedError: is not a single frame of grey, or its codec is not supported"),
    ],
)
def test_an_image_without_results_fails_with_a_reason_and_holds_up_nobody(spool, elements, reason):
    add(spool, 1, **elements)
    other = add(spool, 2)
    post = serve(spool)
    assert reasons(spool) == [reason]
    assert {key for key, _, _ in post.sent} == {other}


def test_an_error_that_was_not_expected_is_told_by_its_class(spool, caplog):
    def stumble(path):
        raise KeyError("Quixote^Dulcinea")

    caplog.set_level(logging.INFO)
    add(spool)
    serve(spool, QuickPipeline(stumble))
    assert reasons(spool) == ["KeyError"]
    assert "KeyError" in caplog.text
    assert "Quixote" not in caplog.text


def test_a_result_that_is_routed_back_is_done_with(spool):
    add(spool)
    post = serve(spool)
    (picture,) = [content for _, kind, content in post.sent if kind == "sc"]
    (spool.temporary / "back").write_bytes(picture)
    assert spool.add(spool.temporary / "back", "2.25.1") is Added.NEW
    service = Service(spool, QuickPipeline(), Door(), Post())
    with running(service):
        wait_until(lambda: spool.status() == (0, 0, 2, [], 0))
    assert service.counts == {"sent back": 1, "delivered": 1}


def test_a_failed_image_is_retried_while_the_service_runs(spool):
    seen = []

    def stumble_once(path):
        seen.append(path)
        if len(seen) == 1:
            raise DamagedError("", "")

    key = add(spool)
    post = Post()
    with running(Service(spool, QuickPipeline(stumble_once), Door(), post)):
        wait_until(lambda: reasons(spool))
        Spool(spool.folder).retry(key)
        wait_until(lambda: spool.status().done == 1)
    assert len(post.sent) == 3


def test_results_that_are_refused_are_kept_and_retried_alone(spool):
    key = add(spool)
    post = serve(spool, post=Post(refused=["seg"]))
    assert [kind for _, kind, _ in post.sent] == ["sc", "sr"]
    assert reasons(spool) == ["seg: no"]
    assert [path.name for path in (spool.folder / "failed" / key).glob("*.dcm")] == ["seg.dcm"]
    spool.retry(key)
    assert [kind for _, kind, _ in serve(spool).sent] == ["seg"]
    assert spool.status() == (0, 0, 1, [], 0)


def test_the_same_bytes_are_sent_until_they_are_confirmed(spool):
    class Forgetful(Post):
        """Sender that is cut off after the receiver got the files and before it confirmed them."""

        def send(self, files, delivered):
            self.sent += [(path.parent.name, path.stem, path.read_bytes()) for path in files]
            if len(self.sent) == 3:
                raise UnreachableError("cut off")
            for path in files:
                delivered(path)
            return []

    add(spool)
    sent = serve(spool, post=Forgetful()).sent
    assert len(sent) == 6
    assert sent[:3] == sent[3:]


def test_results_that_a_sender_forgets_are_not_taken_for_delivered(spool):
    class Silent(Post):
        def send(self, files, delivered):
            self.attempts += 1
            return []

    add(spool)
    post = Silent()
    with running(Service(spool, QuickPipeline(), Door(), post)):
        wait_until(lambda: post.attempts > 2)
    assert spool.status().out == 1


def test_a_receiver_that_is_down_does_not_hold_up_the_networks(spool):
    for number in range(3):
        add(spool, number)
    post = Post([UnreachableError("down")] * 5)
    with running(Service(spool, QuickPipeline(), Door(), post)):
        wait_until(lambda: spool.status().new == 0)
        wait_until(lambda: spool.status().done == 3)
    assert post.attempts == 8
    assert len(post.sent) == 9


def test_an_image_that_the_receiver_stumbles_over_does_not_hold_up_the_others(spool):
    first, *others = [add(spool, number) for number in range(3)]

    class Stumbling(Post):
        def send(self, files, delivered):
            if files[0].parent.name == first:
                raise UnreachableError("aborted")
            return super().send(files, delivered)

    post = Stumbling()
    with running(Service(spool, QuickPipeline(), Door(), post)):
        wait_until(lambda: spool.status().done == 2)
    assert {key for key, _, _ in post.sent} == set(others)
    assert spool.unsent() == [first]


def test_results_that_are_refused_for_now_wait_alone(spool, monkeypatch):
    monkeypatch.setattr(service_module, "_FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr(service_module, "LONGEST_PAUSE_S", 1000.0)
    keys = [add(spool, number) for number in range(5)]
    for age, key in enumerate(keys):
        os.utime(spool.image(key), (1000 + age, 1000 + age))
    tried = []

    class Full(Post):
        def send(self, files, delivered):
            tried.append(files[0].parent.name)
            if files[0].parent.name in keys[:3]:
                raise BusyError("the receiver answered status 0xA700")
            return super().send(files, delivered)

    with running(Service(spool, QuickPipeline(), Door(), Full())):
        wait_until(lambda: spool.status().done == 2)
        late = add(spool, 5)
        wait_until(lambda: spool.status().done == 3)
    assert sorted(tried) == sorted([*keys, late])
    assert set(spool.unsent()) == set(keys[:3])


def test_the_delays_of_an_image_double_up_to_the_longest(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(service_module, "_FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(service_module, "LONGEST_PAUSE_S", 300.0)
    monkeypatch.setattr(service_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    delays = service_module._Delays()
    assert delays.is_over("a")
    for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]:
        assert delays.begin("a") == expected
        assert not delays.is_over("a")
        assert delays.is_over("b")
        now[0] += expected - 0.5
        assert not delays.is_over("a")
        now[0] += 0.5
        assert delays.is_over("a")
    delays.keep(["a"])
    assert delays.begin("a") == 300
    delays.keep(["b"])
    assert delays.begin("a") == 1


def test_a_receiver_without_room_holds_up_no_other_results(hospital, spool, tmp_path):
    hospital.archive.status = {"SEG": 0xA700}
    for number in range(3):
        hospital.send(tmp_path, number)
    wait_until(lambda: hospital.archive.results() == {study_of(number): ["OT", "SR"] for number in range(3)})
    assert spool.status().out == 3
    hospital.archive.status = {}
    wait_until(lambda: spool.status().done == 3)
    assert hospital.archive.results() == {study_of(number): ALL for number in range(3)}


def test_pauses_double_up_to_the_longest_and_begin_again(monkeypatch):
    waits = []
    monkeypatch.setattr(service_module, "_FIRST_PAUSE_S", 1.0)
    pauses = service_module._Pauses(SimpleNamespace(wait=waits.append), 300.0)
    for _ in range(11):
        pauses.wait()
    pauses.reset()
    pauses.wait()
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 1]


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "a text with /a/path")


@pytest.mark.parametrize("step", ["begin", "keep_results", "fail", "finish"])
def test_a_full_disk_makes_the_service_pause(spool, step, monkeypatch, caplog):
    keys = {add(spool, 0, ViewPosition="LL"), add(spool, 1)}
    calls, unpatched = [], getattr(Spool, step)

    def full(*_, **__):
        calls.append(step)
        no_space()

    monkeypatch.setattr(Spool, step, full)
    post = Post()
    with running(Service(spool, QuickPipeline(), Door(), post)) as faults:
        wait_until(lambda: len(calls) >= 10)  # far more often than a crash is tried again
        status = spool.status()
        assert status.new + status.out + status.done + len(status.failures) == 2
        monkeypatch.setattr(Spool, step, unpatched)
        wait_until(lambda: is_idle(spool))
    assert faults == []
    assert reasons(spool) == ["RefusedError: is a lateral view"]
    assert len(post.sent) == 3
    assert "OSError: No space left on device" in caplog.text
    assert "/a/path" not in caplog.text
    assert {failure.key for failure in spool.status().failures} < keys


def test_a_disk_that_fills_up_within_the_pipeline_is_not_the_images_fault(spool):
    seen = []

    def fill(path):
        seen.append(path)
        if len(seen) <= 5:
            no_space()

    add(spool)
    assert len(serve(spool, QuickPipeline(fill)).sent) == 3
    assert len(seen) == 6
    assert spool.status() == (0, 0, 1, [], 0)


class ResourceExhaustedError(Exception):
    """Error that TensorFlow raises under this name."""


def damaged_by(cause):
    try:
        raise cause
    except type(cause) as error:
        raise DamagedError("doe.dcm", "cannot be decoded") from error


PASSING = [
    *(OSError(number, "") for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN)),
    MemoryError(),
    ResourceExhaustedError("doe"),
    ImageError("doe.dcm", "cannot be opened (Too many open files)"),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{type(fault).__name__}-{getattr(fault, 'errno', '')}")
def test_a_fault_that_passes_lets_the_image_wait_behind_the_others(spool, fault, caplog):
    key, other = add(spool, 0), add(spool, 1)
    os.utime(spool.image(key), (1000, 1000))
    seen = []

    def lack(path):
        seen.append(path.name)
        if path.name == key and seen.count(key) < 10:
            if seen.count(key) > 1 and not isinstance(fault, ImageError):
                damaged_by(fault)
            raise fault

    post = serve(spool, QuickPipeline(lack))
    assert spool.status() == (0, 0, 2, [], 0)
    assert seen == [key, other, *[key] * 9]
    assert len(post.sent) == 6
    assert "doe" not in caplog.text


def test_a_fault_that_does_not_pass_ends_in_failed_after_ten_attempts(spool):
    key = add(spool, 0)
    add(spool, 1)
    seen = []

    def lack(path):
        seen.append(path.name)
        if path.name == key:
            raise MemoryError

    serve(spool, QuickPipeline(lack))
    assert seen.count(key) == 10
    assert reasons(spool) == ["MemoryError"]
    assert spool.status().done == 1
    spool.retry(key)
    assert len(serve(spool).sent) == 3


@pytest.mark.parametrize("fault", [OSError("broken data stream"), ValueError("no"), DamagedError("doe.dcm", "is")])
def test_a_fault_of_the_image_ends_in_failed_at_once(spool, fault):
    def stumble(path):
        seen.append(path)
        raise fault

    seen = []
    add(spool)
    serve(spool, QuickPipeline(stumble))
    assert len(seen) == len(reasons(spool)) == 1


def test_an_error_that_nobody_foresaw_while_results_are_kept_fails_the_image(spool, monkeypatch):
    key, other = add(spool, 0), add(spool, 1)
    keep_results = Spool.keep_results

    def broken(self, of, objects):
        if of == key:
            raise ValueError("DOE^JANE")
        keep_results(self, of, objects)

    monkeypatch.setattr(Spool, "keep_results", broken)
    assert {sent for sent, _, _ in serve(spool).sent} == {other}
    assert reasons(spool) == ["ValueError"]


@pytest.mark.parametrize("step", ["waiting", "unsent", "prune"])
def test_a_lack_of_resources_within_the_loops_does_not_end_the_service(spool, step, monkeypatch, caplog):
    faults, unpatched = [OSError(errno.EMFILE, "/spool/new"), MemoryError()] * 2, getattr(Spool, step)

    def lack(*arguments):
        if faults:
            raise faults.pop(0)
        return unpatched(*arguments)

    monkeypatch.setattr(Spool, step, lack)
    add(spool)
    assert len(serve(spool).sent) == 3
    assert faults == []
    assert "OSError: Too many open files" in caplog.text
    assert "/spool" not in caplog.text


def test_a_stop_within_the_work_is_not_the_images_fault(spool):
    begun, go_on, key = threading.Event(), threading.Event(), add(spool)

    def pause(path):
        begun.set()
        assert go_on.wait(10)

    service = Service(spool, QuickPipeline(pause), Door(), Post())
    with running(service):
        assert begun.wait(10)
        service.abandon()
        assert (spool.folder / "new" / f"{key}.attempts").stat().st_size == 0  # what the next process finds
        go_on.set()
        wait_until(lambda: spool.status().done == 1)
    service.abandon()
    assert list((spool.folder / "new").iterdir()) == []


CRASH = """
import os, sys
from pneumoseg.pacs.service import Service
from pneumoseg.pacs.spool import Spool
from tests.pacs.hospital import QuickPipeline
from tests.pacs.test_service import Door, Post

for _ in range(10):
    child = os.fork()
    if child == 0:
        Service(Spool(sys.argv[1]), QuickPipeline(lambda path: os._exit(139)), Door(), Post()).run()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *Spool(sys.argv[1]).waiting(), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_an_image_that_ends_the_process_ten_times_has_failed(spool):
    key = add(spool)
    crashes = subprocess.run([sys.executable, "-c", CRASH, spool.folder], capture_output=True, text=True, check=True)
    assert crashes.stdout == f"139 {key}\n" * 10
    healthy = add(spool, 1)
    post = serve(spool)
    assert reasons(spool) == ["10 attempts ended without a result, the last one with the process"]
    assert {sent for sent, _, _ in post.sent} == {healthy}
    spool.retry(key)
    assert len(serve(spool).sent) == 3


def test_after_a_crash_between_two_steps_results_win_over_their_image(spool):
    key = add(spool)
    content = spool.image(key).read_bytes()
    post = Post([UnreachableError("down")] * 1000)
    with running(Service(spool, QuickPipeline(), Door(), post)):
        wait_until(spool.unsent)
    before = [path.read_bytes() for path in spool.results(key)]
    spool.image(key).write_bytes(content)
    seen = []
    post = serve(spool, QuickPipeline(seen.append))
    assert seen == []
    assert [sent for _, _, sent in post.sent] == before
    assert spool.status() == (0, 0, 1, [], 0)


def test_a_stop_finishes_the_running_image_and_leaves_the_rest(spool):
    for number in range(3):
        add(spool, number)
    begun, go_on, door = threading.Event(), threading.Event(), Door()

    def pause(path):
        begun.set()
        assert go_on.wait(10)

    service = Service(spool, QuickPipeline(pause), door, Post([UnreachableError("down")] * 100))
    with running(service):
        assert begun.wait(10)
        assert door.is_open
        service.stop()
        go_on.set()
    assert (spool.status().new, spool.status().out) == (2, 1)
    assert not door.is_open


def test_a_stop_ends_a_long_pause(spool, monkeypatch):
    monkeypatch.setattr(service_module, "_FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr(service_module, "LONGEST_PAUSE_S", 1000.0)
    add(spool)
    post = Post([UnreachableError("down")])
    with running(Service(spool, QuickPipeline(), Door(), post)):
        wait_until(lambda: post.attempts)
    assert spool.status().out == 1


def test_a_stop_ends_a_send_that_hangs(spool, monkeypatch):
    monkeypatch.setattr(service_module, "_SEND_GRACE_S", 0.1)

    class Hanging(Post):
        hangs, closed = threading.Event(), threading.Event()

        def send(self, files, delivered):
            self.hangs.set()
            assert self.closed.wait(10)
            raise UnreachableError("closed")

        def close(self):
            self.closed.set()

    add(spool)
    with running(Service(spool, QuickPipeline(), Door(), Hanging())):
        assert Hanging.hangs.wait(10)
    assert spool.status().out == 1


def test_two_services_do_not_share_a_queue(spool):
    door = Door()
    with locked_folder(spool.folder, "served"), pytest.raises(FileExistsError, match="being served by another"):
        Service(spool, QuickPipeline(), door, Post()).run()
    assert not door.is_open


def test_an_error_of_the_service_itself_ends_it(spool, monkeypatch):
    def broken(_spool):
        raise RuntimeError("broken")

    monkeypatch.setattr(Spool, "unsent", broken)
    with pytest.raises(RuntimeError, match="broken"):
        Service(spool, QuickPipeline(), Door(), Post()).run()


class Hospital:
    """A service between a scanner and an archive, over the network."""

    def __init__(self, spool, pipeline=None):
        self.spool, self.archive = spool, Archive().start()
        self.receiver = Receiver(spool, ["SCANNER"], port=0, received=lambda key: self.service.notice(key))
        sender = StoreSender("ARCHIVE", "127.0.0.1", self.archive.port)
        self.service = Service(spool, pipeline or QuickPipeline(), self.receiver, sender)

    def send(self, tmp_path, number, **elements):
        dataset = pydicom.dcmread(write_radiograph(tmp_path / "sent", number, **elements))
        (status,) = send(self.receiver.port, dataset)
        return status


@pytest.fixture
def hospital(spool):
    hospital = Hospital(spool)
    with running(hospital.service):
        yield hospital
    hospital.archive.stop()


ALL = ["OT", "SEG", "SR"]


def test_an_image_comes_and_its_results_go(hospital, spool, tmp_path):
    assert hospital.send(tmp_path, 1) == 0
    wait_until(lambda: spool.status().done == 1)
    assert hospital.archive.results() == {study_of(1): ALL}
    assert {dataset.PatientID for dataset in hospital.archive.stored} == {"PATID0001"}
    wait_until(lambda: hospital.service.counts == {"received": 1, "predicted": 1, "delivered": 1})


def test_a_duplicate_is_confirmed_and_changes_nothing(hospital, spool, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    hospital.send(tmp_path, 1)
    wait_until(lambda: spool.status().done == 1)
    assert hospital.send(tmp_path, 1) == 0
    assert hospital.send(tmp_path, 1, grey=40) == 0
    assert is_idle(spool)
    assert len(hospital.archive.stored) == 3
    assert "received: duplicate" in caplog.text
    assert "received: other pixels" in caplog.text


def test_a_segmentation_that_the_archive_refuses(hospital, spool, tmp_path):
    hospital.archive.status = {"SEG": 0xA900}
    hospital.send(tmp_path, 1)
    wait_until(lambda: reasons(spool))
    assert hospital.archive.results() == {study_of(1): ["OT", "SR"]}
    assert reasons(spool) == ["seg: the receiver answered status 0xA900"]
    hospital.archive.status = {}
    spool.retry(key_of(uid_of(1)))
    wait_until(lambda: spool.status().done == 1)
    assert hospital.archive.results() == {study_of(1): ALL}
    assert len(hospital.archive.stored) == 3


def test_an_archive_that_is_down_and_up_again(hospital, spool, tmp_path):
    hospital.archive.stop()
    for number in range(3):
        assert hospital.send(tmp_path, number) == 0
    wait_until(lambda: spool.status().out == 3)
    hospital.archive.start()
    wait_until(lambda: spool.status().done == 3)
    assert hospital.archive.results() == {study_of(number): ALL for number in range(3)}


def test_a_full_disk_is_answered_so_that_the_scanner_keeps_the_image(hospital, spool, tmp_path, monkeypatch):
    monkeypatch.setattr("pneumoseg.pacs.spool.flush", no_space)
    assert hospital.send(tmp_path, 1) == 0xA700
    monkeypatch.undo()
    assert hospital.send(tmp_path, 1) == 0
    wait_until(lambda: spool.status().done == 1)


def test_no_value_of_a_file_is_logged(hospital, spool, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "pneumoseg")
    hospital.send(tmp_path, 1)
    hospital.send(tmp_path, 2, ViewPosition="LL")
    hospital.send(tmp_path, 3, PixelData=bytes(40))
    hospital.archive.status = {"SR": 0xC000}
    hospital.send(tmp_path, 4)
    wait_until(lambda: is_idle(spool) and sum(spool.status()[:3]) + len(spool.status().failures) == 4)
    assert len(reasons(spool)) >= 3
    for value in ("Quixote", "Dulcinea", "PATID", "Windmill", "Panza", "ACC0", "1931", ROOT, "2.25.", str(tmp_path)):
        assert value not in caplog.text


def test_stopped_and_started_with_work_left(spool, tmp_path):
    hospital = Hospital(spool)
    hospital.archive.stop()
    with running(hospital.service):
        for number in range(4):
            hospital.send(tmp_path, number)
    hospital.archive.start()
    sender = StoreSender("ARCHIVE", "127.0.0.1", hospital.archive.port)
    with running(Service(spool, QuickPipeline(), Door(), sender)):
        wait_until(lambda: spool.status().done == 4)
    hospital.archive.stop()
    assert hospital.archive.results() == {study_of(number): ALL for number in range(4)}
    assert list(spool.folder.rglob("*.dcm")) == []
