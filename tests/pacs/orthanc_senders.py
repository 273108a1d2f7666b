"""Both senders against a real Orthanc; prints what came of it as JSON.

Run with: unshare -rnm python -m tests.pacs.orthanc_senders FOLDER

FOLDER holds the files to send: *.dcm, `broken` and `large`.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from pneumoseg.pacs.sender import StoreSender, StowSender, UnreachableError
from tests.pacs.network import data_set, wait_until

AET, DICOM_PORT, HTTP_PORT = "ORTHANC", 4242, 8042
REST = f"http://127.0.0.1:{HTTP_PORT}"


def start(folder: Path) -> subprocess.Popen:
    """Start an Orthanc that stores in a folder, and wait until it answers."""
    settings = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomAet": AET, "DicomPort": DICOM_PORT,
        "HttpPort": HTTP_PORT, "DicomCheckCalledAet": True, "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
    }  # fmt: skip
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        ["Orthanc", folder.parent / f"{folder.name}.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(answers)
    return process


def answers() -> bool:
    """Return whether Orthanc answers."""
    try:
        return bool(rest("/system"))
    except OSError:
        return False


def rest(path: str) -> bytes:
    """Return the answer of Orthanc's own interface."""
    with urllib.request.urlopen(REST + path, timeout=10) as response:
        return response.read()


def stored() -> set[bytes]:
    """Return the data sets that Orthanc holds, and delete them there."""
    found = set()
    for instance in json.loads(rest("/instances")):
        with tempfile.NamedTemporaryFile() as copy:
            Path(copy.name).write_bytes(rest(f"/instances/{instance}/file"))
            found.add(data_set(Path(copy.name)))
        request = urllib.request.Request(f"{REST}/instances/{instance}", method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()
    return found


def send(sender: StoreSender | StowSender, files: list[Path]) -> dict:
    """Return the outcome of sending files, and whether Orthanc then holds exactly the bytes that were delivered."""
    done: list[Path] = []
    try:
        refusals, error = sender.send(files, done.append), ""
    except UnreachableError as unreachable:
        refusals, error = [], str(unreachable)
    return {
        "delivered": [path.name for path in done],
        "refused": {refusal.path.name: refusal.reason for refusal in refusals},
        "error": error,
        "same_bytes": stored() == {data_set(path) for path in done},
    }


def main(folder: Path) -> dict:
    """Return the outcomes with an Orthanc that has room, and with one whose disk is full."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    store, stow = StoreSender(AET, "127.0.0.1", DICOM_PORT), StowSender(f"{REST}/dicom-web")
    files, broken = sorted(folder.glob("*.dcm")), folder / "broken"
    outcomes = {"nobody": send_only(store, files)}
    room, full = folder / "room", folder / "full"
    for disk in (room, full):
        disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", full], check=True)
    process = start(room)
    try:
        outcomes |= {
            "store": send(store, files),
            "stow": send(stow, files),
            "typo": send(StoreSender("TYPO", "127.0.0.1", DICOM_PORT), files),
            "wrong_path": send(StowSender(f"{REST}/dicomweb"), files),
            "stow_broken": send(stow, [files[0], broken]),
        }
    finally:
        process.kill()
        process.wait(20)
    process = start(full)
    try:
        outcomes |= {"store_full": send(store, [folder / "large"]), "stow_full": send(stow, [folder / "large"])}
    finally:
        process.kill()
        process.wait(20)
    return outcomes


def send_only(sender: StoreSender, files: list[Path]) -> str:
    """Return the error of sending while Orthanc does not run."""
    try:
        sender.send(files, print)
    except UnreachableError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
