"""The two arms of section 4.1.1 on generated data: test MCC and AUC over several seeds, next to two baselines.

Each seed has its own synthetic chests, split and weights. The arms differ only in augmentation and enrichment; a third
one has neither. The baselines are an untrained network and the majority class. No epoch or threshold was chosen on the
test images that are scored.

Run with: python experiments/arms_on_generated_data.py FOLDER [SEED ...]
Data and runs are kept in the folder. The same command resumes an interrupted study.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
from generated_data import manifests, trained

from pneumoseg.data.loaders import classification_examples
from pneumoseg.models.bundle import load_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.scores import classification_scores

ARMS = {
    "augmentation": "generated_classifier_augmentation",
    "enrichment": "generated_classifier_enrichment",
    "neither": "generated_classifier",
}


def main() -> None:
    """Train the missing networks and score all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    rows = pd.DataFrame([row for seed in arguments.seeds for row in one_seed(arguments.folder / f"seed_{seed}", seed)])
    print(rows.to_string(index=False, float_format="%.3f"))
    print("\nMean over seeds, and their standard deviation:")
    print(rows.drop(columns="seed").groupby("arm", sort=False).agg(["mean", "std"]).to_string(float_format="%.3f"))


def one_seed(folder: Path, seed: int) -> list[dict[str, object]]:
    """Return the scores of one seed, one row per arm or baseline."""
    manifest, test = manifests(folder / "data", seed)
    labels = test["has_pneumothorax"].to_numpy()
    rows: list[dict[str, object]] = []
    for arm, experiment in ARMS.items():
        run = trained(folder / experiment, experiment, seed, manifest, folder / "cache")
        bundle = load_bundle(run.best)
        rows.append({"seed": seed, "arm": arm} | scored(bundle.model, bundle.thresholds["probability"], test, folder))
    keras.utils.set_random_seed(seed)
    untrained = build_classifier(**bundle.arguments, weights=None)
    rows.append({"seed": seed, "arm": "untrained"} | scored(untrained, 0.5, test, folder))
    majority = np.zeros(len(labels))
    majority_scores = {"mcc": classification_scores(labels, majority)["mcc"], "auc": 0.5}
    rows.append({"seed": seed, "arm": "majority"} | majority_scores | {"mcc_at_bundle_threshold": 0.0})
    return rows


def scored(model: keras.Model, threshold: float, test: pd.DataFrame, folder: Path) -> dict[str, float]:
    """Return the MCC and AUC on the test images."""
    examples = classification_examples(test, model.input_shape[1], cache_dir=folder / "cache")
    probabilities = model.predict(examples.batches(16), verbose=0)[:, 0]
    labels = test["has_pneumothorax"].to_numpy()
    scores = classification_scores(labels, probabilities)
    chosen = classification_scores(labels, probabilities, threshold)
    return {"mcc": scores["mcc"], "auc": scores["auc"], "mcc_at_bundle_threshold": chosen["mcc"]}


if __name__ == "__main__":
    main()
