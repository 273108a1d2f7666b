"""Receiver of images: a C-STORE SCP that confirms an image once the queue has it on the disk."""

import io
import logging
import os
import ssl
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from socketserver import BaseServer
from typing import Any, cast

from pydicom import uid
from pydicom.filereader import read_dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from pneumoseg.dicom import TRANSFER_SYNTAXES
from pneumoseg.dicom_objects import SOP_CLASSES
from pneumoseg.pacs import associations, connections
from pneumoseg.pacs.associations import require_aet
from pneumoseg.pacs.reasons import describe
from pneumoseg.pacs.spool import Added, Spool, key_of

MAX_BYTES = 256 * 2**20
"""Largest data set that is received by default, in bytes; larger files are not read either."""
MAX_ASSOCIATIONS = 4
"""Number of associations at a time, of clients that asked for one; a further one is rejected as a passing fault."""
STOP_SECONDS = 5.0
"""Time that running associations are given to finish when the receiver stops."""

SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of a C-STORE response (PS3.4 section B.2.3)."""

_log = logging.getLogger(__name__)
_HEAD_BYTES = 2**16
# At every sixtieth poll pynetdicom collects garbage.
_POLL_SECONDS = 0.5
_INSTANCE = 0x00080018


class Receiver:
    """C-STORE and C-ECHO service of a DICOM application entity.

    An image is confirmed with status 0x0000 once `Spool.add` has returned, so that it then survives a power cut. With
    any other answer, or none, its sender keeps it. An image that was received before is confirmed as well: its sender
    may have missed the first confirmation.

    The data set of an image is collected in memory, and reaches the disk once it is complete: at most
    `MAX_ASSOCIATIONS` times `max_bytes`. An association is aborted if an image is larger than that.

    Args:
        spool: Queue that takes over the images.
        accept: AE titles from which images are accepted. They do not prove who sends; certificates do, see `tls`.
        aet: AE title of the receiver, by which it must be called.
        host: Address to listen on; by default only this computer can connect.
        port: Port to listen on; 0 means a free one, see `port`.
        tls: Context from `tls.server_context`; None for connections that are not encrypted.
        max_bytes: Largest data set that is received, in bytes.
        received: Function that is called with the key of each new image, from threads of the receiver.

    Attributes:
        port: Port that the receiver listens on.

    Raises:
        ValueError: If `accept` is empty, or an AE title is not one.

    Example:
        >>> receiver = Receiver(Spool("/var/lib/pneumoseg"), accept=["ORTHANC"])  # doctest: +SKIP
        >>> receiver.start()  # doctest: +SKIP
    """

    def __init__(
        self,
        spool: Spool,
        accept: Sequence[str],
        aet: str = "PNEUMOSEG",
        host: str = "127.0.0.1",
        port: int = 11112,
        tls: ssl.SSLContext | None = None,
        max_bytes: int = MAX_BYTES,
        received: Callable[[str], None] = lambda key: None,
    ) -> None:
        """Check the AE titles; nothing is opened yet."""
        # pynetdicom accepts anybody if the list is empty.
        if not accept:
            raise ValueError("no AE title to accept images from: name at least one")
        self.port = port
        self._spool, self._host, self._tls, self._max_bytes, self._received = spool, host, tls, max_bytes, received
        self._entity = AE(require_aet(aet))
        self._entity.require_calling_aet = [require_aet(title) for title in accept]
        self._entity.require_called_aet = True
        # Those that have not asked count there too; see `_admit`.
        self._entity.maximum_associations = connections.MAX_CONNECTIONS
        self._entity.maximum_pdu_size = associations.PDU_BYTES
        self._entity.add_supported_context(Verification)
        for sop_class in SOP_CLASSES:
            self._entity.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        self._server: connections.Server | None = None

    def start(self) -> None:
        """Listen for images, in threads of the receiver.

        Raises:
            OSError: If the port is taken, or the address is not one of this computer.
        """
        entity = self._entity
        entity.acse_timeout = connections.REQUEST_SECONDS
        entity.dimse_timeout = associations.ANSWER_SECONDS
        entity.network_timeout = associations.NETWORK_SECONDS
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._limit),
            (evt.EVT_CONN_CLOSE, _forget),
            (evt.EVT_REQUESTED, _admit),
            (evt.EVT_REJECTED, _log_rejection),
            (evt.EVT_C_STORE, self._store),
        ]
        address, contexts = (self._host, self.port), entity.supported_contexts
        try:
            server = connections.Server(entity, address, entity.ae_title, contexts, self._tls, evt_handlers=handlers)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(error.errno, f"cannot listen on {self._host} port {self.port}: {reason}") from error
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=[_POLL_SECONDS], daemon=True).start()

    def stop(self) -> None:
        """End the service: no association begins any more; running ones may finish for `STOP_SECONDS`, or are aborted.

        Connections that are not associations yet are cut. An image that was not confirmed stays with its sender.
        Nothing happens if the receiver does not run.
        """
        server, self._server = self._server, None
        if server is None:
            return
        BaseServer.shutdown(server)
        server.server_close()
        server.warnings.sum_up(at_once=True)
        server.cut_silent()
        for association in server.active_associations:
            if not association.is_established:
                associations.disconnect(association)
        deadline = time.monotonic() + STOP_SECONDS
        for association in filter(Association.is_alive, server.active_associations):
            association.join(max(0.0, deadline - time.monotonic()))
        for association in server.active_associations:
            associations.end(association)

    def _limit(self, event: evt.Event) -> None:
        associations.limit(event.assoc, self._max_bytes)
        if self._server is None:  # the receiver was stopped during the handshake
            associations.disconnect(event.assoc)

    def _store(self, event: evt.Event) -> int:
        """Answer a C-STORE request; logs hold no value from it."""
        try:
            return self._keep(event)
        except (OSError, MemoryError) as error:
            _log.error(f"an image cannot be stored ({describe(error)}), its sender keeps it")
            return OUT_OF_RESOURCES
        except Exception as error:
            _log.error(f"an image cannot be understood ({describe(error)}), its sender keeps it")
            return CANNOT_UNDERSTAND

    def _keep(self, event: evt.Event) -> int:
        """Put a received image into the queue and return the status to answer."""
        request = cast(C_STORE, event.request)
        instance, data = str(request.AffectedSOPInstanceUID or ""), cast(io.BytesIO, request.DataSet).getbuffer()
        if not instance or _read_instance(data, uid.UID(event.context.transfer_syntax)) != instance:
            _log.warning("an image is refused: its SOP Instance UID is missing, or differs from that of the request")
            return MISMATCH
        file = self._spool.temporary / f"{uuid.uuid4().hex}.dcm"
        try:
            _write(file, bytes(128) + b"DICM" + encode_file_meta(event.file_meta), data)
            added = self._spool.add(file, instance)
        finally:
            file.unlink(missing_ok=True)
        key = key_of(instance)
        _log.info(f"{key} received: {added.value}")
        if added is Added.NEW:
            self._received(key)
        return SUCCESS


def _read_instance(data: memoryview, syntax: uid.UID) -> str:
    """Return the SOP Instance UID of an encoded data set, '' if it has none."""
    head = bytes(data[:_HEAD_BYTES])
    if syntax.is_deflated:
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, _HEAD_BYTES)
    dataset = read_dataset(
        io.BytesIO(head), syntax.is_implicit_VR, syntax.is_little_endian, stop_when=lambda tag, *_: tag > _INSTANCE
    )
    # The raw value: pydicom would quote a malformed one in a warning.
    element = dataset.get_item(_INSTANCE)
    return (element.value or b"").decode("ascii", "replace").strip("\0 ") if element else ""


def _forget(event: evt.Event) -> None:
    """End the wait of a closed connection for a request, during which it would count as an association."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def _admit(event: evt.Event) -> None:
    """Reject an association beyond `MAX_ASSOCIATIONS`, as a passing fault."""
    server = cast(connections.Server, event.assoc._server)
    if sum(bool(other.requestor.primitive) for other in server.active_associations) > MAX_ASSOCIATIONS:
        event.assoc.acse.send_reject(0x02, 0x03, 0x02)
        _log_rejection(event)
        event.assoc.kill()


def _log_rejection(event: evt.Event) -> None:
    request = event.assoc.requestor.primitive
    if request:
        server = cast(connections.Server, event.assoc._server)
        titles = f"from {request.calling_ae_title!r} to {request.called_ae_title!r}"
        reason = f"not accepted, or more than {MAX_ASSOCIATIONS} at a time"
        server.warnings.warn(f"an association {titles} was rejected: {reason}")


def _write(path: Path, *parts: bytes | memoryview) -> None:
    """Write a new file that only the user of the process may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for part in parts:
            file.write(part)
