"""Connections of a receiver: a server that bounds their number and their waits."""

import contextlib
import logging
import socket
import sys
import threading
import time
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from pneumoseg.pacs.reasons import describe

MAX_CONNECTIONS = 16
"""Number of open connections, of which some have not asked for an association yet; a further one is closed at once."""
REQUEST_SECONDS = 5.0
"""Longest time that a handshake may take, and then that a client may take to ask for an association."""
MAX_REQUEST_BYTES = 2**16
"""Longest request for an association; usual ones have 200 to 20,000 bytes, and pynetdicom reads 100,000 per second."""

_log = logging.getLogger(__name__)
_MINUTE = 60.0
_MOST_LINES = 10
_now = time.monotonic


class Warnings:
    """Log lines about connections, few enough that nobody who reaches the port can fill a disk with them.

    A text appears once in a minute, and at most ten texts do. A line at its end counts the others.

    Example:
        >>> warnings = Warnings()
        >>> warnings.warn("a connection failed")
    """

    def __init__(self) -> None:
        """Begin with no line."""
        self._lock, self._told, self._omitted, self._until = threading.Lock(), set[str](), 0, 0.0

    def warn(self, text: str) -> None:
        """Log a text, or count it."""
        with self._lock:
            if text in self._told or len(self._told) == _MOST_LINES:
                self._omitted += 1
                return
            if not self._told:
                self._until = _now() + _MINUTE
            self._told.add(text)
        _log.warning(text)

    def sum_up(self, at_once: bool = False) -> None:
        """Log how many texts were left out, if a minute has passed.

        Args:
            at_once: Whether not to wait for the end of the minute.
        """
        with self._lock:
            if not self._told or (_now() < self._until and not at_once):
                return
            omitted, self._omitted = self._omitted, 0
            self._told.clear()
        if omitted:
            _log.warning(f"{omitted} more connections failed or were turned away within a minute")


class Server(ThreadedAssociationServer):
    """Server on which clients that say nothing cost little, and hold up nobody.

    It makes the TLS handshake, and waits for the first byte, in a thread of the connection that sleeps. Only then does
    pynetdicom get the connection, of which it polls each a thousand times per second.

    Attributes:
        warnings: Log lines about connections.
    """

    daemon_threads = True
    request_queue_size = 4 * MAX_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Bind the port; the arguments are those of the base class."""
        self.warnings = Warnings()
        self._silent: set[socket.socket] = set()
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, without the handshake."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection may stay open."""
        if len(self._silent) + len(self.active_associations) >= MAX_CONNECTIONS:
            self.warnings.warn(f"a connection was closed at once: {MAX_CONNECTIONS} are open already")
            return False
        self._silent.add(request)
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it is an association."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._silent.discard(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make the handshake, wait for the client, then let pynetdicom serve the connection."""
        request.settimeout(REQUEST_SECONDS)
        if self.ssl_context:
            request.do_handshake()
        if not _speaks(request) or request not in self._silent:
            self.shutdown_request(request)
            return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the class of an error, which the base class would print with its text."""
        error = sys.exc_info()[1]
        assert error is not None
        self.warnings.warn(f"a connection failed before it became an association ({describe(error)})")

    def service_actions(self) -> None:
        """Tidy up, between two connections."""
        super().service_actions()
        self.warnings.sum_up()

    def cut_silent(self) -> None:
        """Cut the connections that have not sent a byte yet."""
        for connection in list(self._silent):
            cut(connection)
        self._silent.clear()


def cut(connection: socket.socket) -> None:
    """End a connection, so that all waits for the other side end.

    Args:
        connection: Connection, which may be closed already.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _speaks(connection: socket.socket) -> bool:
    """Return whether a client sends a byte in time, which stays to be read."""
    try:
        # Below TLS, which cannot look ahead; the handshake has taken all bytes before.
        return socket.socket.recv(connection, 1, socket.MSG_PEEK) != b""
    except OSError:
        return False
