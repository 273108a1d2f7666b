"""Table 1 on generated data: test IoU, F1 and F2 over several seeds, of single epochs and of averaged weights.

Each seed has its own synthetic chests, split and weights. Windows and epochs are chosen on validation images, as in the
paper, and scored on test images. One average is also scored without recomputed batch statistics.

Run with: python experiments/table_1_on_generated_data.py FOLDER [SEED ...]
Data and runs are kept in the folder. The same command resumes an interrupted study.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from generated_data import manifests, trained

from pneumoseg.callbacks.epoch_weights import load_epoch_weights
from pneumoseg.data.loaders import segmentation_examples
from pneumoseg.models.bundle import load_bundle
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.training.averaging import average_epochs
from pneumoseg.training.objective import segmentation_metrics

EXPERIMENTS = ("generated_segmenter_window_swa", "generated_segmenter_classic_swa")
SCORES = ["iou", "f1", "f2", "pooled_iou"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    rows = pd.concat([one_seed(arguments.folder / f"seed_{seed}", seed) for seed in arguments.seeds])
    print(rows.to_string(index=False, float_format="%.3f"))
    print("\nMean over seeds, and their standard deviation:")
    print(rows.groupby("weights", sort=False)[SCORES].agg(["mean", "std"]).to_string(float_format="%.3f"))


def one_seed(folder: Path, seed: int) -> pd.DataFrame:
    """Return the scores of one seed, one row per kind of weights."""
    cache = folder / "cache"
    manifest, test = manifests(folder / "data", seed)
    window, classic = (trained(folder / name, name, seed, manifest, cache) for name in EXPERIMENTS)
    automatic = average_epochs(window, "best:4", manifest, window.folder / "swa_automatic")
    chosen = f"{automatic['start_epoch']} to {automatic['end_epoch']}"
    settings, bundle = window.settings(), load_bundle(window.best)
    images = segmentation_examples(test, settings.image_size, cache_dir=cache).batches(16)
    empty = {name: float((~test["has_pneumothorax"]).mean()) for name in SCORES[:-1]} | {"pooled_iou": 0.0}
    keras.utils.set_random_seed(seed)
    model = build_segmenter(**bundle.arguments, weights=None)
    model.compile(loss="binary_crossentropy", metrics=segmentation_metrics(), jit_compile=False)
    rows = [{"weights": "all empty", **empty}, {"weights": "untrained", **scored(model, images)}]
    for name, folder in {
        "best epoch": window.best,
        "classic SWA": classic.swa,
        "window SWA": window.swa,
        "automatic window SWA": automatic["folder"],
    }.items():
        model.set_weights(load_bundle(folder).model.get_weights())
        rows.append({"weights": name, **scored(model, images)})
    model.set_weights(load_epoch_weights(window.epoch_weights, sum(phase.epochs for phase in settings.phases)))
    rows.insert(2, {"weights": "last epoch", **scored(model, images)})
    averaged = range(settings.swa.start_epoch, settings.swa.end_epoch + 1)
    samples = [load_epoch_weights(window.epoch_weights, epoch) for epoch in averaged]
    model.set_weights([np.mean(values, axis=0) for values in zip(*samples, strict=True)])
    rows.append({"weights": "window SWA, statistics averaged", **scored(model, images)})
    return pd.DataFrame(rows).assign(seed=seed, automatic=chosen)


def scored(model: keras.Model, images: tf.data.Dataset) -> dict[str, float]:
    """Return the scores on the test images; IoU, F1 and F2 are means over images, where two empty masks score 1."""
    scores = model.evaluate(images, verbose=0, return_dict=True)
    return {name: scores[name] for name in SCORES}


if __name__ == "__main__":
    main()
