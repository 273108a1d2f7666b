"""The durable queue."""

import errno
import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pneumoseg.pacs import spool as spool_module
from pneumoseg.pacs.pixel_digest import pixel_digest
from pneumoseg.pacs.spool import Added, Spool, key_of
from tests.conftest import write_dicom

UID = "1.2.3"
KEY = "c47f5b18b8a430e698b9fe15e51f6119"  # printf 1.2.3 | sha256sum | cut -c 1-32


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "queue")


def incoming(spool, grey=1, **elements):
    """Return an image that was just received; its pixels have one grey value."""
    return write_dicom(spool.temporary / "incoming", np.full((4, 6), grey, np.uint8), **elements)


def add(spool, uid=UID, grey=1, **elements):
    return spool.add(incoming(spool, grey, **elements), uid)


def result(spool):
    """Return a small object that can be saved."""
    path = write_dicom(spool.temporary / "result", np.zeros((2, 2), np.uint8))
    dataset = pydicom.dcmread(path)
    path.unlink()
    return dataset


def move_to_out(spool, key=KEY, kinds=("seg", "sr")):
    spool.keep_results(key, {kind: result(spool) for kind in kinds})


def move_to_done(spool):
    move_to_out(spool)
    for path in spool.results(KEY):
        path.unlink()
    spool.finish(KEY)


def fail_image(spool):
    spool.fail(KEY, "ValueError")


def fail_results(spool):
    move_to_out(spool)
    spool.results(KEY)[0].unlink()
    spool.fail(KEY, "sr: refused")


def states(spool):
    """Return the paths of all files in the folders of the queue."""
    return sorted(str(path.relative_to(spool.folder)) for path in spool.folder.glob("*/**/*") if path.is_file())


def test_the_key_is_a_hash():
    assert key_of(UID) == KEY


def test_an_image_goes_all_the_way(spool):
    assert add(spool) is Added.NEW
    assert spool.waiting() == [KEY]
    assert states(spool) == [f"new/{KEY}"]
    assert pydicom.dcmread(spool.image(KEY)).Columns == 6
    move_to_out(spool)
    assert states(spool) == [f"out/{KEY}/digest", f"out/{KEY}/seg.dcm", f"out/{KEY}/sr.dcm"]
    assert (spool.waiting(), spool.unsent()) == ([], [KEY])
    assert [path.name for path in spool.results(KEY)] == ["seg.dcm", "sr.dcm"]
    for path in spool.results(KEY):
        assert pydicom.dcmread(path).Rows == 2
        path.unlink()
    spool.finish(KEY)
    assert states(spool) == [f"done/{KEY}"]
    assert spool.unsent() == []


def test_the_marker_of_a_done_image_holds_a_digest_only(spool):
    add(spool)
    move_to_done(spool)
    content = (spool.folder / "done" / KEY).read_text()
    # printf '\x01%.0s' $(seq 24) | sha256sum
    assert content == "5b8b4d29020ea5b1bc427c40a0cab2bf944be057ec482110f1d12b68008cd286"


def test_folders_and_files_belong_to_one_user(spool):
    add(spool)
    assert stat.S_IMODE((spool.folder / "new" / KEY).stat().st_mode) == 0o600
    folders = [spool.folder, *(spool.folder / name for name in ("tmp", "new", "out", "done", "failed"))]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 6


@pytest.mark.parametrize("move", [lambda spool: None, move_to_out, move_to_done, fail_image, fail_results])
def test_the_first_image_with_a_uid_stays_in_every_state(spool, move):
    add(spool)
    move(spool)
    before = states(spool)
    assert add(spool) is Added.DUPLICATE
    assert add(spool, grey=2) is Added.OTHER_PIXELS
    assert states(spool) == before


def test_of_images_that_arrive_together_the_first_stays(spool):
    files = [write_dicom(spool.temporary / str(n), np.full((4, 6), n % 2, np.uint8)) for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda file: spool.add(file, UID), files))
    first = added.index(Added.NEW)
    expected = [Added.DUPLICATE if n % 2 == first % 2 else Added.OTHER_PIXELS for n in range(16)]
    expected[first] = Added.NEW
    assert added == expected
    assert states(spool) == [f"new/{KEY}"]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_same_pixels_in_another_encoding_are_a_duplicate(spool, syntax):
    add(spool)
    dataset = pydicom.dcmread(spool.image(KEY))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PatientName = "Somebody^Else"
    dataset.private_block(0x0011, "router", create=True).add_new(1, "LO", "note")
    dataset.save_as(spool.temporary / "again", implicit_vr=syntax.is_implicit_VR, little_endian=True)
    assert spool.add(spool.temporary / "again", UID) is Added.DUPLICATE


@pytest.mark.filterwarnings("ignore:End of file")
@pytest.mark.parametrize("content", [b"", b"not DICOM", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 99])
def test_a_file_without_pixels_is_digested_as_a_whole(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert pixel_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def deflated(expanded):
    """Return a deflated DICOM file, whose private element expands to a number of bytes."""
    meta = b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    parts = [packer.compress(b"\x09\x00\x10\x10OB\0\0" + expanded.to_bytes(4, "little"))]
    parts += [packer.compress(bytes(2**20)) for _ in range(expanded // 2**20)]
    return bytes(128) + b"DICM" + meta + b"".join(parts) + packer.flush()


# Items of a sequence that never ends, sequences within sequences, and elements, all as short as can be.
ITEMS = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 2**19
NESTED = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 2**18
SHORT = b"\x09\x00\x10\x10LO\0\0" * 2**19
HEAD = bytes(128) + b"DICM\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"

MEASURE = """
import sys, time, tracemalloc
from pneumoseg.pacs.pixel_digest import pixel_digest

begin = time.process_time()
pixel_digest(sys.argv[1])
seconds = time.process_time() - begin
tracemalloc.start()
print(pixel_digest(sys.argv[1]), seconds, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize(
    "content",
    [deflated(400 * 2**20), HEAD + ITEMS, HEAD + NESTED, HEAD + SHORT],
    ids=["deflated", "items", "nested", "short"],
)
def test_a_malicious_file_costs_its_digest_no_more_than_its_length(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "file"], capture_output=True, text=True, check=True
    )
    digest, seconds, peak = finished.stdout.split()
    assert digest == hashlib.sha256(content).hexdigest()
    assert float(seconds) < 0.5
    assert int(peak) < 8 * 2**20


@pytest.mark.parametrize("before", [2**20 - 200, *range(2**20 - 14, 2**20 + 1)])
@pytest.mark.parametrize(
    "head", [b"\xe0\x7f\x10\x00OW\0\0\x04\0\0\0", b"\xe0\x7f\x10\x00\x04\0\0\0", b"\x7f\xe0\x00\x10OB\0\0\0\0\0\x04"]
)
def test_pixels_are_found_wherever_they_begin(tmp_path, before, head):
    (tmp_path / "file").write_bytes(bytes(before) + head + b"PIXL")
    assert pixel_digest(tmp_path / "file") == hashlib.sha256(b"PIXL").hexdigest()


def test_images_wait_in_the_order_of_their_arrival(spool):
    uids = [f"1.2.{number}" for number in (5, 3, 9, 1)]
    for age, uid in enumerate(uids):
        add(spool, uid)
        os.utime(spool.image(key_of(uid)), (1000 + age, 1000 + age))
    assert spool.waiting() == [key_of(uid) for uid in uids]


def test_an_image_whose_process_ended_comes_after_the_others(spool):
    uids = ["1.2.5", "1.2.3", "1.2.9"]
    for age, uid in enumerate(uids):
        add(spool, uid)
        os.utime(spool.image(key_of(uid)), (1000 + age, 1000 + age))
    for uid in ("1.2.5", "1.2.5", "1.2.3"):
        spool.begin(key_of(uid))
    assert spool.waiting() == [key_of(uid) for uid in ("1.2.9", "1.2.3", "1.2.5")]


def attempts(spool):
    path = spool.folder / "new" / f"{KEY}.attempts"
    return path.stat().st_size if path.exists() else None


def test_attempts_are_counted_across_the_end_of_a_process(spool):
    add(spool)
    assert [Spool(spool.folder).begin(KEY) for _ in range(3)] == [1, 2, 3]
    assert spool.recover() == 0
    assert spool.waiting() == [KEY]
    assert spool.begin(KEY) == 4


@pytest.mark.parametrize("step", [move_to_out, fail_image])
def test_attempts_end_with_the_work(spool, step):
    add(spool)
    spool.begin(KEY)
    step(spool)
    assert attempts(spool) is None


def test_a_retried_image_begins_from_the_first_attempt(spool, monkeypatch):
    add(spool)
    spool.begin(KEY)
    fail_image(spool)
    (spool.folder / "new" / f"{KEY}.attempts").write_text("xxx")  # by a process that ended before it removed them
    spool.retry(KEY)
    assert spool.begin(KEY) == 1


def test_an_attempt_can_be_withdrawn(spool):
    add(spool)
    spool.withdraw(KEY)
    assert [spool.begin(KEY), spool.begin(KEY)] == [1, 2]
    spool.withdraw(KEY)
    assert spool.begin(KEY) == 2
    for _ in range(3):
        spool.withdraw(KEY)
    assert spool.begin(KEY) == 1


@pytest.mark.parametrize("broken", ["fsync", "flush"])
def test_an_attempt_that_cannot_be_recorded_does_not_count(spool, monkeypatch, broken):
    add(spool)
    assert spool.begin(KEY) == 1
    with monkeypatch.context() as patch:
        patch.setattr(*{"fsync": (os, "fsync"), "flush": (spool_module, "flush")}[broken], no_space)
        for _ in range(4):
            with pytest.raises(OSError, match="No space"):
                spool.begin(KEY)
    assert spool.begin(KEY) == 2


class FullDisk:
    """An object that writes a part of its file, until the disk is full."""

    def save_as(self, path, **_):
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_results_are_stored_all_or_none(spool):
    add(spool)
    with pytest.raises(OSError, match="No space"):
        spool.keep_results(KEY, {"seg": result(spool), "sr": FullDisk()})
    assert states(spool) == [f"new/{KEY}"]
    assert list(spool.temporary.iterdir()) == []


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def deliver(spool):
    move_to_out(spool)
    for path in spool.results(KEY):
        path.unlink()


def finish(spool):
    spool.finish(KEY)


def nothing(_spool):
    pass


@pytest.mark.parametrize(("prepare", "step"), [(nothing, fail_image), (move_to_out, fail_image), (deliver, finish)])
def test_on_a_full_disk_nothing_moves_and_nothing_is_lost(spool, prepare, step, monkeypatch):
    add(spool)
    prepare(spool)
    before = states(spool)
    monkeypatch.setattr(pathlib.Path, "write_text", no_space)
    with pytest.raises(OSError, match="No space"):
        step(spool)
    assert states(spool) == before
    monkeypatch.undo()
    step(spool)
    assert states(spool) != before


def test_an_image_that_cannot_be_stored_is_removed_and_may_come_again(spool, monkeypatch):
    monkeypatch.setattr(spool_module, "flush", no_space)
    with pytest.raises(OSError, match="No space"):
        add(spool)
    monkeypatch.undo()
    assert states(spool) == []
    assert add(spool) is Added.NEW


def test_images_leave_room_for_results(spool, monkeypatch):
    add(spool, "1.2.4")
    monkeypatch.setattr(spool_module, "RESERVED_BYTES", shutil.disk_usage(spool.folder).free + 2**40)
    with pytest.raises(OSError, match="No space") as error:
        add(spool)
    assert error.value.errno == errno.ENOSPC
    assert states(spool) == [f"new/{key_of('1.2.4')}"]
    move_to_out(spool, key_of("1.2.4"))
    assert add(spool, "1.2.4") is Added.DUPLICATE


@pytest.mark.parametrize(("free", "accepted"), [(25, True), (24, False)])
def test_on_a_small_disk_a_quarter_stays_free(spool, monkeypatch, free, accepted):
    disk = SimpleNamespace(total=100 * 2**20, free=free * 2**20)
    monkeypatch.setattr(spool_module.shutil, "disk_usage", lambda folder: disk)
    assert spool.has_space() is accepted


def test_a_failed_image_is_retried_only_once_it_is_complete(spool, monkeypatch):
    """Another process may put an image back while the service is putting it aside."""
    add(spool)
    move, retries = Spool._move, ThreadPoolExecutor(1)
    pending = []

    def move_slowly(self, source, target):
        move(self, source, target)
        if target == spool.folder / "failed" / KEY:  # the reason is there, the image not yet
            pending.append(retries.submit(Spool(spool.folder).retry, KEY))
            with pytest.raises(NotDoneError):
                pending[0].result(0.2)

    monkeypatch.setattr(Spool, "_move", move_slowly)
    spool.fail(KEY, "damaged")
    pending[0].result(10)
    assert states(spool) == [f"new/{KEY}"]


def test_an_image_may_fail_once_more_while_it_is_put_back(spool, monkeypatch):
    add(spool)
    spool.fail(KEY, "damaged")
    move, service = Spool._move, ThreadPoolExecutor(1)
    pending = []

    def move_slowly(self, source, target):
        move(self, source, target)
        if target == spool.folder / "new" / KEY:
            pending.append(service.submit(spool.fail, KEY, "still damaged"))
            with pytest.raises(NotDoneError):
                pending[0].result(0.2)

    monkeypatch.setattr(Spool, "_move", move_slowly)
    Spool(spool.folder).retry(KEY)
    pending[0].result(10)
    assert states(spool) == [f"failed/{KEY}/image.dcm", f"failed/{KEY}/reason.json"]


def end_between_the_moves_of_fail(spool, reason="damaged"):
    """Leave the image in `new`, and a folder with the reason alone in `failed`."""
    child = os.fork()
    if child == 0:
        move = Spool._move

        def move_and_end(self, source, target):
            move(self, source, target)
            os._exit(0)

        Spool._move = move_and_end
        spool.fail(KEY, reason)
    os.waitpid(child, 0)
    assert states(spool) == [f"failed/{KEY}/reason.json", f"new/{KEY}"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_an_image_is_not_lost_if_it_is_retried_after_a_kill_within_its_failure(spool):
    add(spool)
    end_between_the_moves_of_fail(spool)
    spool.retry(KEY)
    assert states(spool) == [f"new/{KEY}"]
    spool.recover()
    move_to_out(spool)
    assert states(spool) == [f"out/{KEY}/digest", f"out/{KEY}/seg.dcm", f"out/{KEY}/sr.dcm"]


@pytest.mark.parametrize("content", [[], ["reason.json"], ["seg.dcm"]])
def test_results_without_a_digest_are_made_again_from_their_image(spool, content):
    add(spool)
    (spool.folder / "out" / KEY).mkdir()
    for name in content:
        (spool.folder / "out" / KEY / name).touch()
    assert spool.recover() == 0
    assert spool.waiting() == [KEY]
    move_to_out(spool)
    assert states(spool) == [f"out/{KEY}/digest", f"out/{KEY}/seg.dcm", f"out/{KEY}/sr.dcm"]
    assert all(path.stat().st_size for path in spool.results(KEY))


def test_a_folder_of_nothing_but_a_reason_is_not_retried(spool):
    (spool.folder / "failed" / KEY).mkdir()
    (spool.folder / "failed" / KEY / "reason.json").touch()
    with pytest.raises(ValueError, match="no failed image has the key"):
        spool.retry(KEY)
    spool.recover()
    assert spool.status().failures == []


def test_an_image_is_put_back_while_the_queue_recovers(spool, monkeypatch):
    add(spool)
    spool.fail(KEY, "damaged")
    retries, pending = ThreadPoolExecutor(1), []
    by_age = spool_module._by_age

    def retry_meanwhile(folder):
        if not pending:
            pending.append(retries.submit(Spool(spool.folder).retry, KEY))
            with pytest.raises(NotDoneError):
                pending[0].result(0.2)
        return by_age(folder)

    monkeypatch.setattr(spool_module, "_by_age", retry_meanwhile)
    spool.recover()
    pending[0].result(10)
    assert states(spool) == [f"new/{KEY}"]


def test_an_image_that_comes_while_its_namesake_is_put_back_does_not_replace_it(spool, monkeypatch):
    add(spool)
    spool.fail(KEY, "damaged")
    first = (spool.folder / "failed" / KEY / "image.dcm").read_bytes()
    retries, pending, read = ThreadPoolExecutor(1), [], spool_module._read

    def retry_meanwhile(path):
        if path.parent.name == "done":  # `new` was searched before
            pending.append(retries.submit(Spool(spool.folder).retry, KEY))
            with pytest.raises(NotDoneError):
                pending[0].result(0.2)
        return read(path)

    monkeypatch.setattr(spool_module, "_read", retry_meanwhile)
    assert add(spool, grey=2) is Added.OTHER_PIXELS
    pending[0].result(10)
    assert spool.image(KEY).read_bytes() == first


FAIL_AND_RETRY = """
import sys
from pneumoseg.pacs.spool import Spool

spool, role, rounds = Spool(sys.argv[1]), sys.argv[2], 0
while rounds < 400:
    if role == "fail":
        for key in spool.waiting():
            spool.fail(key, "damaged")
            rounds += 1
    else:
        try:
            for failure in spool.status().failures:
                spool.retry(failure.key)
                rounds += 1
        except (ValueError, FileNotFoundError):  # is being put aside
            pass
"""


def test_two_processes_move_the_same_image(spool):
    add(spool)
    content = spool.image(KEY).read_bytes()
    roles = [
        subprocess.Popen([sys.executable, "-c", FAIL_AND_RETRY, spool.folder, role], stderr=subprocess.PIPE, text=True)
        for role in ("fail", "retry")
    ]
    assert [(role.communicate(timeout=60)[1], role.returncode) for role in roles] == [("", 0)] * 2
    assert states(spool) == [f"new/{KEY}"]
    assert spool.image(KEY).read_bytes() == content


def test_a_failed_image_is_kept_with_its_reason_and_can_be_retried(spool):
    add(spool)
    spool.fail(KEY, "RefusedError: is a lateral view")
    assert states(spool) == [f"failed/{KEY}/image.dcm", f"failed/{KEY}/reason.json"]
    reason = json.loads((spool.folder / "failed" / KEY / "reason.json").read_text())
    assert reason == {"reason": "RefusedError: is a lateral view"}
    assert spool.status().failures == [(KEY, "RefusedError: is a lateral view")]
    add(spool, "1.2.4")
    spool.retry(KEY)
    assert spool.waiting() == [key_of("1.2.4"), KEY]
    assert spool.status().failures == []


def test_only_the_undelivered_results_are_retried(spool):
    add(spool)
    fail_results(spool)
    assert states(spool) == [f"failed/{KEY}/digest", f"failed/{KEY}/reason.json", f"failed/{KEY}/sr.dcm"]
    spool.retry(KEY)
    assert spool.unsent() == [KEY]
    assert [path.name for path in spool.results(KEY)] == ["sr.dcm"]
    spool.fail(KEY, "sr: refused again")
    assert spool.status().failures == [(KEY, "sr: refused again")]


@pytest.mark.parametrize("key", ["", "..", "../new", "0" * 32, "all"])
def test_an_image_that_has_not_failed_cannot_be_retried(spool, key):
    add(spool)
    with pytest.raises(ValueError, match="no failed image has the key"):
        spool.retry(key)
    assert states(spool) == [f"new/{KEY}"]


def test_status_counts_by_state(spool):
    for number in range(6):
        add(spool, f"1.2.{number}")
    os.utime(spool.image(key_of("1.2.0")), (time.time() - 600, time.time() - 600))
    move_to_out(spool, key_of("1.2.1"))
    spool.fail(key_of("1.2.2"), "ValueError")
    status = spool.status()
    assert (status.new, status.out, status.done, len(status.failures)) == (4, 1, 0, 1)
    assert 600 <= status.oldest_s < 660


def test_nothing_waits_in_an_empty_queue(spool):
    assert spool.status() == (0, 0, 0, [], 0)


def test_old_markers_are_removed(spool):
    add(spool)
    move_to_done(spool)
    assert spool.prune(1) == 0
    os.utime(spool.folder / "done" / KEY, (time.time() - 2 * 86400,) * 2)
    assert spool.prune(1) == 1
    assert add(spool) is Added.NEW


@pytest.mark.parametrize("others", [["home"], ["new"], ["new", "out", "done", "failed"], ["tmp"]])
def test_a_folder_with_other_files_is_refused(tmp_path, others):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "precious").touch()
    for name in others:
        (tmp_path / name).mkdir(exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="holds other files"):
        Spool(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_root_of_a_volume_and_a_queue_with_notes_are_accepted(tmp_path):
    (tmp_path / "lost+found").mkdir()
    Spool(tmp_path)
    (tmp_path / "README").touch()
    Spool(tmp_path)


def test_a_folder_of_the_queue_that_was_deleted_is_made_again(spool):
    add(spool)
    (spool.folder / "failed").rmdir()
    (spool.folder / "out").rmdir()
    again = Spool(spool.folder)
    assert again.recover() == 0
    move_to_out(again)
    again.fail(KEY, "refused")
    assert states(again) == FAILED_RESULTS


def test_a_note_among_the_failed_images_harms_nobody(spool):
    (spool.folder / "failed" / "NOTE.txt").touch()
    again = Spool(spool.folder)
    again.recover()
    assert again.status() == (0, 0, 0, [], 0)
    assert states(again) == ["failed/NOTE.txt"]


@pytest.mark.parametrize("folder", ["failed", "tmp", "new"])
def test_an_incomplete_queue_that_is_only_read_is_told_and_stays_so(spool, folder):
    (spool.folder / folder).rmdir()
    with pytest.raises(FileNotFoundError, match=f"lacks {folder}: start"):
        Spool(spool.folder, make=False)
    assert not (spool.folder / folder).exists()


def retry(spool):
    spool.retry(KEY)


IN_NEW, IN_OUT = [f"new/{KEY}"], [f"out/{KEY}/digest", f"out/{KEY}/seg.dcm", f"out/{KEY}/sr.dcm"]
DELIVERED, IN_DONE = [f"out/{KEY}/digest"], [f"done/{KEY}"]
FAILED_IMAGE = [f"failed/{KEY}/image.dcm", f"failed/{KEY}/reason.json"]
FAILED_RESULTS = [f"failed/{KEY}/digest", f"failed/{KEY}/reason.json", f"failed/{KEY}/seg.dcm", f"failed/{KEY}/sr.dcm"]
RETRIED = [path.replace("failed", "out") for path in FAILED_RESULTS]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(
    ("prepare", "step", "before", "after"),
    [
        (nothing, add, [], IN_NEW),
        (add, move_to_out, IN_NEW, IN_OUT),
        (add, fail_image, IN_NEW, FAILED_IMAGE),
        (move_to_out, fail_image, IN_OUT, FAILED_RESULTS),
        (deliver, finish, DELIVERED, IN_DONE),
        (fail_image, retry, FAILED_IMAGE, IN_NEW),
        (lambda spool: (move_to_out(spool), fail_image(spool)), retry, FAILED_RESULTS, RETRIED),
    ],
)
def test_a_process_may_end_within_any_step(tmp_path, prepare, step, before, after):
    """End a process before each single change of the disk: the image is then in one state, whole, or it is neither."""
    seen, number = [], 0
    while not seen or seen[-1] != "finished":
        spool = Spool(tmp_path / str(number))
        if prepare not in (nothing, add):
            add(spool)
        prepare(spool)
        child = os.fork()
        if child == 0:
            end_before_change(number)
            step(spool)
            os._exit(0)
        finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        spool.recover()
        found = states(spool)
        if step is fail_image and before == IN_OUT and f"out/{KEY}/reason.json" in found:
            found.remove(f"out/{KEY}/reason.json")  # is ignored there
        if step is finish and found == sorted(DELIVERED + IN_DONE):
            finish(spool)  # what the service does with an image without undelivered results
            found = states(spool)
        seen.append("finished" if finished else found)
        assert found == after if finished else found in (before, after), f"before change {number}"
        number += 1
    assert before in seen
    assert number >= 3


def end_before_change(number):
    """Let this process end, as by a kill, before its nth change of the disk."""
    left = [number]

    def counted(function):
        def change(*arguments, **options):
            if left[0] == 0:
                os._exit(1)
            left[0] -= 1
            return function(*arguments, **options)

        return change

    for owner, name in [
        (pathlib.Path, "replace"),
        (pathlib.Path, "unlink"),
        (pathlib.Path, "mkdir"),
        (pathlib.Path, "write_text"),
        (shutil, "rmtree"),
        (spool_module, "flush"),
    ]:
        setattr(owner, name, counted(getattr(owner, name)))
