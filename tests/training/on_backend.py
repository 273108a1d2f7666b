"""Networks and trainings that two processes make, one on each backend of Keras.

`python -m tests.training.on_backend PART FOLDER` does a part of TensorFlow in a process of its own.
"""

import contextlib
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import yaml

from pneumoseg.config import ClassifierSettings
from pneumoseg.data.index import load_manifest
from pneumoseg.engines.keras_network import KerasNetwork
from pneumoseg.models.batch_statistics import recompute_batch_statistics
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.training.run import Run
from pneumoseg.training.tasks import ClassifierTask
from pneumoseg.training.train import train

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
NETWORKS = {
    "classifier of the demo": ("classifier", {"backbone": "compact", "image_size": 32}),
    "mobilenet": ("classifier", {"backbone": "mobilenet_025", "image_size": 32}),
    "segmenter of the demo": ("segmenter", {"architecture": "unet", "backbone": "compact", "image_size": 32}),
    "feature_pyramid": (
        "segmenter",
        {"architecture": "fpn", "backbone": "resnet18", "image_size": 32, "decoder_filters": 16},
    ),
}
IMAGES = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
EPOCHS = 4


def save_networks(folder: Path) -> None:
    """Save a bundle of each network, and its probabilities."""
    build = {"classifier": build_classifier, "segmenter": build_segmenter}
    for name, (builder, arguments) in NETWORKS.items():
        model = build[builder](**arguments, weights=None)
        # Without the statistics of its images an untrained network gives the same output for all of them.
        recompute_batch_statistics(model, [IMAGES])
        save(folder / name, KerasNetwork(model))


def save_changed(folder: Path, source: Path) -> None:
    """Save each network of another folder with other weights, and its probabilities before and after the change."""
    for name in NETWORKS:
        network, rng = KerasNetwork(load_bundle(source / name).model), np.random.default_rng(8)
        np.save(folder / f"{name} of {source.name}.npy", network(IMAGES))
        weights = network.model.get_weights()
        network.model.set_weights([values * rng.uniform(0.95, 1.05, values.shape) for values in weights])
        save(folder / name, network)


def save(folder: Path, network: KerasNetwork) -> None:
    """Save the bundle and the probabilities of a network."""
    builder, arguments = NETWORKS[folder.name]
    save_bundle(folder, network.model, builder, arguments, {"probability": 0.5})
    np.save(folder.parent / f"{folder.name}.npy", network(IMAGES))


def train_until(manifest: pd.DataFrame, folder: Path, last: int) -> None:
    """Train the demo's classifier, made small, or continue it; end the process's part after an epoch."""
    content = yaml.safe_load((EXPERIMENTS / "demo_classifier.yaml").read_text()) | {"image_size": 32, "batch_size": 10}
    content["split"] = {"validation_fraction": 0.5, "seed": 0, "group_by_patient": False}
    content["phases"] = [{"epochs": EPOCHS, "learning_rate": 0.0005, "trainable": "all"}]

    def stop(epoch: int, logs: dict[str, float]) -> None:
        if epoch + 1 == last < EPOCHS:
            raise KeyboardInterrupt

    watch = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    task = ClassifierTask(ClassifierSettings.model_validate(content))
    with contextlib.suppress(KeyboardInterrupt):
        train(task, manifest, Run(folder, resume=True), make_callback=lambda _: watch)


def begin(folder: Path) -> None:
    """Save bundles, begin a run, and train another one to its end."""
    save_networks(folder / "tensorflow")
    manifest = load_manifest(folder / "manifest.csv")
    train_until(manifest, folder / "from_tensorflow", 2)
    train_until(manifest, folder / "stayed", EPOCHS)


def end(folder: Path) -> None:
    """Predict with the bundles of JAX, and end its run."""
    for name in NETWORKS:
        probabilities = KerasNetwork(load_bundle(folder / "jax" / name).model)(IMAGES)
        np.save(folder / "tensorflow" / f"{name} of jax.npy", probabilities)
    train_until(load_manifest(folder / "manifest.csv"), folder / "from_jax", EPOCHS)


if __name__ == "__main__":
    {"begin": begin, "end": end}[sys.argv[1]](Path(sys.argv[2]))
