"""Receiver: the files that it keeps, its answers, and its limits."""

import errno
import gc
import io
import itertools
import logging
import os
import resource
import socket
import struct
import subprocess
import threading
import time
import tracemalloc
import warnings
from pathlib import Path

import pytest
from pydicom import dcmread, uid
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from pneumoseg.dicom import TRANSFER_SYNTAXES, read_image
from pneumoseg.pacs import associations, connections, receiver
from pneumoseg.pacs.receiver import Receiver
from pneumoseg.pacs.sender import StoreSender, UnreachableError
from pneumoseg.pacs.service import Service
from pneumoseg.pacs.spool import Spool, key_of
from tests.dicom.builders import GRADIENT, save
from tests.pacs import hospital
from tests.pacs.network import (
    INSTANCE,
    LOSSY,
    PATIENT,
    PICTURE,
    SEGMENTATION,
    associated,
    data_set,
    find_tool,
    image_file,
    large_file,
    needs,
    running,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

MINI = Path(__file__).parents[3] / "shared/siim-mini/dicom-images-train"
KEY = key_of(INSTANCE)


class Inbox:
    """A running receiver with its queue."""

    def __init__(self, folder: Path, spool=None, **options) -> None:
        self.spool = spool or Spool(folder / "spool")
        self.keys: list[str] = []
        self.receiver = Receiver(self.spool, ["SENDER"], port=0, received=self.keys.append, **options)

    def send(self, *files: Path, aet: str = "SENDER", to: str = "PNEUMOSEG"):
        done: list[Path] = []
        refusals = StoreSender(to, "127.0.0.1", self.receiver.port, aet).send(files, done.append)
        return done, [refusal.reason for refusal in refusals]

    def left(self) -> list[str]:
        return os.listdir(self.spool.temporary)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.receiver.port), 60)

    def handshakes(self) -> int:
        """Return the number of connections that have not sent a byte yet."""
        return sum("process_request_thread" in thread.name for thread in threading.enumerate())

    def associations(self) -> list[Association]:
        return [thread for thread in threading.enumerate() if "AcceptorThread" in thread.name]


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    """Let receivers stop at once."""
    monkeypatch.setattr(receiver, "_POLL_SECONDS", 0.01)


@pytest.fixture
def inbox(tmp_path):
    box = Inbox(tmp_path)
    with running(box.receiver):
        yield box


def status_of(port: int, path: Path, **changes) -> int:
    """Return the status of a C-STORE request whose command names other UIDs than its data set."""
    image = dcmread(path)
    for keyword, value in changes.items():
        setattr(image.file_meta, keyword, value)
    save(image, path) if not changes else image.save_as(path, enforce_file_format=False)
    with associated(port) as association:
        return association.send_c_store(path).Status


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_keeps_the_bytes_of_an_image_in_each_transfer_syntax(inbox, tmp_path, syntax):
    source = image_file(tmp_path / "image.dcm", syntax)
    assert inbox.send(source) == ([source], [])
    kept, meta = inbox.spool.image(KEY), read_file_meta_info(inbox.spool.image(KEY))
    assert data_set(kept) == data_set(source)
    assert (meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID) == (syntax, INSTANCE)
    assert meta.MediaStorageSOPClassUID == PICTURE
    difference = abs(read_image(kept).astype(int) - GRADIENT)
    assert difference.max() <= (8 if syntax in LOSSY else 0)
    assert (inbox.keys, inbox.left()) == ([KEY], [])


@pytest.mark.parametrize(
    "kind", [uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation, PICTURE]
)
def test_offers_the_classes_of_radiographs(inbox, kind):
    with associated(inbox.receiver.port, kind=kind) as association:
        assert association.is_established


@pytest.mark.parametrize(
    "kind",
    [SEGMENTATION, uid.CTImageStorage, uid.Comprehensive3DSRStorage, uid.DigitalXRayImageStorageForProcessing],
)
def test_offers_no_presentation_context_for_other_classes(inbox, kind):
    with associated(inbox.receiver.port, kind=kind) as association:
        assert association.accepted_contexts == []
        assert association.rejected_contexts


def test_answers_an_echo(inbox):
    with associated(inbox.receiver.port, kind=Verification) as association:
        assert association.send_c_echo().Status == 0x0000


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("STRANGER", "PNEUMOSEG", "Calling AE title not recognised"),
        ("SENDER", "OTHER", "Called AE title not recognised"),
    ],
)
def test_rejects_other_titles(inbox, tmp_path, caplog, calling, called, reason):
    with pytest.raises(UnreachableError, match=reason):
        inbox.send(image_file(tmp_path / "image.dcm"), aet=calling, to=called)
    assert f"from '{calling}' to '{called}'" in caplog.text
    assert inbox.keys == []


@pytest.mark.parametrize("accept", [[], [""], ["SENDER", "  "], ["SEVENTEEN_LETTERS"], ["A\\B"], ["Ä"]])
def test_wants_titles_to_accept(tmp_path, accept):
    with pytest.raises(ValueError, match="AE title"):
        Receiver(Spool(tmp_path / "spool"), accept)


def test_confirms_a_repeated_image_and_reports_it_once(inbox, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = image_file(tmp_path / "image.dcm")
    other = image_file(tmp_path / "other.dcm", uid.JPEGBaseline8Bit)
    assert inbox.send(source, source)[0] == [source]
    for path in (source, other):
        assert inbox.send(path) == ([path], [])
    assert inbox.keys == [KEY]
    assert data_set(inbox.spool.image(KEY)) == data_set(source)
    messages = [record.getMessage() for record in caplog.records if KEY in record.getMessage()]
    assert messages[-2:] == [f"{KEY} received: duplicate", f"{KEY} received: other pixels"]
    assert inbox.left() == []


def test_refuses_an_image_whose_uid_differs_from_the_request(inbox, tmp_path, caplog):
    source = image_file(tmp_path / "image.dcm")
    assert status_of(inbox.receiver.port, source, MediaStorageSOPInstanceUID="1.2.3") == 0xA900
    assert "SOP Instance UID is missing, or differs" in caplog.text
    assert (inbox.keys, inbox.left()) == ([], [])


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian])
def test_refuses_an_image_without_a_uid(inbox, tmp_path, syntax):
    source = image_file(tmp_path / "image.dcm", syntax)
    image = dcmread(source)
    del image.SOPInstanceUID
    image.save_as(source, enforce_file_format=False)
    _, reasons = inbox.send(source)
    assert reasons == ["the receiver answered status 0xA900"]
    assert (inbox.keys, inbox.left()) == ([], [])


def test_refuses_what_cannot_be_understood(inbox, tmp_path):
    source = image_file(tmp_path / "image.dcm", uid.DeflatedExplicitVRLittleEndian)
    start = len(source.read_bytes()) - len(data_set(source))
    source.write_bytes(source.read_bytes()[:start] + b"not deflated at all")
    assert inbox.send(source)[1] == ["the receiver answered status 0xC000"]
    assert (inbox.keys, inbox.left()) == ([], [])


def test_keeps_an_image_with_damaged_pixels_for_the_queue_to_judge(inbox, tmp_path):
    source = large_file(tmp_path / "image.dcm", 0.1)
    source.write_bytes(source.read_bytes()[:-5000])
    assert inbox.send(source) == ([source], [])
    assert inbox.keys == [KEY]


class SlowSpool(Spool):
    """A queue that stores when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.entered, self.proceed = threading.Event(), threading.Event()

    def add(self, file, sop_instance_uid):
        self.entered.set()
        assert self.proceed.wait(120)
        return super().add(file, sop_instance_uid)


class FailingSpool(Spool):
    """A queue that fails to store."""

    error: Exception

    def add(self, file, sop_instance_uid):
        raise self.error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/spool/tmp/image"), "(OSError: No space left on device)"),
        (MemoryError("/spool/tmp/image"), "(MemoryError)"),
    ],
)
def test_answers_out_of_resources_if_the_queue_cannot_store(tmp_path, caplog, error, text):
    box = Inbox(tmp_path, FailingSpool(tmp_path / "spool"))
    box.spool.error = error
    with running(box.receiver), pytest.raises(UnreachableError, match="0xA700"):
        box.send(image_file(tmp_path / "image.dcm"))
    assert (box.keys, box.left()) == ([], [])
    assert text in caplog.text
    assert "tmp" not in caplog.text


def test_answers_out_of_resources_if_the_file_cannot_be_written(inbox, tmp_path):
    """No file may grow beyond 100 kB, which fails in the middle of a write as a full disk does."""
    source = large_file(tmp_path / "image.dcm", 0.5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UnreachableError, match="0xA700"):
            inbox.send(source)
        assert (inbox.keys, inbox.left()) == ([], [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert inbox.send(source) == ([source], [])


def test_aborts_above_the_size_limit(tmp_path, caplog):
    box = Inbox(tmp_path, max_bytes=500_000)
    with running(box.receiver):
        with pytest.raises(UnreachableError, match="ended the association"):
            box.send(large_file(tmp_path / "image.dcm", 1))
        wait_until(lambda: not box.associations())
        assert (box.keys, box.left()) == ([], [])
        assert "a message exceeds the size limit" in caplog.text


def test_limits_images_and_not_associations(tmp_path):
    box = Inbox(tmp_path, max_bytes=500_000)
    files = [large_file(tmp_path / f"{number}.dcm", 0.4, f"1.2.{number}") for number in range(1, 31)]
    with running(box.receiver):
        assert box.send(*files) == (files, [])
    assert len(box.keys) == 30


def pdu(fragment: bytes, control: int) -> bytes:
    """Return a P-DATA-TF PDU with one fragment for presentation context 1 (PS3.8 sections 9.3.5 and E.2)."""
    value = struct.pack(">LBB", len(fragment) + 2, 1, control) + fragment
    return struct.pack(">BBL", 4, 0, len(value)) + value


COMMAND, LAST_COMMAND, DATA, LAST_DATA = 1, 3, 0, 2


def raw(association: Association) -> socket.socket:
    connection = association.dul.socket
    assert connection is not None
    assert connection.socket is not None
    return connection.socket


def flood(association: Association, content: bytes, times: int) -> int:
    """Send the same bytes until the connection is closed, and return how often that succeeded."""
    connection = raw(association)
    connection.settimeout(60)
    for count in range(times):
        try:
            connection.sendall(content)
        except OSError:
            return count
    return times


def test_bounds_the_memory_of_a_command_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(associations, "ANSWER_SECONDS", 0.5)
    box = Inbox(tmp_path, max_bytes=500_000)
    with running(box.receiver), associated(box.receiver.port) as association:
        tracemalloc.start()
        sent = flood(association, pdu(bytes(16_000), COMMAND), 10_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent < 10_000
        assert peak < 5_000_000
        assert box.left() == []


def command(size: int) -> bytes:
    """Return a command set of a size with elements of 8 bytes, each of which costs 40 times as much once decoded."""
    return struct.pack("<HHL", 0, 0x0902, 0) * (size // 8)


def test_aborts_above_the_size_of_a_command(tmp_path, caplog):
    """Images may be large, which a command may not."""
    box = Inbox(tmp_path, max_bytes=100_000_000)
    with running(box.receiver), associated(box.receiver.port) as association:
        raw(association).sendall(pdu(command(60_000), COMMAND) + pdu(command(6_000), COMMAND))
        wait_until(lambda: not box.associations())
        assert "a message exceeds the size limit" in caplog.text


def test_limits_each_command_and_not_all(tmp_path, monkeypatch):
    monkeypatch.setattr(associations, "MAX_COMMAND_BYTES", 200)
    box = Inbox(tmp_path)
    with running(box.receiver), associated(box.receiver.port, kind=Verification) as association:
        assert [association.send_c_echo().Status for _ in range(5)] == [0x0000] * 5


def test_bounds_the_memory_of_one_pdu(inbox):
    with associated(inbox.receiver.port) as association:
        tracemalloc.start()
        raw(association).sendall(struct.pack(">BBL", 4, 0, 2**31))
        sent = flood(association, bytes(100_000), 1000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent < 1000
        assert peak < 5_000_000


@pytest.mark.parametrize(
    "content",
    [
        pdu(b"\xff" * 40, LAST_COMMAND),
        pdu(b"", LAST_COMMAND),
        pdu(b"no command came before", LAST_DATA),
        b"\x04\0\0\0\0\x01\0",
        b"\x09\0\0\0\0\x01\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_survives_malformed_messages(inbox, tmp_path, content):
    with associated(inbox.receiver.port) as association:
        raw(association).sendall(content)
        wait_until(lambda: not inbox.associations())
    source = image_file(tmp_path / "image.dcm")
    assert inbox.send(source) == ([source], [])


def store_request(image: Path) -> bytes:
    """Return the PDU with the command of a C-STORE request for an image."""
    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE

    request, message = C_STORE(), C_STORE_RQ()
    request.MessageID, request.Priority, request.DataSet = 1, 2, io.BytesIO(b"\0\0")
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = PICTURE, dcmread(image).SOPInstanceUID
    message.primitive_to_message(request)
    first = next(iter(message.encode_msg(1, 16382)))
    return pdu(first.presentation_data_value_list[0][1][1:], LAST_COMMAND)


def test_aborts_a_sender_that_does_not_wait_for_answers(tmp_path, caplog):
    box, source = Inbox(tmp_path, SlowSpool(tmp_path / "spool")), image_file(tmp_path / "image.dcm")
    with running(box.receiver), associated(box.receiver.port) as association:
        raw(association).sendall((store_request(source) + pdu(data_set(source), LAST_DATA)) * 5)
        wait_until(lambda: "messages arrive without waiting for answers" in caplog.text)
        box.spool.proceed.set()
        wait_until(lambda: not box.associations())
    assert box.keys == [KEY]
    assert box.left() == []


@pytest.mark.parametrize("hang", [lambda data: pdu(data, DATA), lambda data: pdu(data, DATA)[:50], lambda data: b""])
def test_gives_up_a_sender_that_hangs_in_the_middle(tmp_path, monkeypatch, hang):
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 0.4)
    box, source = Inbox(tmp_path), image_file(tmp_path / "image.dcm")
    with running(box.receiver), associated(box.receiver.port) as association:
        raw(association).sendall(store_request(source) + hang(data_set(source)[:1000]))
        wait_until(lambda: not box.associations())
        assert (box.keys, box.left()) == ([], [])


def test_gives_up_a_sender_that_drips(tmp_path, monkeypatch):
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 0.4)
    box = Inbox(tmp_path)
    with running(box.receiver), associated(box.receiver.port) as association:
        connection, dripping = raw(association), itertools.chain(pdu(bytes(100_000), DATA)[:100], itertools.repeat(0))

        def drip() -> bool:
            try:
                connection.sendall(bytes([next(dripping)]))
            except OSError:
                return True
            return False

        wait_until(drip)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x01\0\0\0\1\0"])
def test_gives_up_a_client_that_never_asks(tmp_path, monkeypatch, content):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    box = Inbox(tmp_path)
    with running(box.receiver), box.connect() as connection:
        connection.sendall(content)
        assert connection.recv(1) == b""
        wait_until(lambda: not box.associations())


def is_open(connection: socket.socket) -> bool:
    """Return whether the other side has not closed a connection, from which nothing else comes."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_opens_no_more_connections_than_it_may(inbox, tmp_path, monkeypatch, caplog):
    """Whoever reaches the port could exhaust file descriptors and threads otherwise."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 600)
    threads = threading.active_count()
    crowd = [inbox.connect() for _ in range(60)]
    wait_until(lambda: sum(map(is_open, crowd)) == 16)
    assert sum(map(is_open, crowd)) == 16
    # An idle connection costs one thread that sleeps; an association has two that poll.
    assert threading.active_count() - threads == 16
    assert inbox.associations() == []
    for connection in crowd:
        connection.close()
    wait_until(lambda: not inbox.handshakes())
    source = image_file(tmp_path / "image.dcm")
    assert inbox.send(source) == ([source], [])
    assert [text for text in caplog.messages if "open" in text] == [
        "a connection was closed at once: 16 are open already"
    ]


def test_counts_the_connections_that_it_turns_away(inbox, monkeypatch, caplog):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 600)
    clock = [1000.0]
    monkeypatch.setattr(connections, "_now", lambda: clock[0])
    crowd = [inbox.connect() for _ in range(20)]
    wait_until(lambda: sum(map(is_open, crowd)) == 16)
    assert len(caplog.messages) == 1
    clock[0] += 60
    wait_until(lambda: len(caplog.messages) == 2)
    assert caplog.messages[1] == "3 more connections failed or were turned away within a minute"
    crowd.append(inbox.connect())
    wait_until(lambda: len(caplog.messages) == 3)
    assert caplog.messages[2] == caplog.messages[0]
    for connection in crowd:
        connection.close()


def test_limits_the_lines_about_rejections(inbox, caplog):
    """Titles are the choice of whoever connects, and so is their number."""
    for number in range(30):
        with associated(inbox.receiver.port, f"STRANGER {number}") as association:
            assert association.is_rejected
    wait_until(lambda: not inbox.associations())
    assert len(caplog.messages) == 10
    inbox.receiver.stop()
    assert caplog.messages[10:] == ["20 more connections failed or were turned away within a minute"]


@pytest.mark.parametrize("content", [b"", b"\x01"])
def test_counts_no_connection_that_has_not_asked(inbox, tmp_path, monkeypatch, content):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 600)
    crowd = [inbox.connect() for _ in range(5)]
    for connection in crowd:
        connection.sendall(content)
    wait_until(lambda: len(inbox.associations()) == (5 if content else 0))
    source = image_file(tmp_path / "image.dcm")
    assert inbox.send(source) == ([source], [])
    for connection in crowd:
        connection.close()


def test_keeps_no_descriptor_of_a_connection_that_was_reset(inbox):
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for content in (b"", b"\x01", b"\x01\0\0\0\1\0", b"GET / HTTP/1.1\r\n\r\n") * 5:
            connection = inbox.connect()
            connection.sendall(content)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        wait_until(lambda: not inbox.associations() and not inbox.handshakes())
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


def test_reads_no_long_request(inbox, monkeypatch):
    """pynetdicom would work on one of a megabyte for 10 seconds, whoever has sent it."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 60)
    with inbox.connect() as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, 2**16 + 1))
        assert connection.recv(1) == b""


def test_leaves_nothing_of_a_sender_that_was_killed(inbox, tmp_path):
    source = large_file(tmp_path / "image.dcm", 1)
    with associated(inbox.receiver.port) as association:
        raw(association).sendall(store_request(source) + pdu(data_set(source)[:10_000], DATA))
        associations.disconnect(association)
        wait_until(lambda: not inbox.associations())
    assert (inbox.keys, inbox.left()) == ([], [])
    assert inbox.send(source) == ([source], [])


def test_rejects_the_fifth_association_for_now(inbox, tmp_path):
    source = image_file(tmp_path / "image.dcm")
    contexts = AE("SENDER")
    contexts.add_requested_context(Verification)
    four = [contexts.associate("127.0.0.1", inbox.receiver.port, ae_title="PNEUMOSEG") for _ in range(4)]
    assert all(association.is_established for association in four)
    with pytest.raises(UnreachableError, match="Local limit exceeded"):
        inbox.send(source)
    four[0].release()
    wait_until(lambda: len(inbox.associations()) == 3)
    assert inbox.send(source) == ([source], [])
    for association in four[1:]:
        association.release()


def test_counts_no_connection_that_was_closed(inbox, tmp_path):
    """Monitors connect and close, more often than an association may be waited for."""
    for _ in range(8):
        socket.create_connection(("127.0.0.1", inbox.receiver.port)).close()
    wait_until(lambda: not inbox.associations())
    source = image_file(tmp_path / "image.dcm")
    assert inbox.send(source) == ([source], [])


def test_receives_from_four_senders_at_once(inbox, tmp_path):
    files = [image_file(tmp_path / f"{number}.dcm", instance=f"1.2.{number}") for number in range(1, 41)]
    threads = [threading.Thread(target=inbox.send, args=files[start::4]) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(inbox.keys) == sorted(key_of(f"1.2.{number}") for number in range(1, 41))
    assert inbox.left() == []


def test_finishes_the_running_image_when_it_stops(tmp_path):
    box, source = Inbox(tmp_path, SlowSpool(tmp_path / "spool")), image_file(tmp_path / "image.dcm")
    outcomes: list[object] = []
    with running(box.receiver):
        sending = threading.Thread(target=lambda: outcomes.append(box.send(source)))
        sending.start()
        assert box.spool.entered.wait(60)
        stopping = threading.Thread(target=box.receiver.stop)
        stopping.start()
        wait_until(lambda: box.receiver._server is None)
        box.spool.proceed.set()
        stopping.join(60)
        sending.join(60)
    assert outcomes == [([source], [])]
    assert box.keys == [KEY]
    assert not box.associations()


def test_aborts_associations_that_outlive_its_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(receiver, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(associations, "NETWORK_SECONDS", 60)
    box, source = Inbox(tmp_path), image_file(tmp_path / "image.dcm")
    with running(box.receiver), associated(box.receiver.port) as idle, associated(box.receiver.port) as hanging:
        raw(hanging).sendall(store_request(source) + pdu(data_set(source), DATA)[:500])
        started = time.monotonic()
        box.receiver.stop()
        wait_until(lambda: not box.associations())
        assert time.monotonic() - started < 60
        wait_until(lambda: not idle.is_established)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", box.receiver.port))
    box.receiver.stop()


@pytest.mark.parametrize("content", [b"", b"\x01"])
def test_does_not_wait_for_a_client_that_has_not_asked_when_it_stops(inbox, monkeypatch, content):
    monkeypatch.setattr(receiver, "STOP_SECONDS", 60)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 60)
    with inbox.connect() as connection:
        connection.sendall(content)
        wait_until(inbox.associations if content else inbox.handshakes)
        started = time.monotonic()
        inbox.receiver.stop()
        assert connection.recv(1) == b""
        wait_until(lambda: not inbox.associations() and not inbox.handshakes())
        assert time.monotonic() - started < 60


def test_says_which_port_is_taken(inbox, tmp_path):
    second = Receiver(inbox.spool, ["SENDER"], port=inbox.receiver.port)
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {second.port}: Address already in use"):
        second.start()
    with pytest.raises(OSError, match=r"cannot listen on 203[.]0[.]113[.]1 port 0: Cannot assign requested address"):
        Receiver(inbox.spool, ["SENDER"], host="203.0.113.1", port=0).start()


def test_listens_on_ipv6(tmp_path):
    box, source = Inbox(tmp_path, host="::1"), image_file(tmp_path / "image.dcm")
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with running(box.receiver):
        done: list[Path] = []
        StoreSender("PNEUMOSEG", "::1", box.receiver.port, "SENDER").send([source], done.append)
    assert done == [source]


def test_ignores_the_default_timeout_of_sockets(tmp_path):
    """The command line sets one, for downloads."""
    box, source = Inbox(tmp_path), image_file(tmp_path / "image.dcm")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.1)
    try:
        with running(box.receiver), associated(box.receiver.port) as association:
            data = pdu(data_set(source), LAST_DATA)
            raw(association).sendall(store_request(source) + data[:500])
            threading.Event().wait(0.3)
            raw(association).sendall(data[500:])
            wait_until(lambda: box.keys)
    finally:
        socket.setdefaulttimeout(before)
    assert box.keys == [KEY]


def test_logs_hold_no_patient_data(inbox, tmp_path, caplog):
    """pydicom, which warns of values, is silenced by the commands."""
    caplog.set_level(logging.DEBUG)
    sources = [
        image_file(tmp_path / f"{PATIENT}.dcm"),
        image_file(tmp_path / "malformed.dcm", instance="1.2.not-a-uid.4711", StudyInstanceUID="1.x"),
        image_file(tmp_path / "deflated.dcm", uid.DeflatedExplicitVRLittleEndian, instance="1.2.4711.9"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in (*sources, *sources):
            inbox.send(path)
        with associated(inbox.receiver.port) as association:
            raw(association).sendall(store_request(sources[0]) + pdu(b"DOE^JANE 4711", LAST_DATA))
            wait_until(lambda: "differs" in caplog.text)
    said = [record.getMessage() for record in caplog.records if record.name.split(".")[0] != "pydicom"]
    assert f"{KEY} received: new" in said
    assert not [text for text in said if "DOE" in text or "4711" in text]


def test_a_result_that_a_router_sends_back_comes_to_its_end(tmp_path):
    """The receiver takes pictures; the service alone tells its own, so that no result is made of a result."""
    archive, spool = hospital.Archive().start(), Spool(tmp_path / "spool")
    door = Receiver(spool, ["SCANNER"], port=0)
    service = Service(spool, hospital.QuickPipeline(), door, StoreSender("ARCHIVE", "127.0.0.1", archive.port))
    serving = threading.Thread(target=service.run)
    serving.start()
    try:
        wait_until(lambda: door.port)
        image = dcmread(hospital.write_radiograph(tmp_path / "image.dcm"))
        assert hospital.send(door.port, image) == [0x0000]
        wait_until(lambda: spool.status().done == 1)
        (picture,) = [result for result in archive.stored if result.SOPClassUID == PICTURE]
        picture.file_meta = image.file_meta
        assert hospital.send(door.port, picture) == [0x0000]
        wait_until(lambda: spool.status().done == 2)
        assert service.counts["sent back"] == 1
        assert len(archive.stored) == 3
    finally:
        service.stop()
        serving.join(60)
        archive.stop()


@needs("storescu")
def test_receives_from_dcmtk(inbox, tmp_path):
    files = sorted(MINI.rglob("*.dcm"))[:10]
    if not files:
        files = [image_file(tmp_path / "image.dcm", uid.JPEGBaseline8Bit)]
    address = ["-aec", "PNEUMOSEG", "127.0.0.1", str(inbox.receiver.port)]
    echo, store = find_tool("echoscu"), find_tool("storescu")
    subprocess.run([echo, "-aet", "SENDER", *address], check=True, timeout=30)
    assert subprocess.run([echo, "-aet", "STRANGER", *address], timeout=30, capture_output=True).returncode
    subprocess.run([store, "-xy", "-aet", "SENDER", *address, *files], check=True, timeout=60)
    assert len(inbox.keys) == len(files)
    for path in files:
        kept = inbox.spool.image(key_of(dcmread(path, stop_before_pixels=True).SOPInstanceUID))
        assert data_set(kept) == data_set(path)
        assert (read_image(kept) == read_image(path)).all()
