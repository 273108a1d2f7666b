"""Service that takes images from a queue, runs the pipeline on them, and sends the results."""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset

from pneumoseg.dicom_objects import KINDS, OwnObjectError, read_source
from pneumoseg.folder_lock import locked_folder
from pneumoseg.pacs.delivery import BusyError, UnreachableError
from pneumoseg.pacs.passing_faults import is_full, may_pass
from pneumoseg.pacs.reasons import describe
from pneumoseg.pacs.spool import Spool

if TYPE_CHECKING:
    from pneumoseg.inference import Pipeline
    from pneumoseg.pacs.receiver import Receiver
    from pneumoseg.pacs.sender import StoreSender, StowSender

_log = logging.getLogger(__name__)

MOST_ATTEMPTS = 10
"""Number of attempts at an image that may end early, with the process or by a lack of resources, before it has failed.
A full disk and a stop do not count."""
LONGEST_PAUSE_S = 300.0
"""Longest pause before the next attempt to reach the receiver of the results, or to send those of one image."""
LONGEST_LOCAL_PAUSE_S = 30.0
"""Longest pause after a full disk or another lack of resources of this computer."""
MARKER_DAYS = 365.0
"""Number of days for which the service knows an image that it was sent before."""
_POLL_S = 1.0
_FIRST_PAUSE_S = 1.0
_SEND_GRACE_S = 10.0


class Service:
    """Loop over a queue: images in, results out, nothing lost on the way.

    The pipeline runs on one image at a time, so its results do not depend on what else waits. A thread sends them.
    While the receiver of the results cannot be reached, or the disk is full, the service pauses and tries again; pauses
    double from 1 s to `LONGEST_PAUSE_S` or `LONGEST_LOCAL_PAUSE_S`. Results that the receiver answers with "not now"
    wait in the same way, and hold up no others. An image without results is put aside with a reason, as are results
    that the receiver refuses.

    Logs tell the key of the image, its state, and classes of errors; never a name, an id, a UID, a path or the text of
    an error.

    Args:
        spool: The queue.
        pipeline: The networks and the rule, from a folder; see `load_pipeline`.
        receiver: Source of the images; `run` starts and stops it.
        sender: Target of the results.
        kinds: Kinds of objects to make, see `make_objects`.
        strict: Whether segmentations lack the geometry that viewers want and radiographs have not, see `make_objects`.

    Attributes:
        counts: Numbers of images by what happened to them since the start.

    Example:
        >>> service = Service(spool, pipeline, receiver, sender)  # doctest: +SKIP
        >>> service.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        spool: Spool,
        pipeline: "Pipeline",
        receiver: "Receiver",
        sender: "StoreSender | StowSender",
        kinds: Sequence[str] = KINDS,
        *,
        strict: bool = False,
    ) -> None:
        """Keep the parts; nothing is started yet."""
        self.counts: Counter[str] = Counter()
        self._spool, self._pipeline, self._receiver, self._sender = spool, pipeline, receiver, sender
        self._kinds, self._strict = kinds, strict
        self._arrived, self._made, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._counting, self._prune_at = threading.Lock(), 0.0
        self._fault: Exception | None = None
        self._running = ""

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is called from another thread or a handler of a signal.

        The running image is finished. Results that are being sent may be finished for some seconds; else they stay in
        the queue, like all that waits.

        Args:
            started: Function that is called once images can be received.

        Raises:
            FileExistsError: If another process serves the queue.
            OSError: If the port is taken.
        """
        with locked_folder(self._spool.folder, "served"):
            self._recover()
            self._receiver.start()
            sending = threading.Thread(target=self._guarded(self._send_all), name="sender", daemon=True)
            sending.start()
            try:
                started()
                self._guarded(self._predict_all)()
            finally:
                self.stop()
                self._receiver.stop()
                sending.join(_SEND_GRACE_S)
                self._sender.close()
                sending.join(_SEND_GRACE_S)
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """Make `run` return soon; may be called at any time, and more than once."""
        self._stopping.set()
        self._arrived.set()
        self._made.set()

    def abandon(self) -> None:
        """Say that the process will end now, within the work on an image, which is not the image's fault.

        Raises:
            OSError: If the attempt cannot be withdrawn.
        """
        if self._running:
            self._spool.withdraw(self._running)

    def notice(self, key: str) -> None:
        """Take notice of a new image; without it the service finds the image within a second or so."""
        self._count("received")
        self._arrived.set()

    def _recover(self) -> None:
        twice, status = self._spool.recover(), self._spool.status()
        _log.info(
            f"queue: {status.new} new, {status.out} out, {status.done} done, {len(status.failures)} failed; "
            f"{twice} images were in two states"
        )
        if not self._spool.has_space():
            _log.error("the disk of the queue is full: no image is accepted")

    def _prune(self) -> None:
        """Remove old markers, once a day."""
        if time.monotonic() >= self._prune_at:
            if pruned := self._spool.prune(MARKER_DAYS):
                _log.info(f"{pruned} markers of images removed that were done {MARKER_DAYS:g} days ago")
            self._prune_at = time.monotonic() + 86400

    def _guarded(self, loop: Callable[[], None]) -> Callable[[], None]:
        """Return a function that runs a loop, and after an error that nobody foresaw stops the service."""

        def run() -> None:
            try:
                loop()
            except Exception as error:
                self._fault = error
                self.stop()

        return run

    def _predict_all(self) -> None:
        pauses = _Pauses(self._stopping, LONGEST_LOCAL_PAUSE_S)
        while not self._stopping.is_set():
            self._arrived.clear()
            keys = list[str]()
            with self._pausing(pauses, "the queue stays as it is"):
                self._prune()
                keys = self._spool.waiting()
            for key in keys:
                if self._stopping.is_set():
                    return
                with self._pausing(pauses, f"{key} stays new"):
                    self._predict(key)
                    pauses.reset()
            self._wait(self._arrived)

    @contextlib.contextmanager
    def _pausing(self, pauses: "_Pauses", state: str) -> Iterator[None]:
        """Pause after an error that may pass, and log it with a text that tells the state."""
        try:
            yield
        except Exception as error:
            if not may_pass(error):
                raise
            if not self._stopping.is_set():
                _log.warning(f"{state}, pause of {pauses.next_s:g} s: {_describe(error)}")
            pauses.wait()

    def _predict(self, key: str) -> None:
        """Move an image on: to its results, or to the failed ones.

        Raises:
            Exception: If a fault that may pass kept it; the image then still waits.
        """
        number = self._spool.begin(key)
        self._running = key
        try:
            self._advance(key, number)
        except Exception as error:
            if is_full(error):
                self._spool.withdraw(key)
            raise
        finally:
            self._running = ""

    def _advance(self, key: str, number: int) -> None:
        if number > MOST_ATTEMPTS:
            self._fail(key, f"{MOST_ATTEMPTS} attempts ended without a result, the last one with the process")
            return
        try:
            self._make_results(key)
        except Exception as error:
            if may_pass(error) and (number < MOST_ATTEMPTS or is_full(error)):
                raise
            self._fail(key, describe(error))

    def _make_results(self, key: str) -> None:
        try:
            objects, event = self._objects(self._spool.image(key)), "predicted"
        except OwnObjectError:
            # A router sends results back; nobody needs to look after each of them.
            objects, event = {}, "sent back"
        self._spool.keep_results(key, objects)
        self._count(event)
        _log.info(f"{key} out: {', '.join(objects) or f'nothing, {event}'}")
        self._made.set()

    def _objects(self, path: Path) -> dict[str, Dataset]:
        read_source(path)  # images that get no objects are refused before the networks run
        return self._pipeline.predict(path).to_dicom(self._kinds, strict=self._strict)

    def _send_all(self) -> None:
        pauses, delays = _Pauses(self._stopping, LONGEST_PAUSE_S), _Delays()
        while not self._stopping.is_set():
            self._made.clear()
            keys = list[str]()
            with self._pausing(pauses, "the results stay out"):
                keys = self._spool.unsent()
            delays.keep(keys)
            for key in keys:
                if self._stopping.is_set():
                    return
                if not delays.is_over(key):
                    continue
                # The next attempt takes the next image, in case it is this one that the receiver stumbles over.
                with self._pausing(pauses, f"{key} stays out"):
                    try:
                        self._send(key)
                    except BusyError as error:
                        if not self._stopping.is_set():
                            _log.warning(f"{key} stays out for {delays.begin(key):g} s: {error}")
                    pauses.reset()
            self._wait(self._made)

    def _send(self, key: str) -> None:
        """Send the results of an image, and move it on.

        Raises:
            Exception: If a fault that may pass kept them, such as an `UnreachableError`; undelivered results stay.
        """
        files = self._spool.results(key)
        try:
            refusals = self._sender.send(files, Path.unlink) if files else []
        except Exception as error:
            if isinstance(error, OSError) or may_pass(error):
                raise
            self._fail(key, describe(error))
            return
        if refusals:
            self._fail(key, "; ".join(sorted(f"{refusal.path.stem}: {refusal.reason}" for refusal in refusals)))
            return
        if self._spool.results(key):
            raise BusyError("results were not confirmed")
        self._spool.finish(key)
        self._count("delivered")
        _log.info(f"{key} done")

    def _fail(self, key: str, reason: str) -> None:
        self._spool.fail(key, reason)
        self._count("failed")
        _log.warning(f"{key} failed: {reason}")

    def _count(self, event: str) -> None:
        with self._counting:
            self.counts[event] += 1

    def _wait(self, event: threading.Event) -> None:
        """Wait for an event, or for a second: another process may have put an image back into the queue."""
        event.wait(_POLL_S)


class _Pauses:
    """Pauses that double, and end at once when the service stops."""

    def __init__(self, stopping: threading.Event, longest_s: float) -> None:
        self.next_s = _FIRST_PAUSE_S
        self._stopping, self._longest_s = stopping, longest_s

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self.next_s = _FIRST_PAUSE_S

    def wait(self) -> None:
        """Pause, and let the next pause be longer."""
        self._stopping.wait(self.next_s)
        self.next_s = min(self._longest_s, 2 * self.next_s)


class _Delays:
    """Times before which the results of single images are not sent again: pauses that double, one per image."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[float, float]] = {}

    def begin(self, key: str) -> float:
        """Begin the next delay of an image and return its length in seconds."""
        seconds = min(LONGEST_PAUSE_S, 2 * self._ends[key][1]) if key in self._ends else _FIRST_PAUSE_S
        self._ends[key] = time.monotonic() + seconds, seconds
        return seconds

    def is_over(self, key: str) -> bool:
        """Return whether the results of an image may be sent."""
        return key not in self._ends or time.monotonic() >= self._ends[key][0]

    def keep(self, keys: Sequence[str]) -> None:
        """Forget all images but these."""
        self._ends = {key: self._ends[key] for key in keys if key in self._ends}


def _describe(error: Exception) -> str:
    """Return the text of an error if it is known to be free of patient data, else its class and reason."""
    if isinstance(error, UnreachableError):
        return str(error)
    return describe(error)
