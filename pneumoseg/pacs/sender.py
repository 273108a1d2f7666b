"""Senders of results: C-STORE here, STOW-RS in `stow`."""

import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from pneumoseg.pacs import associations
from pneumoseg.pacs.delivery import (
    CONNECT_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    BusyError,
    Refusal,
    UnreachableError,
    judge,
    settle,
)
from pneumoseg.pacs.stow import StowSender

__all__ = ["Refusal", "StoreSender", "StowSender", "UnreachableError"]


_LASTING = (3, 4)
"""Results of a presentation context that say what the receiver does not support: SOP class, transfer syntax."""


class _Kind(NamedTuple):
    """UIDs of the SOP class and of the transfer syntax of a file."""

    sop_class: str
    syntax: str


class StoreSender:
    """Sender of DICOM files by C-STORE to one application entity.

    Files are sent as they are: for each SOP class and transfer syntax of them a presentation context is proposed, and
    nothing is encoded again.

    A file is delivered or refused by its status, see `delivery.judge`, and refused if the receiver says that it does
    not support its SOP class or its transfer syntax. Everything else may pass: no connection, a rejected or aborted
    association, an AE title that is not recognised and may be entered yet, a presentation context that is left out or
    refused for no reason, no answer, other statuses.

    Args:
        aet_to: AE title of the receiver.
        host: Name or address of the receiver.
        port: Port of the receiver.
        aet: AE title of the sender.
        tls: Context from `tls.client_context`; None for connections that are not encrypted.

    Raises:
        ValueError: If an AE title is not one.

    Example:
        >>> sender = StoreSender("ORTHANC", "127.0.0.1", 4242)
        >>> sender.send([Path("result.dcm")], delivered=Path.unlink)  # doctest: +SKIP
        []
    """

    def __init__(
        self, aet_to: str, host: str, port: int, aet: str = "PNEUMOSEG", tls: ssl.SSLContext | None = None
    ) -> None:
        """Check the AE titles; no connection is made yet."""
        self._aet_to, self._aet = associations.require_aet(aet_to), associations.require_aet(aet)
        self._host, self._port, self._tls = host, port, tls
        self._association: Association | None = None
        self._closed = False

    def send(self, files: Sequence[Path], delivered: Callable[[Path], None]) -> list[Refusal]:
        """Send files in one association.

        Args:
            files: Paths of DICOM files.
            delivered: Function that is called with the path of each file as soon as the receiver has confirmed it.

        Returns:
            The files that were refused for good.

        Raises:
            UnreachableError: If a file could not be sent. Others may have been delivered. It is a `BusyError` if an
                association came about.
        """
        kinds = {path: _read_kind(path) for path in files}
        refusals = [Refusal(path, kind) for path, kind in kinds.items() if isinstance(kind, str)]
        sound = {path: kind for path, kind in kinds.items() if not isinstance(kind, str)}
        if not sound:
            return refusals
        association = self._associate(sorted(set(sound.values())))
        try:
            return refusals + _send_all(association, sound, delivered)
        finally:
            association.release()
            self._association = None

    def close(self) -> None:
        """End a running `send` from another thread, by an `UnreachableError` in it, and all later ones."""
        self._closed = True
        if self._association is not None:
            associations.disconnect(self._association)

    def _associate(self, kinds: Sequence[_Kind]) -> Association:
        """Return an association that the receiver answered, though it may have accepted none of the contexts."""
        if self._closed:
            raise UnreachableError("the sender was closed")
        self._association = None
        entity = AE(self._aet)
        entity.connection_timeout = CONNECT_SECONDS
        entity.acse_timeout = entity.dimse_timeout = associations.ANSWER_SECONDS
        entity.network_timeout = associations.NETWORK_SECONDS
        contexts = [build_context(kind.sop_class, [kind.syntax]) for kind in kinds]
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, self._connected)]
        tls = (self._tls, self._host) if self._tls else None
        try:
            association = entity.associate(
                self._host, self._port, contexts, self._aet_to, tls_args=tls, evt_handlers=handlers
            )
        except OSError as error:
            raise UnreachableError(f"the address of the receiver is not known ({type(error).__name__})") from None
        if association.is_rejected:
            reason = association.acceptor.primitive.reason_str  # type: ignore[union-attr]
            raise UnreachableError(f"the receiver rejected the association: {reason}")
        if self._association is None and not self._closed:
            reason = _explain(self._host, self._port, self._tls)
            raise UnreachableError(f"the receiver cannot be connected to: {reason}")
        if not association.is_established and not association.rejected_contexts:
            raise UnreachableError("the receiver ended the connection, or does not answer")
        return association

    def _connected(self, event: evt.Event) -> None:
        associations.limit(event.assoc)
        self._association = event.assoc
        if self._closed:
            associations.disconnect(event.assoc)


def _explain(host: str, port: int, tls: ssl.SSLContext | None) -> str:
    """Return why a connection fails, which pynetdicom does not tell, by making one more."""
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            if tls:
                tls.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted ({error.verify_message})"
    except OSError as error:
        return error.strerror or type(error).__name__
    return "the attempt failed, though another one succeeded"


def _read_kind(path: Path) -> _Kind | str:
    """Return the kind of a file, or why it has none."""
    try:
        meta = read_file_meta_info(path)
        return _Kind(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    except Exception as error:  # whatever a malformed file makes pydicom raise
        return f"is not a DICOM file that can be read ({type(error).__name__})"


def _judge_kinds(association: Association) -> tuple[set[_Kind], set[_Kind]]:
    """Return the proposed kinds that the receiver accepts, and those that it does not support.

    It may have left out others, or have refused them without a reason (1 and 2 of PS3.8 table 9-18).
    """
    proposed = {
        context.context_id: _Kind(str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in association.requestor.requested_contexts
    }
    accepted = {
        kind
        for context in association.accepted_contexts
        if [(kind := proposed[context.context_id]).syntax] == context.transfer_syntax
    }
    rejected = {proposed[context.context_id] for context in association.rejected_contexts if context.result in _LASTING}
    return accepted, rejected


def _send_all(
    association: Association, kinds: Mapping[Path, _Kind], delivered: Callable[[Path], None]
) -> list[Refusal]:
    """Send files, and return those that were refused for good.

    Raises:
        BusyError: If a file has to be sent again; the others were sent if the association lasted.
    """
    accepted, unsupported = _judge_kinds(association)

    def refuse(path: Path) -> str:
        if kinds[path] in accepted:
            return judge(_store(association, path))
        return _refuse(kinds[path] in unsupported)

    return settle(kinds, refuse, delivered)


def _refuse(for_good: bool) -> str:
    """Return why a file without a presentation context is refused.

    Raises:
        BusyError: If it is not for good.
    """
    if for_good:
        return "the receiver does not accept its kind"
    raise BusyError("the receiver did not judge the kind of a file")


def _store(association: Association, path: Path) -> int:
    """Send a file and return the status of the answer.

    Raises:
        BusyError: If there is none.
    """
    try:
        association.dimse_timeout = associations.ANSWER_SECONDS + path.stat().st_size / SLOWEST_BYTES_PER_SECOND
        answer = association.send_c_store(path)
    except (OSError, RuntimeError) as error:  # the latter if the association ended since the last file
        raise BusyError(f"the association failed ({type(error).__name__})") from None
    if "Status" not in answer:
        raise BusyError("the receiver ended the association, or does not answer")
    return int(answer.Status)
