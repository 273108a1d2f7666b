#!/usr/bin/env python3
"""Forwarder of the chest X-rays that reach an Orthanc to `pneumoseg listen`; it loses none.

Orthanc numbers all changes. This script asks for those after the last one that it has seen, and has Orthanc send each
new frontal chest X-ray with C-STORE. It remembers in a file how far it came and which images wait, so that an image is
sent, later, if the listener, Orthanc or this script was down. It may send an image twice, which the listener takes.
Orthanc's own auto-routing with Lua sends an image once, and drops it if the listener does not answer.

Only the standard library of Python 3.10 or later is needed. Name and password of the user are read from ~/.netrc, or
from the file that the environment variable NETRC names. Messages hold counts, and nothing from a file. The file of the
state holds Orthanc's identifiers of images that wait.

Run with: python orthanc_forward.py STATE.json [--orthanc http://127.0.0.1:8042] [--modality pneumoseg] [--once]
"""

import argparse
import base64
import http.client
import json
import logging
import netrc
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

log = logging.getLogger("orthanc_forward")

# Edit these where your devices write other values.
MODALITIES = {"CR", "DX"}
BODY_PARTS = {"CHEST", "THORAX", "LUNG", "LUNGS"}  # one of the words, if there are any
VIEWS = {"", "PA", "AP"}
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"  # raw data of the detector
OUR_MANUFACTURER = "pneumoseg"  # results must not be routed back: that would be an endless loop

NO_X_RAY, OUR_RESULT, DELETED = "not an X-ray", "a result of pneumoseg", "deleted since"
NOT_COUNTED = ("", NO_X_RAY, OUR_RESULT, DELETED)
SECONDS_UNTIL_RETRY = 60.0
NO_ANSWER = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)


def unwanted(tags: Any) -> str:
    """Return why an instance is not a frontal chest X-ray that pneumoseg can work on; '' if it may be one.

    Many devices leave out the part of the body, or write more than it: an X-ray is passed over only if the words name
    another part.

    Args:
        tags: Orthanc's simplified tags of the instance.
    """
    tags = tags if isinstance(tags, dict) else {}
    part, view = _text(tags, "BodyPartExamined"), _text(tags, "ViewPosition")
    if _text(tags, "Modality") not in MODALITIES:
        return NO_X_RAY
    if tags.get("SOPClassUID") == DX_FOR_PROCESSING:
        return "raw data"
    if tags.get("Manufacturer") == OUR_MANUFACTURER:
        return OUR_RESULT
    if part and not BODY_PARTS & set(re.findall("[A-Z]+", part)):
        return "with another part of the body"
    return "" if view in VIEWS else "with another view"


def _text(tags: dict[str, Any], name: str) -> str:
    return str(tags.get(name) or "").strip().upper()


class Orthanc:
    """REST interface of one Orthanc.

    Args:
        url: Address, such as http://127.0.0.1:8042.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.headers = _authorization(urllib.parse.urlsplit(url).hostname or "")

    def get(self, path: str) -> Any:
        """Return the answer to a GET request.

        Raises:
            OSError: If Orthanc does not answer, or answers with an error.
        """
        return self._ask(path, None)

    def post(self, path: str, content: dict[str, Any]) -> Any:
        """Return the answer to a POST request.

        Raises:
            OSError: If Orthanc does not answer, or answers with an error.
        """
        return self._ask(path, json.dumps(content).encode())

    def _ask(self, path: str, content: bytes | None) -> Any:
        request = urllib.request.Request(self.url + path, content, self.headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())


def _authorization(host: str) -> dict[str, str]:
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except FileNotFoundError:
        entry = None
    except netrc.NetrcParseError as error:  # its text may quote a password
        raise ValueError("the .netrc file cannot be used: check its lines, and that only you can read it") from error
    if entry is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()}


def _read_state(file: Path) -> tuple[int, list[str]]:
    try:
        state = json.loads(file.read_text())
        return int(state["since"]), list(state["waiting"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} holds no state of this script: name another file, or delete a damaged one, and all is sent again"
        ) from error


class Forwarder:
    """Forwarder with a memory: how far it has read Orthanc's changes, and which images still have to be sent.

    Args:
        orthanc: Orthanc that receives the images.
        modality: Name of the listener in Orthanc's `DicomModalities`.
        file: File of the state.
        new_only: Whether to start with the images that come from now on, if there is no such file yet.

    Raises:
        ValueError: If the file holds something else.
    """

    def __init__(self, orthanc: Orthanc, modality: str, file: Path, new_only: bool = False) -> None:
        self.orthanc = orthanc
        self.modality = modality
        self.file = file
        self.since: int | None = None if new_only else 0
        self.waiting: list[str] = []
        if file.exists():
            self.since, self.waiting = _read_state(file)
        self._not_before: dict[str, float] = {}

    def collect(self) -> None:
        """Read the new changes, note which images have to be sent, and log how many X-rays do not.

        Raises:
            OSError: If Orthanc does not answer. The next call goes on where this one stopped.
        """
        last = self.orthanc.get("/changes?last")["Last"]
        if self.since is None:
            self.since = last
            self._save()
        if last < self.since:
            log.warning("Orthanc counts its changes from the start again, so all of its images are looked at")
            self.since = 0
        passed_over: Counter[str] = Counter()
        try:
            while not self._read_page(passed_over):
                pass
        finally:
            _log_passed_over(passed_over)

    def _read_page(self, passed_over: Counter[str]) -> bool:
        """Read some changes, and return whether they were the last."""
        page = self.orthanc.get(f"/changes?since={self.since}&limit=100")
        new = [change["ID"] for change in page["Changes"] if change["ChangeType"] == "NewInstance"]
        reasons = {instance: self._unwanted(instance) for instance in new if instance not in self.waiting}
        self.waiting += [instance for instance, reason in reasons.items() if not reason]
        self.since = page["Last"]
        if page["Changes"]:
            self._save()
        passed_over.update(reasons.values())
        return bool(page["Done"])

    def _unwanted(self, instance: str) -> str:
        try:
            return unwanted(self.orthanc.get(f"/instances/{instance}/simplified-tags"))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return DELETED
            raise

    def send(self) -> int:
        """Send the images that wait, and return how many were sent.

        An image that the listener does not take is tried again after a minute, and does not hold up the others.

        Raises:
            OSError: If Orthanc or the listener does not answer.
        """
        sent = 0
        for instance in list(self.waiting):
            if time.monotonic() < self._not_before.get(instance, 0.0):
                continue
            if self._send(instance):
                sent += 1
                self.waiting.remove(instance)
                self._save()
            else:
                self._not_before[instance] = time.monotonic() + SECONDS_UNTIL_RETRY
        return sent

    def _send(self, instance: str) -> bool:
        """Return whether an image is done with: sent, or deleted from Orthanc."""
        try:
            self.orthanc.post(f"/modalities/{self.modality}/store", {"Resources": [instance], "Synchronous": True})
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise
            if not self._exists(instance):
                return True
            self.orthanc.post(f"/modalities/{self.modality}/echo", {})
            return False  # the listener answers, but does not take this image now
        return True

    def _exists(self, instance: str) -> bool:
        try:
            self.orthanc.get(f"/instances/{instance}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise
        return True

    def _save(self) -> None:
        """Replace the file of the state in one step that survives a power cut."""
        temporary = self.file.with_name(self.file.name + ".tmp")
        with temporary.open("w") as file:
            json.dump({"since": self.since, "waiting": self.waiting}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.file)


def _log_passed_over(reasons: Counter[str]) -> None:
    """Log how many X-rays are never sent, so that whoever runs the script can tell whether that is right."""
    named = {reason: count for reason, count in sorted(reasons.items()) if reason not in NOT_COUNTED}
    if named:
        text = ", ".join(f"{count} {reason}" for reason, count in named.items())
        log.info("%d X-rays passed over: %s", sum(named.values()), text)


def explain(error: Exception) -> str:
    """Return a reason and a remedy, without any text that Orthanc sent."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (401, 403):
            return f"Orthanc refuses the user (HTTP {error.code}): check the password in .netrc"
        if error.code == 404:
            return "Orthanc does not know the modality: name it in DicomModalities of its configuration"
        return f"the listener does not answer (HTTP {error.code} from Orthanc): is `pneumoseg listen` running?"
    if isinstance(error, NO_ANSWER):
        return f"Orthanc does not answer ({type(error).__name__}): is it running?"
    return f"the state cannot be written ({error}): make room, or name another file"


def run_once(forwarder: Forwarder) -> str:
    """Collect and send, and return a message about the state, '' if nothing waits."""
    try:
        forwarder.collect()
        sent = forwarder.send()
    except (OSError, http.client.HTTPException) as error:
        return f"{len(forwarder.waiting)} images wait: {explain(error)}"
    if sent:
        log.info("%d images sent", sent)
    return f"{len(forwarder.waiting)} images wait: the listener does not take them now" if forwarder.waiting else ""


def main() -> int:
    """Forward until the process is ended; with --once until nothing more can be sent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, help="file that remembers how far the script came; made if there is none")
    parser.add_argument("--orthanc", default="http://127.0.0.1:8042", help="address of Orthanc")
    parser.add_argument("--modality", default="pneumoseg", help="name of the listener in Orthanc's DicomModalities")
    parser.add_argument("--seconds", type=float, default=2.0, help="time between two looks at Orthanc")
    parser.add_argument("--new-only", action="store_true", help="on the first start, pass over what Orthanc holds")
    parser.add_argument("--once", action="store_true", help="look once; exit status 1 if images wait")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        forwarder = Forwarder(Orthanc(arguments.orthanc), arguments.modality, arguments.state, arguments.new_only)
    except ValueError as error:
        parser.error(str(error))
    told = ""
    while True:
        message = run_once(forwarder)
        if message != told:  # once, however long it lasts
            log.info(message or "no image waits")
        told = message
        if arguments.once:
            return 1 if message else 0
        time.sleep(arguments.seconds)


if __name__ == "__main__":
    raise SystemExit(main())
