"""Time and peak memory of an evaluation of cached predictions, with all sweeps and intervals.

Predictions of 2,400 generated cases in the competition's proportions (22% positive) are written to a temporary folder.
Their maps of 512 x 512 pixels resemble those of a trained segmenter: blurred masks with a ragged rim, some of them
missed, and some false alarms. A quarter of the cases is scored as well: the ratio of the peak memories tells whether
memory grows with the number of images. The sweep of minimum areas is also timed against its baseline, which computes
each mask again for each area.

Run with: python benchmarks/evaluation.py [IMAGES]
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from pneumoseg import rle
from pneumoseg.data.index import COLUMNS
from pneumoseg.decision import DecisionRule, decide, quantize
from pneumoseg.evaluation import GRIDS, evaluate
from pneumoseg.evaluation.pixel_counts import count_pixels
from pneumoseg.evaluation.tuning import tune
from pneumoseg.predictions import load_predictions
from pneumoseg.scores import dice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", type=int, default=2400)
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.score:
        score(arguments.score)
        return
    results = {}
    for count in (arguments.images // 4, arguments.images):
        with tempfile.TemporaryDirectory() as folder:
            write_predictions(Path(folder), count)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*.*"))
            # A separate process, so that its peak memory does not include that of other work.
            command = [sys.executable, __file__, "--score", folder]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            results[count] = json.loads(answer) | {"megabytes on disk": size / 1e6}
    print(f"{os.cpu_count()} CPU cores")
    print(pd.DataFrame(results).rename_axis(columns="images").to_string(float_format="{:.2f}".format))
    few, many = results.values()
    print(f"peak memory, {arguments.images} images to a quarter of them: {many['peak MiB'] / few['peak MiB']:.2f}")


def score(folder: Path) -> None:
    """Evaluate and tune, and print seconds and peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    predictions = load_predictions(folder)
    evaluation = evaluate(predictions, DecisionRule(), DecisionRule(mask_threshold=0.4, minimum_area=1750))
    scored = time.perf_counter()
    tune(predictions, DecisionRule())
    tuned = time.perf_counter()
    few = predictions.select(np.arange(len(predictions.manifest)) < 48)
    count_pixels(few, [0.5], GRIDS[1024])
    swept = time.perf_counter()
    for row, area in itertools.product(range(48), GRIDS[1024]):
        mask = decide(few.prob_map(row), (1024, 1024), DecisionRule(minimum_area=area)).mask
        dice(mask, rle.decode(few.manifest["rle"].iloc[row]))
    computed = time.perf_counter()
    print(
        json.dumps(
            {
                "seconds to evaluate": scored - start,
                "seconds to tune": tuned - scored,
                "sweep, ratio to computing each mask": (swept - tuned) / (computed - swept),
                "MiB before": before,
                "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "mean Dice": float(evaluation.cases["dice"].mean()),
            }
        )
    )


def write_predictions(folder: Path, count: int) -> None:
    """Write a folder like `pneumoseg cache-predictions` does."""
    rng = np.random.default_rng(0)
    (folder / "maps").mkdir()
    rows, probabilities = [], []
    for number in range(count):
        positive = number % 9 < 2
        mask = blob(rng) if positive else np.zeros((1024, 1024), bool)
        found = mask if rng.random() < 0.85 else np.zeros_like(mask)
        if rng.random() < 0.15:
            found = found | blob(rng)
        noise = gaussian_filter(rng.normal(0, 1, (512, 512)).astype(np.float32), 6) * 4
        near = gaussian_filter(found[::2, ::2].astype(np.float32), 4)
        prob_map = np.clip(near + noise * near, 0, 1)
        Image.fromarray(quantize(prob_map)).save(folder / "maps" / f"image_{number}.png")
        probabilities.append(float(np.clip(rng.normal(0.7 if positive else 0.2, 0.2), 0, 1)))
        rows.append(
            {
                "image_id": f"image_{number}",
                "path": "",
                "has_pneumothorax": positive,
                "rle": rle.encode(mask),
                "area_px": int(mask.sum()),
                "patient_id": f"patient_{number // 2}",
                "patient_source": "id map",
                "view": rng.choice(["PA", "AP"]),
                "sex": rng.choice(["F", "M"]),
                "age": float(rng.integers(15, 90)),
                "rows": 1024,
                "columns": 1024,
                "pixel_spacing": 0.14,
                "frame_offset": 0,
                "frame_length": 0,
                "file_bytes": 0,
                "file_modified": 0,
            }
        )
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "manifest.csv", index=False)
    names = [row["image_id"] for row in rows]
    table = pd.DataFrame({"image_id": names, "probability": probabilities, "seconds": 1.0, "error": ""})
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "predictions.json").write_text(json.dumps({"networks": {}, "flip": False}))


def blob(rng: np.random.Generator) -> np.ndarray:
    """Return a crescent of some ten thousand pixels, as along the rim of a lung."""
    y, x = np.ogrid[:1024, :1024]
    centre, radius, width = rng.uniform(300, 700, 2), rng.uniform(150, 280), rng.uniform(0.75, 0.97)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    hole = (y - centre[0]) ** 2 + (x - centre[1] - radius * (1 - width)) ** 2 < (radius * width) ** 2
    return inside & ~hole & (y < centre[0])


if __name__ == "__main__":
    main()
