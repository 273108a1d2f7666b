"""Seconds and memory of each step that handles a whole manifest, with 100,000 and with 1,000,000 generated rows.

The manifest has the proportions of the competition's data: 22% positive, each with a run-length code of some 2,000
characters, ids of 55 and paths of 180 characters, and 1.8 images per patient. Its image files do not exist, except for
the step that looks at them, which gets a link to one file for each row.

The memory of a step is the peak of the resident memory during the step, minus what the process held before it, such as
the manifest; what earlier steps freed is given back first. Seconds are those of the wall and of the processor, which
counts all threads: on a busy machine only the latter mean something. The growth is the exponent of n in the processor
time, from the fewer rows to the more: 1 is proportional.

With --index, links to real images are indexed instead, in the competition's layout.

Run with: python benchmarks/large_manifest.py [--rows N ...] [--steps NAME ...] [--folder DIR]
      or: python benchmarks/large_manifest.py --index DIR [--rows 3000 12000]
"""

import argparse
import ctypes
import functools
import gc
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from pneumoseg.annotations.competition import read_runs
from pneumoseg.data.index import COLUMNS, load_manifest, save_manifest

Step = Callable[[], object]
Prepare = Callable[[Path], Step]
_SIZE = 1024
_RUNS = 500  # different shapes of masks
_RESAMPLES = 20  # of 1,000, which would take hours for all steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="folder for the generated files, kept for the next run")
    parser.add_argument("--index", type=Path, help="folder with dicom-images-train and train-rle.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        before: dict[str, tuple[int, float]] = {}
        print(f"{'step':40} {'rows':>9} {'seconds':>9} {'processor':>9} {'MiB':>8} growth", flush=True)
        for rows in arguments.rows:
            place = folder / str(rows)
            if arguments.index:
                link(arguments.index, place, rows)
            elif not (place / "predictions.json").exists():
                generate(rows, place)
            steps: dict[str, Prepare] = {"index": indexed} if arguments.index else STEPS
            for name in steps if arguments.index else arguments.steps:
                report(name, rows, measure(steps[name](place)), before)
            for path in sorted(place.glob("manifest.*")):
                print(f"{rows} rows: {path.name} {path.stat().st_size / 1e6:.0f} MB", flush=True)


def report(name: str, rows: int, found: dict[str, float], before: dict[str, tuple[int, float]]) -> None:
    """Print a row of the table, with the growth since the same step with fewer rows."""
    growth = math.nan
    if name in before:
        fewer, processor = before[name]
        growth = math.log(found["processor"] / processor, rows / fewer)
    before[name] = rows, found["processor"]
    numbers = f"{found['seconds']:9.2f} {found['processor']:9.2f} {found['MiB']:8.0f}"
    print(f"{name:40} {rows:9} {numbers} {growth:.2f}", flush=True)


def measure(step: Step) -> dict[str, float]:
    """Return the wall seconds, the processor seconds and the growth of the peak memory of a step."""
    _release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present size
    held, wall, processor = _resident("VmRSS"), time.perf_counter(), time.process_time()
    result = step()
    seconds, used = time.perf_counter() - wall, time.process_time() - processor
    del result
    return {"seconds": seconds, "processor": used, "MiB": _resident("VmHWM") - held}


def _release_memory() -> None:
    """Give the memory that earlier steps freed back to the system, where the next step is seen to take it."""
    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident(name: str) -> float:
    """Return a size of this process in MiB, VmRSS for the present resident memory and VmHWM for its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def generate(rows: int, folder: Path) -> None:
    """Write a manifest as CSV and Parquet, and the tables of the other steps."""
    folder.mkdir(parents=True)
    manifest = generated_manifest(rows)
    save_manifest(manifest, folder / "manifest.csv")
    save_manifest(manifest, folder / "manifest.parquet")
    ids = manifest["image_id"]
    runs = pd.DataFrame({"ImageId": ids, "EncodedPixels": manifest["rle"]})
    runs.to_csv(folder / "runs.csv", index=False)
    manifest[["image_id", "patient_id"]].to_csv(folder / "patients.csv", index=False)
    rng = np.random.default_rng(1)
    centres = np.where(manifest["has_pneumothorax"], 0.7, 0.2)
    probability = np.clip(rng.normal(centres, 0.2), 0, 1)
    table = pd.DataFrame({"image_id": ids, "probability": probability, "seconds": 0.02, "error": ""})
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "predictions.json").write_text(json.dumps({"networks": {}, "flip": False}))


def link(source: Path, folder: Path, rows: int) -> None:
    """Make links to annotated images, each with an id of its own, and the annotations of these ids."""
    codes = read_runs(source / "train-rle.csv").groupby("image_id")["rle"].first()
    files = [path for path in sorted((source / "dicom-images-train").rglob("*.dcm")) if path.stem in codes]
    lines = ["ImageId,EncodedPixels"]
    for number in range(rows):
        file = files[number % len(files)]
        image_id = f"{file.stem}.{number}"
        place = folder / f"images/{number % 1000}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{image_id}.dcm").symlink_to(file.resolve())
        lines.append(f"{image_id},{codes[file.stem]}")
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")


def indexed(folder: Path) -> Step:
    from pneumoseg.data.index import index_dataset

    return lambda: index_dataset(folder / "images", folder / "runs.csv")


def generated_manifest(rows: int) -> pd.DataFrame:
    """Return a manifest of images that do not exist."""
    rng = np.random.default_rng(0)
    patients = rng.integers(round(rows / 1.8), size=rows)
    positive = rng.random(rows) < 0.22
    codes = [crescent_code(rng) for _ in range(_RUNS)]
    areas = np.array([sum(map(int, code.split()[1::2])) for code in codes])
    chosen, gaps = rng.integers(_RUNS, size=rows), rng.integers(1, 200, rows)  # the gap makes most codes differ
    uids = [
        f"1.2.276.0.7230010.3.1.4.8323329.{number % 32768}.{1517875160 + number}.{number:06d}" for number in range(rows)
    ]
    other = [f"{uid[:23]}.2{uid[24:]}" for uid in uids]
    columns = {
        "image_id": uids,
        "path": [f"/data/images/{study}/{study}/{uid}.dcm" for study, uid in zip(other, uids, strict=True)],
        "has_pneumothorax": positive,
        "rle": [f"{gap}{codes[code]}" if one else "-1" for one, code, gap in zip(positive, chosen, gaps, strict=True)],
        "area_px": np.where(positive, areas[chosen], 0),
        "patient_id": [f"{patient:08d}" for patient in patients],
        "patient_source": "id map",
        "view": rng.choice(["PA", "AP"], rows),
        "sex": np.where(patients % 2, "F", "M"),
        "age": rng.integers(1, 95, rows).astype(float),
        "rows": _SIZE,
        "columns": _SIZE,
        "pixel_spacing": rng.choice([0.139, 0.143, 0.168, 0.171, 0.194], rows),
        "pixel_aspect": 1.0,
        "frame_offset": rng.integers(1700, 1900, rows),
        "frame_length": rng.integers(60_000, 200_000, rows),
        "file_bytes": rng.integers(62_000, 202_000, rows),
        "file_modified": 1_700_000_000_000_000_000 + rng.integers(10**15, size=rows),
    }
    table = pd.DataFrame(columns).astype(COLUMNS)
    return table.sort_values("image_id", ignore_index=True)


def crescent_code(rng: np.random.Generator) -> str:
    """Return the run-length code of a crescent: one run per column, as of a pneumothorax along the rim of a lung."""
    width = int(rng.integers(60, 420))
    heights = np.maximum(1, (rng.uniform(20, 90) * np.sin(np.linspace(0.1, 3.0, width))).astype(int))
    tops = (300 + 100 * np.cos(np.linspace(0, 3, width))).astype(int)
    starts = np.arange(width) * _SIZE + tops
    gaps = np.diff(starts, prepend=0) - np.concatenate([[0], heights[:-1]])
    return " ".join(map(str, np.stack([gaps, heights], axis=1).ravel().tolist()))


@functools.lru_cache(maxsize=1)
def table_of(folder: Path) -> pd.DataFrame:
    return load_manifest(folder / "manifest.parquet")


def of_table(step: Callable[[pd.DataFrame], object]) -> Prepare:
    """Make a step of a function of the manifest, which is loaded before the measurement begins."""

    def prepare(folder: Path) -> Step:
        table = table_of(folder)
        step(table.head(1000))  # imports its modules
        return lambda: step(table)

    return prepare


def written(suffix: str) -> Prepare:
    """Make the step that writes the manifest in a format."""

    def prepare(folder: Path) -> Step:
        table = table_of(folder)
        return lambda: save_manifest(table, folder / f"written.{suffix}")

    return prepare


def split(table: pd.DataFrame, *, by_patient: bool) -> object:
    from pneumoseg.data.splits import stratified_split

    return stratified_split(table, 0.2, group_by_patient=by_patient)


def folds(table: pd.DataFrame, *, by_patient: bool) -> object:
    from pneumoseg.data.splits import stratified_folds

    return stratified_folds(table, 5, group_by_patient=by_patient)


def sampled(table: pd.DataFrame) -> object:
    from pneumoseg.data.splits import positives_and_sampled_negatives

    return positives_and_sampled_negatives(table, 1.0)


def shuffled_epoch(table: pd.DataFrame) -> object:
    from pneumoseg.data.sampling import random_epoch

    return random_epoch(table["has_pneumothorax"].to_numpy(), 3, seed=0, augmented=True)


def fraction_epoch(table: pd.DataFrame) -> object:
    from pneumoseg.data.sampling import random_epoch, scheduled_fraction

    fraction = scheduled_fraction(0.8, 0.4, 3, 10)
    return random_epoch(table["has_pneumothorax"].to_numpy(), 3, seed=0, positive_fraction=fraction)


def enriched(table: pd.DataFrame) -> object:
    from pneumoseg.data.enrichment import enrich
    from pneumoseg.data.sampling import enriched_epoch

    return enriched_epoch(len(table), enrich(table["has_pneumothorax"].to_numpy(), 5, seed=0), 3, seed=0)


def patients(table: pd.DataFrame) -> object:
    from pneumoseg.data.index import summarize
    from pneumoseg.data.patients import doubts_about_patients, patient_groups
    from pneumoseg.data.splits import count_shared_patients

    half = len(table) // 2
    header = table.assign(patient_source="header")
    shared = count_shared_patients(header[:half], header[half:])
    return summarize(header), doubts_about_patients(header), patient_groups(header), shared


def states(folder: Path) -> Step:
    """Prepare the step that looks at the files of all rows, which are links to one file."""
    from pneumoseg.data.transcoding import encoded_frames

    table, links = table_of(folder).copy(deep=False), folder / "links"
    (folder / "target").write_bytes(b"DICM")
    status = (folder / "target").stat()
    table["path"] = [f"{links}/{number % 1000}/{number}" for number in range(len(table))]
    for number in range(min(1000, len(table)) if not links.exists() else 0):
        (links / str(number)).mkdir(parents=True)
    for path in table["path"] if not os.path.lexists(table["path"].iloc[-1]) else ():
        os.symlink(folder / "target", path)
    table = table.assign(file_bytes=status.st_size, file_modified=status.st_mtime_ns)
    return lambda: encoded_frames(table, folder / "cache")


def loaded_shapes(folder: Path) -> Step:
    from pneumoseg.data import loaders

    table = table_of(folder)[["rows", "columns", "pixel_aspect"]].copy()
    # A second size, and pixels that are not square, so that no shortcut for equal images applies.
    table.loc[::2, "rows"] = 2048
    table.loc[::3, "pixel_aspect"] = 1.25
    return lambda: (loaders._square_shapes(table), loaders._common_shape(table))


def mask_runs(folder: Path) -> Step:
    from pneumoseg.data import loaders

    table = table_of(folder)
    table = table[table["has_pneumothorax"]].head(len(table) // 1000)
    loaders._mask_runs(table.head(4), 512, (_SIZE, _SIZE))  # starts TensorFlow
    return lambda: loaders._mask_runs(table, 512, (_SIZE, _SIZE))


def run_opened(folder: Path) -> Step:
    """Prepare the step that writes the split and its checksums, and compares them as a resumed run does."""
    from pneumoseg.config import load_experiment
    from pneumoseg.training import run

    table = table_of(folder)
    settings = load_experiment(Path(__file__).parents[1] / "experiments/demo_segmenter.yaml")
    half = len(table) * 4 // 5

    def step() -> object:
        text = run._descriptions(settings, table[:half], table[half:])["split.csv"]
        return run._same_split(text, text)

    return step


def joined(folder: Path) -> Step:
    """Prepare the step that reads the annotations and the id map and joins them with the names of the files."""
    from pneumoseg.annotations import read_annotations
    from pneumoseg.data import index

    paths = [Path(path) for path in table_of(folder)["path"]]

    def step() -> object:
        source = read_annotations(folder / "runs.csv")
        patients = index.read_id_map(folder / "patients.csv").to_dict()
        return index._join(Path("/data/images"), source, paths, False), patients

    return step


def predictions_loaded(folder: Path) -> Step:
    from pneumoseg.predictions import load_predictions

    return lambda: load_predictions(folder)


def submission_checked(folder: Path) -> Step:
    from pneumoseg.submission import read_ids, validate_submission

    return lambda: validate_submission(folder / "runs.csv", read_ids(folder / "runs.csv"))


def scored(step: Callable) -> Prepare:
    """Make a step of a function of predictions, counts of pixels and groups, generated before the measurement."""

    def prepare(folder: Path) -> Step:
        _shorten_bootstraps()
        return step(*predicted(folder))

    return prepare


@functools.lru_cache(maxsize=1)
def predicted(folder: Path) -> tuple:
    from pneumoseg.data.patients import patient_groups
    from pneumoseg.predictions import load_predictions

    predictions = load_predictions(folder)
    return predictions, generated_counts(predictions.manifest), patient_groups(predictions.manifest)


def _shorten_bootstraps() -> None:
    """Make all bootstraps take `_RESAMPLES` resamples; the time is proportional to their number."""
    from pneumoseg.evaluation import bootstrap, tables

    for name in ("bootstrap_interval", "bootstrap_means"):
        setattr(tables, name, functools.partial(getattr(bootstrap, name), resamples=_RESAMPLES))


def generated_counts(manifest: pd.DataFrame) -> object:
    """Return pixel counts like those of a segmenter that misses a tenth of the masks and has 5% false alarms."""
    from pneumoseg.evaluation.evaluation import GRIDS
    from pneumoseg.evaluation.pixel_counts import PixelCounts
    from pneumoseg.evaluation.tuning import THRESHOLDS

    rng, count = np.random.default_rng(2), len(manifest)
    truth = manifest["area_px"].to_numpy()
    areas, thresholds = np.unique([*GRIDS[1024], 3500.0]), np.array(THRESHOLDS)
    found = np.flatnonzero(np.where(truth > 0, rng.random(count) < 0.9, rng.random(count) < 0.05))
    pixels = np.zeros((count, len(thresholds), len(areas)), np.int32)
    overlap = np.zeros_like(pixels)
    factor = (1.5 - thresholds)[None, :, None].astype(np.float32)
    for part in np.array_split(found, max(1, found.size // 10_000)):
        size = np.where(truth[part] > 0, truth[part], 5000)[:, None, None] * factor
        kept = np.where(size >= areas, size, 0)
        pixels[part], overlap[part] = kept, np.where(truth[part, None, None] > 0, kept * 0.7, 0)
    size = np.full(count, _SIZE * _SIZE)
    return PixelCounts(thresholds, areas, pixels, overlap, truth, size, rng.random(count))


def cases(predictions, counts, groups) -> Step:
    from pneumoseg.decision import DecisionRule
    from pneumoseg.evaluation import tables, variants

    def step() -> object:
        found = variants.ablation(predictions, counts, DecisionRule())
        return found, tables.error_breakdown(found[variants.STAGED])

    return step


def variant_scores(predictions, counts, groups) -> Step:
    from pneumoseg.decision import DecisionRule
    from pneumoseg.evaluation import tables, variants

    found = variants.ablation(predictions, counts, DecisionRule())
    return lambda: tables.score_variants(found, groups)


def other_tables(predictions, counts, groups) -> Step:
    from pneumoseg.decision import DecisionRule
    from pneumoseg.evaluation import tables, variants

    found = variants.ablation(predictions, counts, DecisionRule())
    staged, gated = found[variants.STAGED], np.ones(len(groups), bool)
    return lambda: (
        tables.paired_differences(found, variants.STAGED, groups),
        tables.subgroups(staged, predictions.manifest, groups),
        tables.threshold_sweep(counts, 3500.0, gated),
        tables.classifier_sweep(found[variants.SEGMENTED], staged),
    )


def area_sweep(predictions, counts, groups) -> Step:
    from pneumoseg.evaluation import tables
    from pneumoseg.evaluation.evaluation import GRIDS

    gated = np.ones(len(groups), bool)
    return lambda: tables.area_sweep(counts, 0.5, GRIDS[1024], gated, groups)


def classifier_scores(predictions, counts, groups) -> Step:
    from pneumoseg.decision import DecisionRule
    from pneumoseg.evaluation.evaluation import evaluate_classifier

    return lambda: evaluate_classifier(predictions, DecisionRule())


def mean_interval(table: pd.DataFrame, *, by_patient: bool) -> object:
    from pneumoseg.data.patients import patient_groups
    from pneumoseg.evaluation.bootstrap import bootstrap_means

    groups = patient_groups(table) if by_patient else table["image_id"].to_numpy(str)
    return bootstrap_means(np.random.default_rng(3).random((len(table), 1)), groups, resamples=_RESAMPLES)


def tuned(predictions, counts, groups) -> Step:
    from pneumoseg.decision import DecisionRule
    from pneumoseg.evaluation import tuning

    def step() -> object:  # the first 20 of some thousands of candidates
        rule = DecisionRule()
        candidates = [next(found) for found in [tuning._candidates(counts, rule)] for _ in range(20)]
        empty, cuts = (counts.truth == 0).astype(float), tuning._Cuts.of(predictions.probability)
        return [cuts.best(tuning._gain(counts, each, empty), 0.5) for each in candidates]

    return step


STEPS: dict[str, Prepare] = {
    "write CSV": written("csv"),
    "read CSV": lambda folder: lambda: load_manifest(folder / "manifest.csv"),
    "write Parquet": written("parquet"),
    "read Parquet": lambda folder: lambda: load_manifest(folder / "manifest.parquet"),
    "annotations, id map and their joins": joined,
    "patients": of_table(patients),
    "split by image": of_table(lambda table: split(table, by_patient=False)),
    "split by patient": of_table(lambda table: split(table, by_patient=True)),
    "5 folds by image": of_table(lambda table: folds(table, by_patient=False)),
    "5 folds by patient": of_table(lambda table: folds(table, by_patient=True)),
    "sampled negatives": of_table(sampled),
    "order of an epoch": of_table(shuffled_epoch),
    "order with a scheduled fraction": of_table(fraction_epoch),
    "enrichment and order": of_table(enriched),
    "states of the files": states,
    "shapes of the images": loaded_shapes,
    "masks at 512, of 0.1% of the rows": mask_runs,
    "split.csv and its comparison": run_opened,
    "load cached predictions": predictions_loaded,
    "validate a submission": submission_checked,
    "cases of four variants": scored(cases),
    "scores of the variants, 20 resamples": scored(variant_scores),
    "sweep of 33 areas, 20 resamples": scored(area_sweep),
    "other tables, 20 resamples": scored(other_tables),
    "classifier's scores, 20 resamples": scored(classifier_scores),
    "mean over images, 20 resamples": of_table(lambda table: mean_interval(table, by_patient=False)),
    "mean over patients, 20 resamples": of_table(lambda table: mean_interval(table, by_patient=True)),
    "tuning, 20 candidates": scored(tuned),
}


if __name__ == "__main__":
    main()
