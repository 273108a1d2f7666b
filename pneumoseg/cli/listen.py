"""Commands of the service for a PACS: `listen` runs it, `queue` shows and repairs its queue."""

import contextlib
import faulthandler
import ipaddress
import os
import re
import signal
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import urlsplit

import typer

from pneumoseg.cli.app import Assembled, Engine, PipelinePath, app, output_folder, require_pipeline
from pneumoseg.cli.pacs import Objects, Strict, keep_libraries_from_writing, parse_kinds, require_extra
from pneumoseg.folder_lock import locked_folder

if TYPE_CHECKING:
    from pneumoseg.inference import Pipeline
    from pneumoseg.pacs.event_log import EventLog
    from pneumoseg.pacs.sender import StoreSender, StowSender
    from pneumoseg.pacs.service import Service
    from pneumoseg.pacs.spool import Spool, Status

STOP_S = 25.0
"""Longest time between a signal and the end of the process, whatever the networks or the receiver are doing."""
_MOST_KEYS = 20
_ADDRESS = re.compile(r"(?:(?P<name>[^\s:\[\]]+)|\[(?P<number>[0-9a-fA-F:.]+)\]):(?P<port>\d{1,5})")


class Target(NamedTuple):
    """Receiver of the results: an application entity, or a URL for STOW-RS if `aet` is empty.

    Attributes:
        text: The text that the user gave.
        aet: AE title.
        host: Name or address.
        port: Port.
        encrypted: Whether the connection is encrypted.
    """

    text: str
    aet: str
    host: str
    port: int
    encrypted: bool


@app.command()
def listen(
    pipeline: PipelinePath,
    spool: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the queue.", callback=output_folder)],
    accept: Annotated[str, typer.Option(metavar="AET,...", help="AE titles that may send images.")],
    to: Annotated[str | None, typer.Option(metavar="AET@HOST:PORT", help="Receiver of the results.")] = None,
    stow: Annotated[str | None, typer.Option(metavar="URL", help="Receiver of the results by STOW-RS.")] = None,
    aet: Annotated[str, typer.Option(metavar="AET", help="AE title of this service.")] = "PNEUMOSEG",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 11112,
    tls: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option(metavar="CERT KEY CA", help="Receive with TLS and client certificates only: files in PEM format."),
    ] = None,
    to_tls: Annotated[bool, typer.Option("--to-tls", help="Also send with TLS and these certificates.")] = False,
    unencrypted: Annotated[
        bool, typer.Option("--unencrypted", help="Allow other computers without TLS: the network is trusted.")
    ] = False,
    max_mb: Annotated[int, typer.Option(help="Largest image that is received, in MB.", min=1, max=2048)] = 256,
    objects: Objects = "seg,sr,sc",
    strict: Strict = False,
    assembled: Assembled = False,
    engine: Engine = "keras",
) -> None:
    """Receive images from a PACS and send it the results.

    Listens for C-STORE, queues images on the disk, runs the pipeline on one at a time, and sends the results back as
    DICOM objects. Nothing is lost over a restart, a full disk, or a receiver that is down; see `pneumoseg queue`. Ends
    on SIGTERM or Ctrl-C within 30 seconds. Logs hold no patient data. For research; not for diagnosis.
    """
    kinds, target = parse_kinds(objects), _target(to, stow, to_tls=to_tls)
    require_extra("pacs", "pynetdicom", "requests", "highdicom")
    if to_tls and tls is None:
        raise ValueError("--to-tls sends with the certificates of --tls: name them")
    if not unencrypted:
        _require_encryption(host, target, received_with_tls=tls is not None)
    if (target.aet, target.host, target.port) == (aet, host, port):
        raise ValueError(f"--to {target.text} is this service itself: name the PACS that gets the results")
    require_pipeline(pipeline)
    _require_free_port(host, port)

    from pneumoseg.pacs.receiver import Receiver
    from pneumoseg.pacs.service import Service
    from pneumoseg.pacs.spool import Spool
    from pneumoseg.pacs.tls import server_context

    queue = Spool(spool)
    context = server_context(*tls) if tls else None
    receiver = Receiver(
        queue, accept.split(","), aet, host, port, context, max_mb * 2**20, lambda key: service.notice(key)
    )
    sender = _sender(target, aet, tls)
    with locked_folder(queue.folder, "served"):  # before the networks are loaded, which takes seconds
        log = _prepare_process()
        networks = _load(pipeline, assembled=assembled, engine=engine)
        log.install()
    service = Service(queue, networks, receiver, sender, kinds, strict=strict)
    serve(
        service,
        log,
        lambda: typer.echo(f"listening as {aet} on {host} port {receiver.port}, results go to {target.text}"),
    )


@app.command()
def queue(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the queue of `pneumoseg listen`.")],
    retry: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Put a failed image back into the queue, or all of them with `all`."),
    ] = None,
) -> None:
    """Show the queue of `listen`: counts by state, and why images failed.

    Works while the service runs, and changes nothing without --retry. The exit status is 1 if no failed image has one
    of the keys.
    """
    from pneumoseg.pacs.spool import Spool

    spool, keys = Spool(folder, make=False), retry or []
    if "all" in keys:
        keys = [failure.key for failure in spool.status().failures]
    unknown = [key for key in keys if not _retry(spool, key)]
    _show(spool.status())
    if unknown:
        raise typer.Exit(1)


def _retry(spool: "Spool", key: str) -> bool:
    """Put a failed image back into the queue, and return whether there was one with this key."""
    try:
        spool.retry(key)
    except ValueError as error:
        typer.secho(f"pneumoseg: {error}", fg="red", err=True)
        return False
    typer.echo(f"{key} is back in the queue")
    return True


def _show(status: "Status") -> None:
    oldest = f", the oldest for {timedelta(seconds=round(status.oldest_s))}" if status.new + status.out else ""
    typer.echo(
        f"{status.new} images wait for the networks (new), the results of {status.out} to be sent (out){oldest}; "
        f"{status.done} done, {len(status.failures)} failed"
    )
    by_reason = defaultdict[str, list[str]](list)
    for failure in status.failures:
        by_reason[failure.reason].append(failure.key)
    for reason, keys in by_reason.items():
        typer.echo(f"{len(keys)} failed: {reason}")
        for key in keys[-_MOST_KEYS:]:
            typer.echo(f"  {key}")
        if len(keys) > _MOST_KEYS:
            typer.echo(f"  ... and {len(keys) - _MOST_KEYS} earlier ones")


def _target(to: str | None, stow: str | None, *, to_tls: bool) -> Target:
    """Return the receiver of the results that the options name.

    Raises:
        ValueError: If they name none or two, or one that cannot be understood.
    """
    if (to is None) == (stow is None):
        raise ValueError("name one receiver of the results, by --to AET@HOST:PORT or by --stow URL")
    if to is not None:
        title, _, address = to.rpartition("@")
        parts = _ADDRESS.fullmatch(address)
        if not title or parts is None or not 1 <= int(parts["port"]) <= 65535:
            raise ValueError(f"--to is {to!r}: expected AET@HOST:PORT, such as PACS@127.0.0.1:104 or PACS@[::1]:104")
        return Target(to, title, parts["name"] or parts["number"], int(parts["port"]), to_tls)
    if to_tls:
        raise ValueError("--to-tls belongs to --to: name an https URL with --stow")
    url = urlsplit(str(stow))
    if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
        raise ValueError("--stow: expected an http or https URL without a user in it")
    return Target(str(stow), "", url.hostname, 0, url.scheme == "https")


def _require_encryption(host: str, target: Target, *, received_with_tls: bool) -> None:
    """Refuse connections with other computers without TLS: AE titles do not authenticate.

    Raises:
        ValueError: If there would be any.
    """
    remedy = "or --unencrypted if the network between is trusted"
    if not received_with_tls and not _is_loopback(host):
        raise ValueError(f"--host {host} lets other computers connect without TLS: give --tls CERT KEY CA, {remedy}")
    if not target.encrypted and not _is_loopback(target.host):
        secure = "--tls CERT KEY CA and --to-tls" if target.aet else "an https URL"
        raise ValueError(f"{target.text} is another computer, without TLS: give {secure}, {remedy}")


def _require_free_port(host: str, port: int) -> None:
    """Check that the port can be listened on, before the networks are loaded, which takes seconds.

    Raises:
        OSError: If it is taken, or the address is not one of this computer.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise OSError(
            f"cannot listen on {host} port {port} ({error.strerror}): stop what uses it, or name another"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sender(target: Target, aet: str, tls: tuple[Path, Path, Path] | None) -> "StoreSender | StowSender":
    from pneumoseg.pacs.sender import StoreSender, StowSender
    from pneumoseg.pacs.tls import client_context

    context = client_context(*tls) if tls and target.encrypted else None
    if target.aet:
        return StoreSender(target.aet, target.host, target.port, aet, context)
    return StowSender(target.text, context)


def _prepare_process() -> "EventLog":
    """Keep other users from the files of this process, and patient data from its log, which is returned."""
    from pneumoseg.pacs.event_log import EventLog

    faulthandler.enable()  # tells the functions of a crash, and no values
    signal.signal(signal.SIGTERM, _leave)
    os.umask(0o077)
    socket.setdefaulttimeout(None)  # the command line sets one for downloads
    log = EventLog()
    log.install()
    return log


def _load(folder: Path, *, assembled: bool, engine: str) -> "Pipeline":
    """Load the networks, and run each once: the first run takes seconds."""
    import numpy as np

    with keep_libraries_from_writing():
        from pneumoseg.inference import load_pipeline

    networks = load_pipeline(folder, 1, assembled=assembled, engine=engine)
    list(networks.predict_many([np.zeros((64, 64), np.uint8)], keep_maps=True))
    return networks


def serve(service: "Service", log: "EventLog", started: Callable[[], None]) -> None:
    """Serve until a signal, in a thread, so that signals are handled at once whatever the networks do.

    Raises:
        OSError: If the service cannot start.
    """
    signals, is_started = list[int](), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))

    def start() -> None:
        started()
        is_started.set()

    serving = ThreadPoolExecutor(1).submit(service.run, start)
    while not serving.done() and not signals:
        wait([serving], 0.2)
    service.stop()
    wait([serving], STOP_S)
    log.sum_up(service.counts)
    if not serving.done():
        with contextlib.suppress(OSError):
            service.abandon()
        os._exit(0)  # the running image stays in the queue
    error = serving.exception()
    if error is not None and not is_started.is_set():
        raise error
    if error is not None:
        log.tell_class(type(error))
        raise typer.Exit(1)


def _leave(*_: object) -> None:
    """End a process that has not begun to serve."""
    raise SystemExit(0)
