"""Sender of results by STOW-RS, to a DICOMweb service."""

import io
import json
import logging
import queue
import secrets
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from pydicom.filereader import read_file_meta_info
from requests.adapters import HTTPAdapter
from requests.utils import get_netrc_auth

from pneumoseg.pacs.delivery import (
    CONNECT_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    BusyError,
    Refusal,
    UnreachableError,
    judge,
    settle,
)

ANSWER_SECONDS = 60.0
"""Longest wait for the response, once the request is sent."""
MAX_RESPONSE_BYTES = 2**20
"""Longest response that is read, in bytes; one that names three objects has 2,000."""

_STORED, _FAILED, _INSTANCE, _REASON = "00081199", "00081198", "00081155", "00081197"
_PROCESSING_FAILURE = 0x0110
_HINTS = dict.fromkeys((401, 403), "check the user and the password in .netrc") | {404: "check the URL"}
_OF_THIS_REQUEST = 400, 409, 413, 415, 422, 500
"""Statuses with which a service may answer these files alone, unlike those for a missing right or a service that is
overloaded or down."""

# urllib3 logs URLs and headers at DEBUG.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class _Response(NamedTuple):
    """Statement of a service about the files of a request.

    Attributes:
        status: HTTP status.
        stored: SOP Instance UIDs that it has stored.
        failed: Failure reasons by SOP Instance UID.
    """

    status: int
    stored: set[str]
    failed: dict[str, int]


class StowSender:
    """Sender of DICOM files by STOW-RS (PS3.18 section 10.5) to one DICOMweb service.

    Files are sent as they are, in one request. The body of the response counts, because services answer 200 although
    a full disk kept them from storing anything, and 400 although they stored some of the files. A file is
    delivered if ReferencedSOPSequence names it, and judged by its failure reason (see `delivery.judge`) if
    FailedSOPSequence does. If neither does, it is refused with an HTTP status of 400 to 499. Everything else may pass:
    no connection, a response without these sequences, a redirection, a certificate or password that is not accepted.

    The user and the password are read from ~/.netrc (or the file that NETRC names). Redirections are not followed and
    proxies in environment variables are not used, so patient data go to the host of the URL only.

    Args:
        url: Address of the service, such as https://pacs.example/dicom-web; /studies is added.
        tls: Context from `tls.client_context`; None for http, or for a service with a certificate of a public
            authority.

    Raises:
        ValueError: If the URL is not one of http or https, or holds a user, a query or a fragment, or if `tls` is given
            for http.

    Example:
        >>> sender = StowSender("http://127.0.0.1:8042/dicom-web")
        >>> sender.send([Path("result.dcm")], delivered=Path.unlink)  # doctest: +SKIP
        []
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        """Check the URL; no connection is made yet."""
        _require_url(url, tls)
        self._url, self._tls = f"{url.rstrip('/')}/studies", tls
        self._outcome: queue.SimpleQueue[_Response | UnreachableError] = queue.SimpleQueue()
        self._closed = False

    def send(self, files: Sequence[Path], delivered: Callable[[Path], None]) -> list[Refusal]:
        """Send files in one request.

        Args:
            files: Paths of DICOM files.
            delivered: Function that is called with the path of each file that the service has confirmed.

        Returns:
            The files that were refused for good.

        Raises:
            UnreachableError: If a file could not be sent. Others may have been delivered.
        """
        instances, contents, refusals = {}, [], []
        for path in files:
            try:
                instances[path] = str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
                contents.append(path.read_bytes())
            except Exception as error:  # whatever a malformed file makes pydicom raise
                refusals.append(Refusal(path, f"is not a DICOM file that can be read ({type(error).__name__})"))
        if not contents:
            return refusals
        response = self._request(contents)
        return refusals + settle(instances, lambda path: _judge(response, instances[path]), delivered)

    def close(self) -> None:
        """End a running `send` from another thread, by an `UnreachableError` in it, and all later ones."""
        self._closed = True
        self._outcome.put(UnreachableError("the sender was closed"))

    def _request(self, contents: Sequence[bytes]) -> _Response:
        """Post files, in a thread that may outlive its use: requests cannot be interrupted."""
        outcome: queue.SimpleQueue[_Response | UnreachableError] = queue.SimpleQueue()
        self._outcome = outcome
        if self._closed:
            raise UnreachableError("the sender was closed")
        threading.Thread(target=lambda: outcome.put(self._post(contents)), daemon=True).start()
        seconds = CONNECT_SECONDS + sum(map(len, contents)) / SLOWEST_BYTES_PER_SECOND + ANSWER_SECONDS
        try:
            result = outcome.get(timeout=seconds)
        except queue.Empty:
            raise UnreachableError("the service does not answer in time") from None
        if isinstance(result, UnreachableError):
            raise result
        return result

    def _post(self, contents: Sequence[bytes]) -> _Response | UnreachableError:
        try:
            with _session(self._url, self._tls) as session:
                return _post(session, self._url, contents)
        except UnreachableError as error:
            return error
        except Exception as error:  # also what urllib3 and ssl raise; their texts hold the URL
            return UnreachableError(f"the service cannot be connected to, or does not answer ({type(error).__name__})")


def _require_url(url: str, tls: ssl.SSLContext | None) -> None:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("the address of the DICOMweb service holds a user: put it and the password into ~/.netrc")
    try:
        named = parts.hostname and parts.port != 0
    except ValueError:  # the port is not a number
        named = False
    if not named or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ValueError(f"{url} is not the address of a DICOMweb service, such as https://pacs.example/dicom-web")
    if tls and parts.scheme == "http":
        raise ValueError(f"{url} is not encrypted, so certificates have no use: give an https address")


class _ContextAdapter(HTTPAdapter):
    """Adapter of connections with a TLS context of one's own."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use the context for all connections."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the base class would make the context trust all public authorities too."""


def _session(url: str, tls: ssl.SSLContext | None) -> requests.Session:
    session = requests.Session()
    # Otherwise environment variables could name a proxy, or another authority.
    session.trust_env = False
    session.auth = get_netrc_auth(url)
    if tls:
        session.mount("https://", _ContextAdapter(tls))
    return session


def _post(session: requests.Session, url: str, contents: Sequence[bytes]) -> _Response:
    """Post files as the parts of one message (PS3.18 section 8.6.1.2.1) and return what became of each.

    Raises:
        UnreachableError: If the response is not one of a service that stores.
        requests.RequestException: If there is none.
    """
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + content + b"\r\n" for content in contents) + f"--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
    }
    # A timeout counts for each part that is sent; of bytes, the whole is one part.
    data, timeout = io.BytesIO(body), (CONNECT_SECONDS, ANSWER_SECONDS)
    with session.post(url, data, headers=headers, timeout=timeout, allow_redirects=False, stream=True) as response:
        answer = response.raw.read(MAX_RESPONSE_BYTES, decode_content=True)
        return _parse(response.status_code, answer)


def _parse(status: int, body: bytes) -> _Response:
    """Return the content of a response in the DICOM JSON model (PS3.18 section I.2 and annex F).

    Raises:
        UnreachableError: If it is something else; a `BusyError` if other files may have another answer.
    """
    try:
        answer = json.loads(body)
        answer = answer[0] if isinstance(answer, list) else answer
        if not {_STORED, _FAILED} & answer.keys():
            raise ValueError("no outcome of a store request")
        stored, failed = (answer.get(tag, {}).get("Value", []) for tag in (_STORED, _FAILED))
        failures = {_value(item, _INSTANCE): int(_value(item, _REASON, _PROCESSING_FAILURE)) for item in failed}
        return _Response(status, {_value(item, _INSTANCE) for item in stored}, failures)
    except (ValueError, TypeError, LookupError, AttributeError):
        kind = BusyError if status in _OF_THIS_REQUEST else UnreachableError
        hint = f": {_HINTS[status]}" if status in _HINTS else ""
        raise kind(f"the service answered HTTP {status} and does not say what became of the files{hint}") from None


def _value(item: dict[str, Any], tag: str, *default: Any) -> Any:
    """Return the first value of an element, or a default if the element is absent."""
    return item[tag]["Value"][0] if tag in item or not default else default[0]


def _judge(response: _Response, instance: str) -> str:
    """Return why a response refuses a file; '' if it confirms it.

    Raises:
        BusyError: If another attempt may succeed.
    """
    if instance in response.stored:
        return ""
    if instance in response.failed:
        return judge(response.failed[instance])
    reason = f"the service answered HTTP {response.status} and did not store it"
    if 400 <= response.status < 500:
        return reason
    raise BusyError(reason)
