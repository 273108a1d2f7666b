"""Staged runs of this checkout and of another one: images per second, the same results, memory of a long run.

One process per checkout stays alive, and they take turns, so that other work on the machine affects both equally. At
the end the files that both have written are compared: tables byte by byte, pictures pixel by pixel.

Run with: python benchmarks/staged_run.py PIPELINE FOLDER --before CHECKOUT
      or: python benchmarks/staged_run.py PIPELINE FOLDER --memory 3205   (links to the images, over and over)
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


def link_images(folder: Path, images: Path, count: int | None = None) -> list[Path]:
    """Fill a folder with links to the images of another one, as often as it takes."""
    from pneumoseg.data.files import find_images

    paths = find_images(images).paths
    folder.mkdir(parents=True)
    for number in range(count or len(paths)):
        path = paths[number % len(paths)]
        (folder / f"i{number:04d}{path.suffix}").symlink_to(path.resolve())
    return sorted(folder.iterdir())


def tasks(pipeline_folder: Path, images: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """Return what a round does, by name. Each task replaces its files of the round before."""
    import pandas as pd

    from pneumoseg.data.index import COLUMNS
    from pneumoseg.inference import load_pipeline
    from pneumoseg.predictions import cache_predictions
    from pneumoseg.results import write_results
    from pneumoseg.submission import write_submission

    pipeline, paths = load_pipeline(pipeline_folder), link_images(scratch / "images", images)
    facts = {name: "" if kind == "str" else 0 for name, kind in COLUMNS.items()}
    rows = [facts | {"image_id": path.stem, "path": str(path), "rle": "-1"} for path in paths]
    manifest = (
        pd.DataFrame(rows)
        .assign(rows=1024, columns=1024, pixel_aspect=1.0, has_pneumothorax=False)
        .drop(columns="file_bytes")
    )

    def fresh(name: str) -> Path:
        shutil.rmtree(scratch / name, ignore_errors=True)
        return scratch / name

    return {
        "predict_many": lambda: list(pipeline.predict_many(paths)),
        "one by one": lambda: [pipeline.predict(path) for path in paths[:32]],
        "results": lambda: write_results(pipeline, scratch / "images", fresh("results")),
        "results, overlays": lambda: write_results(pipeline, scratch / "images", fresh("overlays"), overlays=True),
        "submission": lambda: write_submission(pipeline.predict_many(paths), scratch / "submission.csv"),
        "cached predictions": lambda: cache_predictions(pipeline, manifest, fresh("predictions")),
    }


def work(pipeline_folder: Path, images: Path, scratch: Path) -> None:
    """Run the tasks that standard input names, and answer with the seconds each takes on the wall and of all cores."""
    reply = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    known = tasks(pipeline_folder, images, scratch)
    reply.write(json.dumps(list(known)) + "\n")
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        known[json.loads(line)]()
        reply.write(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]) + "\n")


@contextmanager
def worker(checkout: Path, *arguments: object) -> Iterator[Callable[[str | None], list]]:
    """Start a process that works for a checkout; yield a function that gives it a task and returns its answer."""
    command = [sys.executable, __file__, *map(str, arguments), "--worker"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask(task: str | None) -> list:
        if task is not None:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()


def compare(pipeline: Path, images: Path, before: Path, only: list[str], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        scratches = Path(temporary, "before", "run"), Path(temporary, "now", "run")
        here = Path(__file__).resolve().parents[1]
        with (
            worker(before.resolve(), pipeline, images, "--scratch", scratches[0]) as old,
            worker(here, pipeline, images, "--scratch", scratches[1]) as new,
        ):
            names = [name for name in old(None) if not only or name in only]
            new(None)
            for name in names:
                times = [(old(name), new(name)) for _ in range(rounds + 1)][1:]  # the first one warms up
                if times:
                    report(name, times, 32 if name == "one by one" else len(list((scratches[0] / "images").iterdir())))
        differences = sorted(map(str, different_files(*scratches)))
        print(f"files that differ: {len(differences)} {differences[:5]}")


def report(name: str, times: list, count: int) -> None:
    def median(side: int, clock: int) -> float:
        return statistics.median(pair[side][clock] for pair in times)

    def ratios(clock: int) -> str:
        each = [before[clock] / now[clock] for before, now in times]
        return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"

    rates, cores = ([f(side) for side in (0, 1)] for f in (lambda s: count / median(s, 0), lambda s: median(s, 1)))
    print(
        f"{name:20} images/s {rates[0]:6.1f} -> {rates[1]:6.1f}, as fast as before {ratios(0)}; "
        f"CPU ms per image {1e3 * cores[0] / count:6.1f} -> {1e3 * cores[1] / count:6.1f}, ratio {ratios(1)}",
        flush=True,
    )


def different_files(before: Path, now: Path) -> Iterator[Path]:
    """Yield the files of either folder that the other one lacks, or that hold something else."""
    found = {path.relative_to(folder) for folder in (before, now) for path in folder.rglob("*") if path.is_file()}
    for name in found:
        other = name.name in (
            "manifest.csv",
            "index.html",
            ".progress.jsonl",
        )  # hold paths or times, or follow from all
        if not other and content(before / name) != content(now / name):
            yield name


def content(path: Path) -> object:
    if not path.is_file():
        return None
    if path.name == "predictions.csv":  # its third column is the time
        return [line.split(",")[:2] for line in path.read_text().splitlines()]
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.mode, np.asarray(image).tobytes()
    return path.read_bytes().replace(os.fsencode(path.parents[1]), b"")


def measure_memory(pipeline_folder: Path, images: Path, count: int) -> None:
    """Print the resident memory at every hundredth image."""
    from pneumoseg.inference import load_pipeline

    with tempfile.TemporaryDirectory() as temporary:
        paths = link_images(Path(temporary, "images"), images, count)
        start, used = time.perf_counter(), []
        for number, _ in enumerate(load_pipeline(pipeline_folder).predict_many(paths), start=1):
            if number % 100 == 0 or number == count:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                used.append(pages * resource.getpagesize() // 2**20)
        print(f"{count} images in {time.perf_counter() - start:.0f} s; resident MiB at every 100th image:")
        print(" ".join(map(str, used)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--before", type=Path, help="checkout to compare with")
    parser.add_argument("--only", nargs="*", default=[], help="tasks to run")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after a first one; 0 only compares the files")
    parser.add_argument("--memory", type=int, help="number of images of a long run")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    pipeline, images = chosen.pipeline.resolve(), chosen.images.resolve()
    if chosen.worker:
        work(pipeline, images, chosen.scratch)
    elif chosen.memory:
        measure_memory(pipeline, images, chosen.memory)
    elif chosen.before:
        compare(pipeline, images, chosen.before, chosen.only, chosen.rounds)
    else:
        parser.error("name another checkout with --before, or a number of images with --memory")


if __name__ == "__main__":
    main()
