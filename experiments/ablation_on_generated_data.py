"""The ablation and table 2 on generated data, over seeds: is the staged decision worth it, how small is too small?

Each seed has its own chests, split and weights. Two segmenters stand beside each other: table 1's, which has seen as
many negatives as positives, and one that has seen positives alone. Of both the four epochs in a row with the best
validation IoU are averaged. Rules are tuned on the validation images; scored are 300 test images a seed, all pooled,
each seed by its own networks and rule. Intervals are from a bootstrap over images, which knows nothing of other seeds'
networks.

Run with: python experiments/ablation_on_generated_data.py FOLDER [SEED ...]
Data and runs stay in the folder, which can be that of the other studies; where it is interrupted, the same command goes
on.
"""

import argparse
import dataclasses
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd
from generated_data import manifests, trained

from pneumoseg.data.splits import without_training_images
from pneumoseg.evaluation import GRIDS, STAGED, TABLE_2, ablation, table_columns
from pneumoseg.evaluation.cases import score_cases
from pneumoseg.evaluation.pixel_counts import count_pixels
from pneumoseg.evaluation.tables import paired_differences, score_variants
from pneumoseg.evaluation.tuning import tune
from pneumoseg.inference import PipelineFolder, assemble_pipeline, load_pipeline
from pneumoseg.predictions import Predictions, cache_predictions
from pneumoseg.training.averaging import average_epochs

CLASSIFIER = "generated_classifier_augmentation"
SEGMENTERS = {
    "positives and negatives": "generated_segmenter_window_swa",
    "positives alone": "generated_segmenter_positives_alone",
}
Variants = dict[str, pd.DataFrame]


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


def scored(seeds: dict[int, Variants]) -> pd.DataFrame:
    """Pooled scores, paired differences of the first variant from the others, and mean Dice by seed."""
    names = list(next(iter(seeds.values())))
    pooled = {name: pd.concat([variants[name] for variants in seeds.values()], ignore_index=True) for name in names}
    groups = np.arange(len(pooled[names[0]]))
    table = table_columns(score_variants(pooled, groups))
    shown = ["mean_dice", "mean_dice_low", "mean_dice_high", "dice_positives", "dice_negatives"]
    table = table[shown].join(table_columns(paired_differences(pooled, names[0], groups)).add_prefix("first's "))
    for seed, variants in seeds.items():
        table[f"seed {seed}"] = pd.Series({name: cases["dice"].mean() for name, cases in variants.items()})
    return table


def one_seed(folder: Path, seed: int, segmenter: str) -> tuple[Variants, Variants]:
    """The cases of the test images, of each variant of the ablation and of each row of table 2."""
    manifest, test = manifests(folder / "data", seed)
    cache = folder / "cache"
    runs = [trained(folder / name, name, seed, manifest, cache) for name in (CLASSIFIER, segmenter)]
    average = runs[1] / "swa_automatic"
    if not average.exists():
        average_epochs(runs[1], "best:4", manifest, cache, average)
    pipeline = folder / f"pipeline_{segmenter}"
    if not pipeline.exists():
        assemble_pipeline(runs[0] / "best", average, pipeline)
    kept = folder / f"predictions_{segmenter}"
    validation = predicted(pipeline, without_training_images(manifest, runs), kept / "validation")
    tested = predicted(pipeline, test, kept / "test")
    rule = PipelineFolder.read(pipeline).assembled
    tuned = tune(validation, rule).rule
    print(f"seed {seed}, {segmenter}: {rule}, tuned {tuned}")
    thresholds = [rule.mask_threshold, tuned.mask_threshold, tuned.top_threshold]
    native = count_pixels(tested, thresholds, [*GRIDS[1024], rule.minimum_area, tuned.minimum_area])
    coarse = count_pixels(tested, [rule.mask_threshold], GRIDS[512], grid=512)
    variants = ablation(tested, native, rule)
    variants |= {f"{name}, tuned": cases for name, cases in ablation(tested, native, tuned).items() if name == STAGED}
    rows = [(grid, area) for grid, area, _ in TABLE_2] + [
        (1024, area) for area in (0.0, 1000.0, 2500.0, 6000.0, 8000.0)
    ]
    table_2 = {
        f"{area:.0f} px at {grid}": score_cases(
            tested, native if grid == 1024 else coarse, dataclasses.replace(rule, minimum_area=area)
        )
        for grid, area in rows
    }
    return variants, table_2


def predicted(pipeline: Path, manifest: pd.DataFrame, folder: Path) -> Predictions:
    """Run the networks over what is missing."""
    return cache_predictions(load_pipeline(pipeline, 16), manifest, folder)


if __name__ == "__main__":
    main()
