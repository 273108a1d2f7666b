"""Kill test and throughput of bulk inference on Ray, on links to real images.

Predicts the links in one process and on Ray, in turn. Then runs Ray again while a worker is killed by -9 three times
and the driver once, starts it again, and compares each row with that of the one process.

    python benchmarks/bulk.py IMAGES PIPELINE --links 3000 --workers 2 --rounds 2
"""

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from pneumoseg.bulk import read_results
from pneumoseg.data.files import find_images

os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 would compare idle time of a busy machine
PREDICT = [sys.executable, "-m", "pneumoseg", "predict"]


def main():
    """Print the table of the rounds, then the outcome of the kill test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--links", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_links(options.images, folder / "links", options.links)
        common = [str(folder / "links"), "--pipeline", str(options.pipeline)]
        ray = [*common, "--ray", "--workers", str(options.workers)]
        measure(common, ray, folder, options)
        killed = kill_repeatedly([*ray, "--out", str(folder / "killed")], folder / "killed")
        print("\n".join(killed))
        compare(folder / "killed", folder / "one_0/results.csv", options.links)


def make_links(images, folder, count):
    """Make links with names of their own, round after round, to the images below a folder."""
    folder.mkdir()
    files = find_images(images).paths
    for number in range(count):
        target = files[number % len(files)]
        (folder / f"{number:06d}_{target.name}").symlink_to(target)


def measure(common, ray, folder, options):
    """Run both in turn, and print images per second: of the whole command, start included."""
    print("| round | one process, images/s | Ray, images/s | ratio |\n| --- | --- | --- | --- |")
    ratios = []
    for number in range(options.rounds):
        one = options.links / seconds_of([*common, "--out", str(folder / f"one_{number}")])
        several = options.links / seconds_of([*ray, "--out", str(folder / f"ray_{number}")])
        ratios.append(several / one)
        print(f"| {number + 1} | {one:.1f} | {several:.1f} | {several / one:.2f} |", flush=True)
        compare(folder / f"ray_{number}", folder / f"one_{number}/results.csv", options.links)
    print(f"median ratio {statistics.median(ratios):.2f}; load {os.getloadavg()[0]:.1f} at the end")


def seconds_of(arguments):
    """Run the command and return its wall-clock seconds."""
    start = time.perf_counter()
    finished = subprocess.run([*PREDICT, *arguments], capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    return time.perf_counter() - start


def kill_repeatedly(arguments, out):
    """Kill a worker, a worker, the driver, and after a new start a worker, each after a new shard; yield the steps."""
    steps = []
    driver = start(arguments)
    for number, victim in enumerate(("worker", "worker", "driver", "worker")):
        wait_for_shards(out, number + 1, driver)
        process = driver.pid if victim == "driver" else workers_of(driver.pid)[0]
        os.kill(process, signal.SIGKILL)
        steps.append(f"killed {victim} after {len(read_results(out))} rows")
        if victim == "driver":
            driver.wait()
            driver = start(arguments)
    if driver.wait():
        sys.exit(f"the last run ended with status {driver.returncode}")
    return steps


def start(arguments):
    """Start the command."""
    return subprocess.Popen([*PREDICT, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_shards(out, count, driver):
    """Wait until there are so many shards, and fail if the run ends before."""
    while len(list(out.glob("part-*.parquet"))) < count or not workers_of(driver.pid):
        if driver.poll() is not None:
            sys.exit(f"the run ended with status {driver.returncode} before it was killed: take more links")
        time.sleep(0.05)


def workers_of(driver):
    """Return the processes of a driver's workers."""
    below = psutil.Process(driver).children(recursive=True)
    return sorted(process.pid for process in below if "MapWorker" in title(process))


def title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def compare(out, table, expected):
    """Compare all rows of the shards with those of one process, as text."""
    results = read_results(out)
    with open(table, newline="", encoding="utf-8") as file:
        reference = list(csv.DictReader(file))
    differing = sum(
        {name: "" if pd.isna(value) else str(value) for name, value in row.items() if name in wanted} != wanted
        for row, wanted in zip(results.to_dict("records"), reference, strict=True)
    )
    print(f"{len(results)} rows of {expected}, {results['path'].nunique()} paths, {differing} rows differ", flush=True)
    if differing or not len(results) == results["path"].nunique() == expected:
        sys.exit("not the same rows")


if __name__ == "__main__":
    main()
