"""Sender by STOW-RS: the bytes that it sends, and its conclusion from each response."""

import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pneumoseg.pacs import stow
from pneumoseg.pacs.delivery import BusyError
from pneumoseg.pacs.sender import StowSender, UnreachableError
from pneumoseg.pacs.tls import client_context
from tests.pacs.network import INSTANCE, PATIENT, Certificates, image_file, large_file, needs

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def items(*instances: str, **reasons: int) -> dict:
    """Return a sequence of the DICOM JSON model: an item for each instance, with a failure reason if one is given."""
    found = [{"00081155": {"vr": "UI", "Value": [instance]}} for instance in instances]
    for item in found:
        if reasons:
            item["00081197"] = {"vr": "US", "Value": [reasons["reason"]]}
    return {"vr": "SQ", "Value": found} if found else {"vr": "SQ"}


def outcome(stored: dict | None = None, failed: dict | None = None) -> bytes:
    """Return a response in the DICOM JSON model."""
    named = {"00081199": stored, "00081198": failed}
    return json.dumps({tag: sequence for tag, sequence in named.items() if sequence is not None}).encode()


class Service:
    """DICOMweb service with one response to all requests, which it keeps."""

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.before: Callable[[], object] = lambda: None
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                service.requests.append((self.path, dict(self.headers), content))
                service.before()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815  # named by the base class

            def log_message(self, *arguments) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *arguments: None
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}/dicom-web"

    def __enter__(self) -> "Service":
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()


def send(service: Service, *files: Path, tls: ssl.SSLContext | None = None):
    """Return the delivered files, and the refusals or the error."""
    done: list[Path] = []
    try:
        return done, StowSender(service.url, tls).send(files, done.append)
    except UnreachableError as error:
        return done, str(error)


@pytest.fixture
def source(tmp_path):
    return image_file(tmp_path / "image.dcm")


@pytest.fixture
def pair(tmp_path):
    return [image_file(tmp_path / f"{number}.dcm", instance=f"1.2.{number}") for number in (1, 2)]


def test_sends_the_bytes_of_all_files_in_one_request(pair):
    with Service(200, outcome(items("1.2.1", "1.2.2"))) as service:
        assert send(service, *pair) == (pair, [])
    ((path, headers, content),) = service.requests
    kind, root, boundary = headers["Content-Type"].split("; ")
    assert (path, kind, root) == ("/dicom-web/studies", "multipart/related", 'type="application/dicom"')
    assert headers["Accept"] == "application/dicom+json"
    delimiter = b"--" + boundary.removeprefix("boundary=").encode()
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    first, second = (path.read_bytes() for path in pair)
    assert content == delimiter + head + first + b"\r\n" + delimiter + head + second + b"\r\n" + delimiter + b"--\r\n"
    assert headers["Host"] == f"localhost:{service.port}"
    assert int(headers["Content-Length"]) == len(content)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, "application/dicom+json"), (200, "application/dicom+json; charset=utf-8"), (202, "text/html"), (400, "")],
)
def test_believes_the_body_whatever_the_status_is(source, status, kind):
    with Service(status, outcome(items(INSTANCE)), {"Content-Type": kind}) as service:
        assert send(service, source) == ([source], [])


def test_believes_a_list_of_one(source):
    with Service(200, b"[" + outcome(items(INSTANCE)) + b"]") as service:
        assert send(service, source) == ([source], [])


@pytest.mark.parametrize("status", [200, 202, 409])
def test_tells_delivered_from_refused_files(pair, status):
    with Service(status, outcome(items("1.2.2"), items("1.2.1", reason=0xA900))) as service:
        assert send(service, *pair) == ([pair[1]], [(pair[0], "the receiver answered status 0xA900")])


def test_refuses_all_files_of_a_conflict(pair):
    with Service(409, outcome(None, items("1.2.1", "1.2.2", reason=0xC122))) as service:
        done, refusals = send(service, *pair)
    assert done == []
    assert refusals == [(path, "the receiver answered status 0xC122") for path in pair]


@pytest.mark.parametrize("reason", [{}, {"reason": 0x0110}, {"reason": 0x0124}])
def test_keeps_a_failure_whose_reason_may_pass(source, reason):
    with Service(409, outcome(None, items(INSTANCE, **reason))) as service:
        assert send(service, source) == ([], f"the receiver answered status 0x{reason.get('reason', 0x0110):04X}")


def test_counts_a_known_object_as_delivered(source):
    with Service(409, outcome(None, items(INSTANCE, reason=0x0111))) as service:
        assert send(service, source) == ([source], [])


def test_keeps_what_may_succeed_later_and_confirms_the_rest(pair):
    with Service(202, outcome(items("1.2.2"), items("1.2.1", reason=0xA700))) as service:
        assert send(service, *pair) == ([pair[1]], "the receiver answered status 0xA700")


def test_keeps_what_a_full_disk_left_out_of_a_success(source):
    """Orthanc 1.10 answers so."""
    with Service(200, outcome(items(), items())) as service:
        assert send(service, source) == ([], "the service answered HTTP 200 and did not store it")


def test_refuses_what_a_client_error_leaves_out(pair):
    """Orthanc 1.10 answers so if one of the files cannot be parsed."""
    with Service(400, outcome(items("1.2.1"), items())) as service:
        assert send(service, *pair) == ([pair[0]], [(pair[1], "the service answered HTTP 400 and did not store it")])


@pytest.mark.parametrize(("status", "busy"), [(500, True), (413, True), (503, False), (401, False), (200, False)])
def test_tells_a_service_that_stumbles_over_files_from_one_that_takes_none(source, status, busy):
    with Service(status, b"") as service, pytest.raises(UnreachableError) as error:
        StowSender(service.url).send([source], Path.unlink)
    assert isinstance(error.value, BusyError) is busy


@pytest.mark.parametrize("status", [200, 202, 204, 301, 307, 400, 401, 403, 404, 405, 409, 413, 429, 500, 503])
@pytest.mark.parametrize(
    "body", [b"", b"<html>login</html>", b"{}", b"[]", b"null", b"3", b'{"00081199": 3}', b"\xff\xfe"]
)
def test_keeps_files_that_a_response_says_nothing_about(source, status, body):
    with Service(status, body, {"Location": "/elsewhere"}) as service:
        done, error = send(service, source)
    assert done == []
    hint = {401: ": check the user and the password in .netrc", 404: ": check the URL"}
    hint[403] = hint[401]
    assert (
        error == f"the service answered HTTP {status} and does not say what became of the files{hint.get(status, '')}"
    )
    assert [path for path, *_ in service.requests] == ["/dicom-web/studies"]


def test_keeps_files_of_a_response_that_names_others(source):
    with Service(200, outcome(items("1.2.999"))) as service:
        assert send(service, source) == ([], "the service answered HTTP 200 and did not store it")


@pytest.mark.parametrize(
    "item",
    [
        {"00081155": {"Value": [INSTANCE]}, "00081197": {"Value": ["A900"]}},
        {"00081155": {"Value": [INSTANCE]}, "00081197": {"Value": [[]]}},
        {"00081155": {"vr": "UI"}},
        {},
        {"00081155": {"Value": [[]]}},
        {"00081155": {"Value": [INSTANCE]}, "00081197": {}},
    ],
)
def test_keeps_files_of_a_malformed_response(source, item):
    with Service(200, json.dumps({"00081198": {"Value": [item]}}).encode()) as service:
        done, error = send(service, source)
    assert (done, error.count("does not say what became of the files")) == ([], 1)


def test_reads_no_endless_response(source, monkeypatch):
    monkeypatch.setattr(stow, "MAX_RESPONSE_BYTES", 100)
    with Service(200, outcome(items(INSTANCE)) + b" " * 1000) as service:
        assert send(service, source)[0] == []


def test_refuses_files_that_are_not_dicom(tmp_path, source):
    text = tmp_path / "notes.txt"
    text.write_text(PATIENT)
    with Service(200, outcome(items(INSTANCE))) as service:
        done, refusals = send(service, text, source)
        assert [path for path, _ in refusals] == [text]
        assert PATIENT not in refusals[0].reason
        assert send(service, text)[0] == []
    assert done == [source]
    assert len(service.requests) == 1


def test_raises_if_nobody_listens(source):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"cannot be connected to, .* \(ConnectionError\)"):
            StowSender(url).send([source], print)


def test_waits_for_no_answer_forever(source, monkeypatch):
    monkeypatch.setattr(stow, "ANSWER_SECONDS", 0.3)
    proceed = threading.Event()
    with Service(200, outcome(items(INSTANCE))) as service:
        service.before = lambda: proceed.wait(120)
        started = time.monotonic()
        done, error = send(service, source)
        assert (done, error) == ([], "the service cannot be connected to, or does not answer (ReadTimeout)")
        assert time.monotonic() - started < 60
        proceed.set()


def test_gives_up_a_response_that_drips(source, monkeypatch):
    """Each byte comes in time, all of them do not."""
    for name, value in {"ANSWER_SECONDS": 0.4, "CONNECT_SECONDS": 0.2, "SLOWEST_BYTES_PER_SECOND": 2**30}.items():
        monkeypatch.setattr(stow, name, value)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X" * 1000:
                    if stop.wait(0.1):
                        return
                    connection.sendall(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(UnreachableError, match="does not answer in time"):
            StowSender(f"http://127.0.0.1:{server.getsockname()[1]}").send([source], print)
        stop.set()
        thread.join(60)


def test_sends_slowly_to_a_service_that_reads_slowly(tmp_path, monkeypatch):
    """The timeout of a connection counts for each part that is sent, not for the whole request."""
    monkeypatch.setattr(stow, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(stow, "SLOWEST_BYTES_PER_SECOND", 2**20)
    source = large_file(tmp_path / "image.dcm", 8)
    body = outcome(items(INSTANCE))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)

        def read() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                length = 0
                while line := stream.readline().strip():
                    if line.lower().startswith(b"content-length"):
                        length = int(line.split(b":")[1])
                for _ in range(10):
                    threading.Event().wait(0.1)
                    stream.read(length // 10)
                stream.read(length % 10)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=read)
        thread.start()
        done: list[Path] = []
        assert StowSender(f"http://127.0.0.1:{server.getsockname()[1]}").send([source], done.append) == []
        thread.join(60)
    assert done == [source]


def test_closing_ends_a_running_send(source, monkeypatch):
    monkeypatch.setattr(stow, "ANSWER_SECONDS", 120)
    entered, proceed = threading.Event(), threading.Event()
    errors = []
    with Service(200, outcome(items(INSTANCE))) as service:
        service.before = lambda: (entered.set(), proceed.wait(180))
        sender = StowSender(service.url)

        def run() -> None:
            try:
                sender.send([source], print)
            except UnreachableError as error:
                errors.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        assert entered.wait(60)
        sender.close()
        thread.join(60)
        assert errors == ["the sender was closed"]
        proceed.set()
        with pytest.raises(UnreachableError, match="closed"):
            sender.send([source], print)
    assert len(service.requests) == 1


def test_sends_patient_data_through_no_proxy(source, monkeypatch):
    with Service(200, outcome(items(INSTANCE))) as proxy, Service(200, outcome(items(INSTANCE))) as service:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        assert send(service, source) == ([source], [])
    assert (len(proxy.requests), len(service.requests)) == (0, 1)


def test_reads_the_password_from_netrc(source, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login doctor password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Service(200, outcome(items(INSTANCE))) as service:
        send(service, source)
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        send(service, source)
    (_, first, _), (_, second, _) = service.requests
    assert first["Authorization"] == "Basic ZG9jdG9yOnNlY3JldA=="
    assert "Authorization" not in second


@pytest.mark.parametrize(
    "url",
    [
        "ftp://pacs/dicom-web",
        "pacs:8042",
        "http://",
        "http://pacs/x?a=1",
        "http://pacs/#x",
        "http://u:p@pacs/x",
        "http://pacs:x/",
    ],
)
def test_wants_an_address(url):
    with pytest.raises(ValueError, match=r"address of"):
        StowSender(url)


def test_hides_a_password_in_the_address():
    with pytest.raises(ValueError, match=r"holds a user: put it and the password into ~/\.netrc") as error:
        StowSender("http://doctor:secret@pacs/dicom-web")
    assert "secret" not in str(error.value)


def test_wants_https_for_certificates():
    with pytest.raises(ValueError, match="is not encrypted"):
        StowSender("http://pacs/dicom-web", ssl.create_default_context())


def test_logs_hold_no_patient_data(pair, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    files = [image_file(tmp_path / f"{PATIENT}.dcm", instance="1.2.4711"), pair[0]]
    with Service(409, outcome(None, items("1.2.4711", "1.2.1", reason=0xA900))) as service:
        _, refusals = send(service, *files)
    said = [record.getMessage() for record in caplog.records if record.name.split(".")[0] != "pydicom"]
    said += [refusal.reason for refusal in refusals]
    assert not [text for text in said if "DOE" in text or "4711" in text]


@needs("openssl")
class TestWithTls:
    """Certificates of both sides."""

    @pytest.fixture(scope="class")
    def ours(self, tmp_path_factory):
        return Certificates(tmp_path_factory.mktemp("ours") / "certificates")

    @pytest.fixture(scope="class")
    def theirs(self, tmp_path_factory):
        return Certificates(tmp_path_factory.mktemp("theirs") / "certificates")

    def _service(self, authority: Certificates, clients: Certificates, name: str = "DNS:localhost") -> Service:
        cert, key, _ = authority.issue("archive", name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.load_verify_locations(clients.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        return Service(200, outcome(items(INSTANCE)), tls=context)

    def test_shows_its_certificate(self, source, ours):
        with self._service(ours, ours) as service:
            assert send(service, source, tls=client_context(*ours.issue("client"))) == ([source], [])

    @pytest.mark.parametrize("case", ["no context", "their server", "their client", "other name"])
    def test_is_refused_or_refuses(self, source, ours, theirs, case):
        context = client_context(*ours.issue("client"))
        service = {
            "no context": lambda: self._service(ours, ours),
            "their server": lambda: self._service(theirs, ours),
            "their client": lambda: self._service(ours, theirs),
            "other name": lambda: self._service(ours, ours, "DNS:elsewhere.example"),
        }[case]()
        with service:
            done, error = send(service, source, tls=None if case == "no context" else context)
        assert (done, service.requests) == ([], [])
        assert "cannot be connected to" in error

    def test_trusts_no_other_authority(self, source, ours, monkeypatch):
        """requests adds the public authorities, or those of an environment variable, to a context."""
        context = client_context(*ours.issue("client"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
        with self._service(ours, ours) as service:
            assert send(service, source, tls=context)[0] == [source]
        assert len(context.get_ca_certs()) == 1
