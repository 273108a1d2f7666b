"""A load test of `pneumoseg listen` over loopback, and the network's share of its time.

Four senders give the service all images at once; a receiver counts the results by study. Printed are images per second,
results that are missing or came twice, and the resident memory of the service over time. Then rounds of fewer images go
through the service and, in the same run, through the same pipeline without network and queue: files to objects. What
the service takes longer is the share of network and queue.

Each image is a copy with its own UIDs of one of the files of a folder (without one, of generated X-rays of
1024 x 1024). Sender, receiver, service and baseline share the cores.

Run with: python benchmarks/pacs.py PIPELINE [FOLDER OF DICOM FILES] [--images 500] [--rounds 4]
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt

SENDERS = 4
ROUND = 8 * SENDERS


class Archive:
    """A PACS that keeps nothing of the results but their number by study and modality."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.uids: set[str] = set()
        self._changed = threading.Condition()
        entity = AE("ARCHIVE")
        entity.maximum_associations = 20
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, context.transfer_syntax)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def _store(self, event: evt.Event) -> int:
        result = event.dataset
        with self._changed:
            self.counts[result.StudyInstanceUID, result.Modality] += 1
            self.uids.add(result.SOPInstanceUID)
            self._changed.notify_all()
        return 0x0000

    def is_complete(self, study: str) -> bool:
        """Return whether a study has its report and its picture, which are sent after a segmentation."""
        return bool(self.counts[study, "SR"] and self.counts[study, "OT"])

    def wait(self, studies: Sequence[str], seconds: float) -> int:
        """Wait for the results of studies, and return how many of the studies have none."""
        with self._changed:
            self._changed.wait_for(lambda: all(map(self.is_complete, studies)), seconds)
            return sum(not self.is_complete(study) for study in studies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(SENDERS, get_context("spawn")) as senders:
        folder = Path(name)
        sources = readable(arguments.folder or generate(folder / "generated"))
        archive = Archive()
        with service(arguments.pipeline, folder / "spool", archive.port) as (process, port):
            load(senders, archive, process, port, copies(sources, arguments.images, folder / "load"))
            compare(senders, archive, port, sources, folder, arguments)
            queue = [sys.executable, "-m", "pneumoseg", "queue", str(folder / "spool")]
            print(subprocess.run(queue, capture_output=True, text=True, check=True).stdout.strip())
        print((folder / "service.log").read_text().splitlines()[-1].partition(" INFO ")[2])


def generate(folder: Path) -> Path:
    from pneumoseg.synthetic import write_dataset

    write_dataset(folder, train=24, test=0, size=1024, seed=0)
    return folder / "dicom-images-train"


def readable(folder: Path) -> list[Path]:
    """Return the DICOM files of a folder whose images can be read; one of the generated ones is damaged."""
    from pneumoseg.image_errors import ImageError
    from pneumoseg.images import read_image

    files = []
    for file in sorted(folder.rglob("*.dcm")):
        with suppress(ImageError):
            read_image(file)
            files.append(file)
    return files


def copies(sources: Sequence[Path], number: int, folder: Path) -> dict[str, Path]:
    """Write copies of files with UIDs of their own, and return them by Study Instance UID."""
    folder.mkdir()
    files = {}
    for place, source in enumerate(islice(cycle(sources), number)):
        image = pydicom.dcmread(source)
        study, image.SeriesInstanceUID, image.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
        image.StudyInstanceUID, image.file_meta.MediaStorageSOPInstanceUID = study, image.SOPInstanceUID
        files[study] = folder / f"{place}.dcm"
        image.save_as(files[study])
    return files


@contextmanager
def service(pipeline: Path, spool: Path, archive: int) -> Iterator[tuple[subprocess.Popen, int]]:
    """Start the service, and yield its process and its port; end it as systemd does."""
    accept = ",".join(f"SENDER{number}" for number in range(SENDERS))
    options = ["--pipeline", str(pipeline), "--spool", str(spool), "--accept", accept, "--port", "0"]
    command = [sys.executable, "-m", "pneumoseg", "listen", *options, "--to", f"ARCHIVE@127.0.0.1:{archive}"]
    log = spool.with_name("service.log")
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
    line = process.stdout.readline()
    listening = re.match(r"listening as PNEUMOSEG on 127\.0\.0\.1 port (\d+)", line)
    if listening is None:
        raise RuntimeError(f"the service did not start: {line}{log.read_text()}")
    try:
        yield process, int(listening[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def send(files: Sequence[Path], port: int, title: str) -> float:
    """Send files in one association, and return the seconds that this took."""
    start = time.perf_counter()
    entity = AE(title)
    images = [pydicom.dcmread(file) for file in files]
    for kind in {(image.SOPClassUID, image.file_meta.TransferSyntaxUID) for image in images}:
        entity.add_requested_context(*kind)
    association = entity.associate("127.0.0.1", port, ae_title="PNEUMOSEG")
    statuses = [association.send_c_store(image).Status for image in images]
    association.release()
    assert not any(statuses), statuses
    return time.perf_counter() - start


def send_all(senders: ProcessPoolExecutor, files: Sequence[Path], port: int) -> list[float]:
    """Send files by all senders at once, and return the seconds that each took."""
    jobs = [senders.submit(send, files[n::SENDERS], port, f"SENDER{n}") for n in range(SENDERS)]
    return [job.result() for job in jobs]


def load(
    senders: ProcessPoolExecutor, archive: Archive, process: subprocess.Popen, port: int, files: dict[str, Path]
) -> None:
    """Send all images at once, and print what became of them, and the memory meanwhile."""
    resident, done = [], threading.Event()
    start = time.perf_counter()

    def watch() -> None:
        while not done.wait(1.0):
            resident.append((time.perf_counter() - start, memory(process.pid, "VmRSS")))

    resident.append((0.0, memory(process.pid, "VmRSS")))
    watcher = threading.Thread(target=watch)
    watcher.start()
    received = max(send_all(senders, list(files.values()), port))
    missing = archive.wait(list(files), 1800)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    twice = sum(archive.counts.values()) - len(archive.uids)
    positive = sum(archive.counts[study, "SEG"] for study in files)
    print(f"{len(files)} images from {SENDERS} senders: received in {received:.1f} s, results back in {seconds:.1f} s")
    print(f"  {len(files) / received:.1f} images/s received, {len(files) / seconds:.2f} images/s with results")
    print(f"  {missing} images without results, {twice} results twice, {positive} segmentations")
    eighths = [min(resident, key=lambda sample: abs(sample[0] - seconds * part / 8)) for part in range(9)]
    print("  resident MiB: " + ", ".join(f"{mib:.0f} at {at:.0f} s" for at, mib in eighths))
    print(f"  largest resident MiB: {memory(process.pid, 'VmHWM'):.0f}")


def memory(process: int, name: str) -> float:
    """Return a value of a process in /proc/PID/status, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


def compare(
    senders: ProcessPoolExecutor,
    archive: Archive,
    port: int,
    sources: Sequence[Path],
    folder: Path,
    arguments: argparse.Namespace,
) -> None:
    """Print how much longer images take through the service than as files, by turns."""
    ratios, speeds = [], []
    with ProcessPoolExecutor(1, get_context("spawn")) as baseline:
        warm = copies(sources, 2, folder / "warm")
        baseline.submit(objects_of, arguments.pipeline, list(warm.values())).result()
        for number in range(arguments.rounds):
            files = copies(sources, ROUND, folder / f"round{number}")
            start = time.perf_counter()
            send_all(senders, list(files.values()), port)
            missing = archive.wait(list(files), 1800)
            served = time.perf_counter() - start
            assert not missing, missing
            alone = baseline.submit(objects_of, arguments.pipeline, list(files.values())).result()
            ratios.append(served / alone)
            speeds.append((ROUND / served, ROUND / alone))
    print(f"{arguments.rounds} rounds of {ROUND} images, service and files by turns:")
    print("  images/s: " + ", ".join(f"{served:.2f} and {alone:.2f}" for served, alone in speeds))
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"  seconds of the service to those of files: {middle:.2f} ({low:.2f} to {high:.2f})")
    print(f"  share of network and queue: {1 - 1 / middle:.0%}")


_loaded: dict[Path, object] = {}


def objects_of(pipeline: Path, files: Sequence[Path]) -> float:
    """Make the objects of images one by one, write them to a folder, and return the seconds that this took."""
    from pneumoseg import load_pipeline

    if pipeline not in _loaded:
        _loaded[pipeline] = load_pipeline(pipeline, 1)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for file in files:
            for kind, result in _loaded[pipeline].predict(file).to_dicom().items():
                result.save_as(Path(folder) / f"{file.stem}_{kind}.dcm", enforce_file_format=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
