"""Associations whose waits and sizes are bounded, and settings of pynetdicom that keep patient data out of logs."""

import functools
import logging
import socket
import time

from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from pneumoseg.pacs import connections

NETWORK_SECONDS = 60.0
"""Longest silence on a connection, and longest time that one PDU may take to arrive."""
ANSWER_SECONDS = 30.0
"""Longest wait for the answer to a request, of an association or of a message."""
PDU_BYTES = 2**16
"""Longest PDU with data that senders are asked for. pynetdicom's 16 KiB take half as long again."""
MAX_PDU_BYTES = 2**20
"""Longest PDU that is read of an association; the answer to a request for one may need more than one with data."""
MAX_COMMAND_BYTES = 2**16
"""Longest command set of a message, in bytes; a usual one has 200. Decoded, an element of 8 bytes needs 300."""

_log = logging.getLogger(__name__)
_READ_BYTES = 2**16

# pynetdicom logs UIDs, AE titles and the text of errors. Read when it makes its event handlers.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
# Files are sent as they are, byte by byte.
_config.STORE_SEND_CHUNKED_DATASET = True


def require_aet(title: str) -> str:
    """Return an AE title without the spaces around it.

    Args:
        title: AE title: 1 to 16 printable ASCII characters, no backslash.

    Raises:
        ValueError: If it is not one.

    Example:
        >>> require_aet(" ORTHANC ")
        'ORTHANC'
    """
    stripped = title.strip()
    if not 1 <= len(stripped) <= 16 or not (stripped.isascii() and stripped.isprintable()) or "\\" in stripped:
        raise ValueError(f"{title!r} is not an AE title: give 1 to 16 ASCII characters without a backslash")
    return stripped


def limit(association: Association, max_bytes: int = MAX_PDU_BYTES) -> None:
    """Limit the waits and the memory of an association that has just been connected.

    pynetdicom itself accepts PDUs of 4 GiB and messages without end, waits forever for the rest of a PDU, and ends a
    thread with a traceback if a message is malformed.

    Args:
        association: Association whose connection has just been opened.
        max_bytes: Largest data set of a message that is received, in bytes.
    """
    connection = association.dul.socket
    assert connection is not None
    assert connection.socket is not None
    # Otherwise the process's default timeout counts, or none.
    connection.socket.settimeout(NETWORK_SECONDS)
    connection.recv = functools.partial(_receive, association, connection.socket)  # type: ignore[method-assign]
    connection._shutdown_socket = functools.partial(_close, connection.socket)  # type: ignore[method-assign]
    association.dimse = _BoundedMessages(association, max_bytes)


def _receive(association: Association, connection: socket.socket, length: int) -> bytearray:
    """Return the next bytes of a connection, fewer if it is closed.

    Raises:
        OSError: If there are too many, they take too long, or the connection fails.
    """
    has_asked = association.is_requestor or association.requestor.primitive
    if length > (MAX_PDU_BYTES if has_asked else connections.MAX_REQUEST_BYTES):
        raise OSError("PDU too long")
    seconds = NETWORK_SECONDS if has_asked else connections.REQUEST_SECONDS
    connection.settimeout(seconds)
    content, deadline = bytearray(), time.monotonic() + seconds
    while len(content) < length:
        part = connection.recv(min(_READ_BYTES, length - len(content)))
        if not part:
            break
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError("PDU too slow")
    return content


def _close(connection: socket.socket) -> None:
    """Close a connection; pynetdicom leaves one open that the other side has reset."""
    connections.cut(connection)
    connection.close()


class _BoundedMessages(DIMSEServiceProvider):
    """Reception of messages that ends the association if one is too long or malformed."""

    def __init__(self, association: Association, max_bytes: int) -> None:
        super().__init__(association)
        self._max_bytes = max_bytes + MAX_COMMAND_BYTES
        self._received = self._command = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in a part of a message."""
        parts = [data for _, data in primitive.presentation_data_value_list]
        self._received += sum(map(len, parts))
        # Bit 0 of the header of a part (PS3.8 section E.2).
        self._command += sum(len(data) for data in parts if data and data[0] & 1)
        if self._received > self._max_bytes or self._command > MAX_COMMAND_BYTES:
            self._end("a message exceeds the size limit")
            return
        try:
            super().receive_primitive(primitive)
        except Exception as error:
            self._end(f"a message is malformed ({type(error).__name__})")
            return
        if self.message is None:
            self._received = self._command = 0
            # A sender must wait for each answer.
            if self.msg_queue.qsize() > 1:
                self._end("messages arrive without waiting for answers")

    def _end(self, reason: str) -> None:
        self.message = None
        if not self.assoc._sent_abort:
            _log.warning(f"an association was aborted: {reason}")
        self.assoc.abort(block=False)


def end(association: Association, seconds: float = 1.0) -> None:
    """Abort an association from another thread, also if it waits for the other side.

    Args:
        association: Association of either side.
        seconds: Time that the other side is given to receive the abort.
    """
    # pynetdicom's thread fails if it is told to abort an association that is not established.
    if association.is_established:
        association.abort(block=False)
        association.dul.join(seconds)
    disconnect(association)


def disconnect(association: Association) -> None:
    """Cut the connection of an association, so that all waits for the other side end."""
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        connections.cut(connection.socket)
