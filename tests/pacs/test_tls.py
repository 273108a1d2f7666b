"""TLS on both sides: who is let in, and who is not."""

import logging
import socket
import ssl
import subprocess
import threading
import warnings
from pathlib import Path

import pytest

from pneumoseg.pacs import connections
from pneumoseg.pacs.receiver import Receiver
from pneumoseg.pacs.sender import StoreSender, UnreachableError
from pneumoseg.pacs.spool import Spool
from pneumoseg.pacs.tls import client_context, server_context
from tests.pacs.network import PICTURE, Archive, Certificates, find_tool, image_file, needs, running, wait_until

pytestmark = [
    needs("openssl"),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    try:
        return Certificates(tmp_path_factory.mktemp("ours") / "certificates")
    except subprocess.CalledProcessError:
        pytest.skip("needs openssl 3")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, ours):
    return Certificates(tmp_path_factory.mktemp("theirs") / "certificates")


@pytest.fixture(scope="module")
def server(ours):
    return ours.issue("server")


@pytest.fixture(scope="module")
def client(ours):
    return ours.issue("client")


@pytest.fixture
def source(tmp_path):
    return image_file(tmp_path / "image.dcm")


@pytest.fixture
def listening(tmp_path, server):
    receiver = Receiver(Spool(tmp_path / "spool"), ["PNEUMOSEG"], port=0, tls=server_context(*server))
    with running(receiver):
        yield receiver


def send(port: int, source: Path, tls: ssl.SSLContext | None, host: str = "127.0.0.1") -> list[Path]:
    done: list[Path] = []
    StoreSender("PNEUMOSEG", host, port, tls=tls).send([source], done.append)
    return done


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_receives_from_a_client_with_a_certificate(listening, source, client, host):
    assert send(listening.port, source, client_context(*client), host) == [source]


@needs("storescu")
def test_receives_from_dcmtk_with_a_certificate(listening, source, client):
    cert, key, ca = client
    options = ["+tls", key, cert, "+cf", ca, "-aet", "PNEUMOSEG", "-aec", "PNEUMOSEG"]
    command = [find_tool("storescu"), *options, "127.0.0.1", str(listening.port), source]
    subprocess.run(command, check=True, timeout=30, capture_output=True)


def test_refuses_a_client_without_a_certificate(listening, source, ours, caplog):
    context = ssl.create_default_context(cafile=ours.ca)
    with pytest.raises(UnreachableError):
        send(listening.port, source, context)
    wait_until(lambda: "(SSLError: PEER_DID_NOT_RETURN_A_CERTIFICATE)" in caplog.text)


def test_refuses_a_client_of_another_authority(listening, source, theirs, ours, caplog):
    cert, key, _ = theirs.issue("client")
    with pytest.raises(UnreachableError):
        send(listening.port, source, client_context(cert, key, ours.ca))
    wait_until(lambda: "(SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED)" in caplog.text)


def test_refuses_a_client_without_tls(listening, source):
    with pytest.raises(UnreachableError):
        send(listening.port, source, None)


def test_refuses_old_versions_of_tls(listening, client):
    cert, key, ca = client
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(cert, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    lenient = archive_context(cert, key)
    lenient.set_ciphers("ALL:@SECLEVEL=0")
    lenient.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=lambda: lenient.wrap_socket(server.accept()[0], server_side=True).close())
        accepting.start()
        with socket.create_connection(server.getsockname(), 10) as plain:
            assert context.wrap_socket(plain, server_hostname="localhost").version() == "TLSv1.1"
        accepting.join(10)
    with socket.create_connection(("127.0.0.1", listening.port), 10) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_tells_which_connection_failed_by_its_class(listening, source, caplog):
    caplog.set_level(logging.INFO)
    with socket.create_connection(("127.0.0.1", listening.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: DOE^JANE\r\n\r\n")
        wait_until(lambda: caplog.text)
    assert "a connection failed before it became an association (SSLError: HTTP_REQUEST)" in caplog.text
    assert "DOE" not in caplog.text


def test_a_silent_client_holds_up_nobody(listening, source, client):
    with socket.create_connection(("127.0.0.1", listening.port)):
        assert send(listening.port, source, client_context(*client)) == [source]


def test_gives_up_a_silent_client(tmp_path, server, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    receiver = Receiver(Spool(tmp_path / "spool"), ["PNEUMOSEG"], port=0, tls=server_context(*server))
    with running(receiver), socket.create_connection(("127.0.0.1", receiver.port)) as silent:
        silent.settimeout(60)
        assert silent.recv(1) == b""


def test_gives_up_a_client_that_says_nothing_after_its_handshake(tmp_path, server, client, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 3)
    receiver = Receiver(Spool(tmp_path / "spool"), ["PNEUMOSEG"], port=0, tls=server_context(*server))
    with running(receiver):
        plain = socket.create_connection(("127.0.0.1", receiver.port), 60)
        with client_context(*client).wrap_socket(plain, server_hostname="localhost") as silent:
            assert silent.recv(1) == b""


def test_opens_no_more_handshakes_than_it_may(listening, source, client, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 600)
    crowd = [socket.create_connection(("127.0.0.1", listening.port), 60) for _ in range(17)]
    assert crowd[-1].recv(1) == b""
    for connection in crowd:
        connection.close()
    wait_until(lambda: not [thread for thread in threading.enumerate() if "process_request_thread" in thread.name])
    assert send(listening.port, source, client_context(*client)) == [source]


def test_serves_nobody_after_its_stop(listening, client, monkeypatch):
    """A handshake that goes on begins no association."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 60)
    with socket.create_connection(("127.0.0.1", listening.port), 60) as plain:
        wait_until(lambda: [thread for thread in threading.enumerate() if "process_request_thread" in thread.name])
        listening.stop()
        with pytest.raises(OSError):  # noqa: PT011  # by an end or a reset of the connection
            client_context(*client).wrap_socket(plain, server_hostname="localhost")
        wait_until(lambda: not [thread for thread in threading.enumerate() if "process_request_thread" in thread.name])


def archive_context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_sends_to_a_receiver_of_the_authority_only(source, client, ours, theirs):
    for authority, expected in ((ours, [source]), (theirs, [])):
        cert, key, _ = authority.issue("archive")
        done: list[Path] = []
        with Archive(PICTURE, tls=archive_context(cert, key)) as archive:
            sender = StoreSender("ARCHIVE", "localhost", archive.port, tls=client_context(*client))
            try:
                sender.send([source], done.append)
            except UnreachableError:
                assert not expected
        assert (done, len(archive.received)) == (expected, len(expected))


def test_sends_to_a_receiver_of_the_right_name_only(source, client, ours):
    cert, key, _ = ours.issue("elsewhere", "DNS:elsewhere.example")
    with Archive(PICTURE, tls=archive_context(cert, key)) as archive:
        with pytest.raises(UnreachableError, match=r"certificate is not accepted \(Hostname mismatch"):
            StoreSender("ARCHIVE", "localhost", archive.port, tls=client_context(*client)).send([source], print)
        assert archive.received == []


@pytest.mark.parametrize("make", [server_context, client_context])
def test_says_what_is_wrong_with_the_files(tmp_path, server, client, make):
    cert, key, ca = server
    text = tmp_path / "notes.pem"
    text.write_text("no certificate")
    with pytest.raises(FileNotFoundError, match=r"none\.key"):
        make(cert, tmp_path / "none.key", ca)
    with pytest.raises(ValueError, match=r"notes.pem holds no certificate: give a PEM file"):
        make(cert, key, text)
    with pytest.raises(ValueError, match=r"notes.pem holds no certificate, or .*server.key is not its key"):
        make(text, key, ca)
    with pytest.raises(ValueError, match=r"client.key is not its key"):
        make(cert, client[1], ca)


def test_asks_for_no_password(tmp_path, server):
    cert, key, ca = server
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    with pytest.raises(ValueError, match="the private key is encrypted"):
        server_context(cert, encrypted, ca)


def test_wants_certificates_of_both_sides(server):
    for context in (server_context(*server), client_context(*server)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert client_context(*server).check_hostname


def test_images_pass_while_another_handshake_runs(listening, source, client):
    """Senders that connect at the same time do not wait for each other's handshakes."""
    done: list[Path] = []
    threads = [
        threading.Thread(target=lambda: done.extend(send(listening.port, source, client_context(*client))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert done == [source] * 4
