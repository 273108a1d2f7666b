"""Ablation and table 2 on generated data over several seeds: the gain of the staged decision, and the minimum area.

Each seed has its own synthetic chests, split and weights. Two segmenters are compared: that of table 1, which is
trained on as many negatives as positives, and one that is trained on positives alone. For both, the four consecutive
epochs with the best mean validation IoU are averaged. Rules are tuned on the validation images. The scores are those
of 300 test images per seed, each by the networks and the rule of its seed, pooled over seeds. Intervals are from a
bootstrap over images, which does not cover the variation between networks of different seeds.

Run with: python experiments/ablation_on_generated_data.py FOLDER [SEED ...]
Data and runs are kept in the folder, which may be that of the other studies. The same command resumes an interrupted
study.
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd
from generated_data import manifests, trained, without_training_images

from pneumoseg.evaluation import GRIDS, STAGED, TABLE_2, ablation
from pneumoseg.evaluation.cases import decide
from pneumoseg.evaluation.measures import measure
from pneumoseg.evaluation.tables import gains_over, score_arms
from pneumoseg.evaluation.tuning import tune
from pneumoseg.inference import PipelineFolder, assemble_pipeline, load_pipeline
from pneumoseg.predictions import Predictions, predict
from pneumoseg.training.averaging import average_epochs

CLASSIFIER = "generated_classifier_augmentation"
SEGMENTERS = {
    "positives and negatives": "generated_segmenter_window_swa",
    "positives alone": "generated_segmenter_positives_alone",
}
Arms = dict[str, pd.DataFrame]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    for name, segmenter in SEGMENTERS.items():
        found = [one_seed(arguments.folder / f"seed_{seed}", seed, segmenter) for seed in arguments.seeds]
        print(f"\nSegmenter trained on {name}")
        for title, seeds in zip(("Ablation", "Table 2, rule as assembled"), zip(*found, strict=True), strict=True):
            print(f"\n{title}\n{scored(dict(zip(arguments.seeds, seeds, strict=True))).to_string(float_format='%.3f')}")


def scored(seeds: dict[int, Arms]) -> pd.DataFrame:
    """Return pooled scores, the gains of the first arm over the others, and the mean Dice of each seed."""
    names = list(next(iter(seeds.values())))
    pooled = {name: pd.concat([arms[name] for arms in seeds.values()], ignore_index=True) for name in names}
    groups = np.arange(len(pooled[names[0]]))
    table = score_arms(pooled, groups)
    shown = ["mean_dice", "mean_dice_low", "mean_dice_high", "dice_positives", "dice_negatives"]
    table = table[shown].join(gains_over(pooled, names[0], groups).add_prefix("first's "))
    for seed, arms in seeds.items():
        table[f"seed {seed}"] = pd.Series({name: cases["dice"].mean() for name, cases in arms.items()})
    return table


def one_seed(folder: Path, seed: int, segmenter: str) -> tuple[Arms, Arms]:
    """Return the cases of the test images for each arm of the ablation and each row of table 2."""
    manifest, test = manifests(folder / "data", seed)
    cache = folder / "cache"
    runs = [trained(folder / name, name, seed, manifest, cache) for name in (CLASSIFIER, segmenter)]
    average = runs[1].folder / "swa_automatic"
    if not average.exists():
        average_epochs(runs[1], "best:4", manifest, average)
    pipeline = folder / f"pipeline_{segmenter}"
    if not pipeline.exists():
        assemble_pipeline(runs[0].best, average, pipeline)
    kept = folder / f"predictions_{segmenter}"
    validation = predicted(pipeline, without_training_images(manifest, runs), kept / "validation")
    tested = predicted(pipeline, test, kept / "test")
    rule = PipelineFolder.read(pipeline).assembled
    tuned = tune(validation, rule).rule
    print(f"seed {seed}, {segmenter}: {rule}, tuned {tuned}")
    thresholds = [rule.mask_threshold, tuned.mask_threshold, tuned.top_threshold]
    native = measure(tested, thresholds, [*GRIDS[1024], rule.minimum_area, tuned.minimum_area])
    coarse = measure(tested, [rule.mask_threshold], GRIDS[512], grid=512)
    arms = ablation(tested, native, rule)
    arms |= {f"{name}, tuned": cases for name, cases in ablation(tested, native, tuned).items() if name == STAGED}
    rows = [(grid, area) for grid, area, _ in TABLE_2] + [
        (1024, area) for area in (0.0, 1000.0, 2500.0, 6000.0, 8000.0)
    ]
    table_2 = {
        f"{area:.0f} px at {grid}": decide(
            tested, native if grid == 1024 else coarse, dataclasses.replace(rule, minimum_area=area)
        )
        for grid, area in rows
    }
    return arms, table_2


def predicted(pipeline: Path, manifest: pd.DataFrame, folder: Path) -> Predictions:
    """Run the networks over the images that are not in the cache yet."""
    return predict(load_pipeline(pipeline, 16), manifest, folder)


if __name__ == "__main__":
    main()
