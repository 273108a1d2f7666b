"""Sender by C-STORE: the bytes that it sends, and its conclusion from each answer."""

import contextlib
import logging
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread, uid

from pneumoseg.dicom import TRANSFER_SYNTAXES
from pneumoseg.pacs import associations, sender
from pneumoseg.pacs.delivery import judge
from pneumoseg.pacs.sender import StoreSender, UnreachableError
from tests.dicom.builders import save
from tests.pacs.network import (
    PATIENT,
    PICTURE,
    SEGMENTATION,
    Archive,
    data_set,
    find_tool,
    image_file,
    large_file,
    needs,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def send(port: int, *files: Path, aet_to: str = "ARCHIVE", host: str = "127.0.0.1"):
    """Return the delivered files and the refusals."""
    done: list[Path] = []
    return done, StoreSender(aet_to, host, port).send(files, done.append)


def segmentation_file(path: Path, instance: str) -> Path:
    """Write a file with the class of a segmentation."""
    image = dcmread(image_file(path, instance=instance))
    image.SOPClassUID = SEGMENTATION
    image.file_meta.MediaStorageSOPClassUID = SEGMENTATION
    return save(image, path)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.RLELossless])
def test_sends_the_bytes_of_a_file(tmp_path, syntax):
    source = image_file(tmp_path / "image.dcm", syntax, instance="1.2.3")
    with Archive(PICTURE) as archive:
        assert send(archive.port, source) == ([source], [])
    assert archive.received == [("1.2.3", syntax, data_set(source))]


def test_sends_files_of_several_kinds_in_one_association(tmp_path):
    files = [
        image_file(tmp_path / "1.dcm", uid.ExplicitVRLittleEndian, "1.2.1"),
        image_file(tmp_path / "2.dcm", uid.ImplicitVRLittleEndian, "1.2.2"),
        segmentation_file(tmp_path / "3.dcm", "1.2.3"),
        image_file(tmp_path / "4.dcm", uid.ExplicitVRLittleEndian, "1.2.4"),
    ]
    with Archive(PICTURE, SEGMENTATION) as archive:
        assert send(archive.port, *files) == (files, [])
    assert [instance for instance, *_ in archive.received] == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    assert [data for *_, data in archive.received] == [data_set(path) for path in files]


def test_sends_the_others_if_a_kind_is_refused(tmp_path):
    refused = segmentation_file(tmp_path / "seg.dcm", "1.2.3")
    sent = image_file(tmp_path / "sc.dcm")
    with Archive(PICTURE) as archive:
        done, refusals = send(archive.port, refused, sent)
    assert done == [sent]
    assert refusals == [(refused, "the receiver does not accept its kind")]


def test_refuses_files_if_no_kind_is_accepted(tmp_path):
    refused = segmentation_file(tmp_path / "seg.dcm", "1.2.3")
    with Archive(PICTURE) as archive:
        assert send(archive.port, refused) == ([], [(refused, "the receiver does not accept its kind")])


def test_refuses_a_transfer_syntax_that_is_not_accepted(tmp_path):
    """An archive must not get another encoding than the file's."""
    refused = image_file(tmp_path / "image.dcm", TRANSFER_SYNTAXES[6])
    with Archive(PICTURE) as archive:
        assert send(archive.port, refused) == ([], [(refused, "the receiver does not accept its kind")])
        assert archive.received == []


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def accept(*results: tuple[int, int, str], rest: bytes = b"") -> bytes:
    """Return an A-ASSOCIATE-AC PDU with results of presentation contexts (PS3.8 section 9.3.3)."""
    contexts = b"".join(
        item(0x21, bytes([number, 0, result, 0]) + item(0x40, syntax.encode())) for number, result, syntax in results
    )
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    titles = b"ARCHIVE".ljust(16) + b"PNEUMOSEG".ljust(16) + bytes(32)
    body = struct.pack(">HH", 1, 0) + titles + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user + rest
    return struct.pack(">BBL", 2, 0, len(body)) + body


@contextlib.contextmanager
def answering(content: bytes):
    """Yield the port of a receiver that answers a request for an association with some bytes, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)
                while connection.recv(65536):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


EXPLICIT = str(uid.ExplicitVRLittleEndian)


@pytest.mark.parametrize("result", [3, 4])
@pytest.mark.parametrize("syntax", [EXPLICIT, str(uid.ImplicitVRLittleEndian), ""])
def test_refuses_a_kind_for_good_that_the_receiver_does_not_support(tmp_path, result, syntax):
    """The transfer syntax of a refused context does not count."""
    source = image_file(tmp_path / "image.dcm")
    with answering(accept((1, result, syntax))) as port:
        assert send(port, source) == ([], [(source, "the receiver does not accept its kind")])


@pytest.mark.parametrize(
    "content",
    [
        accept((1, 1, EXPLICIT)),
        accept((1, 2, EXPLICIT)),
        accept(),
        accept((3, 3, EXPLICIT)),
        accept((1, 7, EXPLICIT)),
        accept((1, 0, "1.2.840.10008.1.2.4.70")),
        accept((1, 0, "")),
        accept((1, 3, EXPLICIT))[:-8],
        accept((1, 3, EXPLICIT), rest=b"\x21\0\xff\xff"),
        accept((1, 3, EXPLICIT), rest=b"\x99\0\0\1x"),
        b"\2\0\0\0\0\0",
        b"\2\0\0\0\0\x44" + bytes(0x44),
        b"\2\0\0\0\0\x60" + b"\xff" * 0x60,
    ],
)
def test_keeps_files_whose_kind_was_not_judged(tmp_path, monkeypatch, content):
    monkeypatch.setattr(associations, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 3)
    with answering(content) as port, pytest.raises(UnreachableError):
        send(port, image_file(tmp_path / "image.dcm"))


def test_sends_the_others_before_it_raises_for_a_kind_that_was_not_judged(tmp_path):
    """Each attempt delivers the files that can be delivered, so that only the others wait."""
    unjudged = segmentation_file(tmp_path / "seg.dcm", "1.2.3")
    sent, done = image_file(tmp_path / "sc.dcm"), []
    with Archive(PICTURE) as archive:
        archive.refusal = 1
        with pytest.raises(UnreachableError, match="did not judge the kind of a file"):
            StoreSender("ARCHIVE", "127.0.0.1", archive.port).send([unjudged, sent], done.append)
    assert done == [sent]


def test_refuses_files_that_are_not_dicom(tmp_path):
    text, missing, sound = tmp_path / "notes.txt", tmp_path / "none.dcm", image_file(tmp_path / "image.dcm")
    text.write_text(PATIENT)
    with Archive(PICTURE) as archive:
        done, refusals = send(archive.port, text, missing, sound)
    assert done == [sound]
    assert [path for path, _ in refusals] == [text, missing]
    assert all(reason.startswith("is not a DICOM file that can be read (") for _, reason in refusals)
    assert PATIENT not in str([reason for _, reason in refusals])


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0001, 0x0107, 0x0116, 0x0111])
def test_counts_warnings_and_known_objects_as_delivered(tmp_path, status):
    source = image_file(tmp_path / "image.dcm")
    with Archive(PICTURE, answer=lambda event: status) as archive:
        assert send(archive.port, source) == ([source], [])


@pytest.mark.parametrize("status", [0x0117, 0x0122, 0x01FF, 0xA900, 0xA9FF, 0xC000, 0xCFFF])
def test_takes_failures_as_refusals_and_goes_on(tmp_path, status):
    files = [image_file(tmp_path / f"{number}.dcm", instance=f"1.2.{number}") for number in (1, 2)]
    answers = iter([status, 0x0000])
    with Archive(PICTURE, answer=lambda event: next(answers)) as archive:
        done, refusals = send(archive.port, *files)
    assert done == [files[1]]
    assert refusals == [(files[0], f"the receiver answered status 0x{status:04X}")]


@pytest.mark.parametrize(
    "status", [0x0110, 0x0124, 0xA700, 0xA702, 0xA7FF, 0x0210, 0x0213, 0xFE00, 0xFF00, 0x0002, 0x1234, 0xA801]
)
def test_keeps_what_may_succeed_later(tmp_path, status):
    files = [image_file(tmp_path / f"{number}.dcm", instance=f"1.2.{number}") for number in (1, 2, 3)]
    answers, done = iter([0x0000, status, 0x0000]), []
    later = pytest.raises(UnreachableError, match=f"the receiver answered status 0x{status:04X}")
    with Archive(PICTURE, answer=lambda event: next(answers)) as archive, later:
        StoreSender("ARCHIVE", "127.0.0.1", archive.port).send(files, done.append)
    assert done == [files[0], files[2]]


def test_judges_no_status_twice():
    """Each status has exactly one outcome, and the ranges of the standard have the right one."""
    outcomes = {"delivered": 0, "refused": 0, "later": 0}
    for status in range(0x10000):
        try:
            outcomes["refused" if judge(status) else "delivered"] += 1
        except UnreachableError:
            outcomes["later"] += 1
    # 0xBxxx, and 0, 1, 0x107, 0x111, 0x116; 0xCxxx, 0xA9xx, and 0x01xx but for three and 0x110, 0x124.
    assert outcomes == {"delivered": 4096 + 5, "refused": 4096 + 256 + 251, "later": 65536 - 4101 - 4603}


def test_raises_if_the_association_is_rejected(tmp_path):
    source = image_file(tmp_path / "image.dcm")
    with Archive(PICTURE) as archive:
        archive._entity.require_calling_aet = ["OTHER"]
        with pytest.raises(UnreachableError, match="rejected the association: Calling AE title not recognised"):
            send(archive.port, source)
        archive._entity.require_calling_aet = []
        with pytest.raises(UnreachableError, match="rejected the association: Called AE title not recognised"):
            send(archive.port, source, aet_to="TYPO")
        assert send(archive.port, source)[0] == [source]


def test_raises_if_the_receiver_aborts(tmp_path):
    files = [image_file(tmp_path / f"{number}.dcm", instance=f"1.2.{number}") for number in (1, 2, 3)]
    done: list[Path] = []

    def answer(event):
        if len(archive.received) == 2:
            event.assoc.abort()
        return 0x0000

    ended = pytest.raises(UnreachableError, match="the receiver ended the association, or does not answer")
    with Archive(PICTURE, answer=answer) as archive, ended:
        StoreSender("ARCHIVE", "127.0.0.1", archive.port).send(files, done.append)
    assert done == files[:1]


def test_raises_if_nobody_listens(tmp_path):
    source = image_file(tmp_path / "image.dcm")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="the receiver cannot be connected to: Connection refused"):
            send(bound.getsockname()[1], source)
    with pytest.raises(UnreachableError, match="the address of the receiver is not known"):
        send(11112, source, host="pacs.invalid")


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x03\0\0\0"])
def test_raises_if_the_receiver_speaks_something_else(tmp_path, monkeypatch, greeting):
    monkeypatch.setattr(associations, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def serve():
            connections.append(server.accept()[0])
            connections[0].sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer"):
            send(server.getsockname()[1], image_file(tmp_path / "image.dcm"))
        assert time.monotonic() - started < 30
        connections[0].close()


def test_raises_if_no_answer_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(associations, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 60)
    proceed = threading.Event()

    def answer(event):
        proceed.wait(120)
        return 0x0000

    with Archive(PICTURE, answer=answer) as archive:
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer"):
            send(archive.port, image_file(tmp_path / "image.dcm"))
        assert time.monotonic() - started < 60
        proceed.set()


class Deaf:
    """Receiver that accepts an association and then reads nothing more."""

    def __enter__(self) -> "Deaf":
        self._archive = Archive(PICTURE)
        self._archive.__enter__()
        self.port = self._archive.port
        self._silence = threading.Event()
        from pynetdicom import evt

        self._archive._server.bind(evt.EVT_DATA_RECV, self._hold)
        return self

    def _hold(self, event) -> None:
        if event.data[0] == 4:
            self._silence.wait(120)

    def __exit__(self, *error) -> None:
        self._silence.set()
        self._archive.__exit__()


def test_raises_if_the_receiver_reads_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(associations, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(sender, "SLOWEST_BYTES_PER_SECOND", 2**30)
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 0.5)
    with Deaf() as deaf:
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer"):
            send(deaf.port, large_file(tmp_path / "image.dcm", 16))
        assert time.monotonic() - started < 30


def test_closing_ends_a_running_send(tmp_path, monkeypatch):
    monkeypatch.setattr(associations, "ANSWER_SECONDS", 120)
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 120)
    entered, proceed = threading.Event(), threading.Event()

    def answer(event):
        entered.set()
        proceed.wait(120)
        return 0x0000

    source, errors = image_file(tmp_path / "image.dcm"), []
    with Archive(PICTURE, answer=answer) as archive:
        closing = StoreSender("ARCHIVE", "127.0.0.1", archive.port)

        def run():
            try:
                closing.send([source], lambda path: None)
            except UnreachableError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert entered.wait(60)
        closing.close()
        thread.join(60)
        assert not thread.is_alive()
        assert len(errors) == 1
        proceed.set()
        with pytest.raises(UnreachableError):
            closing.send([source], lambda path: None)


def test_closing_ends_a_wait_for_the_association(tmp_path, monkeypatch):
    monkeypatch.setattr(associations, "ANSWER_SECONDS", 120)
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 120)
    errors = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closing = StoreSender("ARCHIVE", "127.0.0.1", silent.getsockname()[1])

        def run():
            try:
                closing.send([image_file(tmp_path / "image.dcm")], lambda path: None)
            except UnreachableError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: closing._association is not None)
        closing.close()
        thread.join(60)
        assert len(errors) == 1


def test_ends_the_association_if_delivered_fails(tmp_path):
    def full(path):
        raise OSError(28, "No space left on device")

    with Archive(PICTURE) as archive:
        with pytest.raises(OSError, match="No space left"):
            StoreSender("ARCHIVE", "127.0.0.1", archive.port).send([image_file(tmp_path / "image.dcm")], full)
        wait_until(lambda: not archive._entity.active_associations)


def test_leaves_no_thread_behind(tmp_path):
    source = image_file(tmp_path / "image.dcm")
    with Archive(PICTURE) as archive:
        send(archive.port, source)
        with pytest.raises(UnreachableError):
            send(archive.port, source, aet_to="TYPO")
    wait_until(lambda: not [thread for thread in threading.enumerate() if "Requestor" in thread.name])


@pytest.mark.parametrize(("aet_to", "aet"), [("", "PNEUMOSEG"), ("ARCHIVE", "SEVENTEEN_LETTERS"), ("A\\B", "X")])
def test_wants_titles(aet_to, aet):
    with pytest.raises(ValueError, match="is not an AE title"):
        StoreSender(aet_to, "127.0.0.1", 11112, aet)


def test_logs_hold_no_patient_data(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    source = image_file(tmp_path / f"{PATIENT}.dcm", instance="1.2.4711")
    with Archive(PICTURE, answer=lambda event: 0xC000) as archive:
        send(archive.port, source)
        with pytest.raises(UnreachableError):
            send(archive.port, source, aet_to="TYPO")
    said = [record.getMessage() for record in caplog.records if record.name.split(".")[0] != "pydicom"]
    assert not [text for text in said if "DOE" in text or "4711" in text]


@needs("storescp")
def test_sends_to_dcmtk(tmp_path):
    files = [
        image_file(tmp_path / "explicit.dcm", instance="1.2.1"),
        image_file(tmp_path / "implicit.dcm", uid.ImplicitVRLittleEndian, "1.2.2"),
        segmentation_file(tmp_path / "segmentation.dcm", "1.2.3"),
    ]
    stored = tmp_path / "stored"
    stored.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([find_tool("storescp"), "-aet", "DCMTK", "+B", "-od", stored, str(port)])
    try:
        wait_until(lambda: answers(port))
        assert send(port, *files, aet_to="DCMTK") == (files, [])
    finally:
        process.terminate()
        process.wait(10)
    assert sorted(map(data_set, stored.iterdir())) == sorted(map(data_set, files))


def answers(port: int) -> bool:
    """Return whether anybody listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
