"""Networks and trainings that two processes make, one on each backend of Keras.

`python -m tests.training.on_backend FOLDER` does one backend's part in a process of its own.
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
    "feature pyramid": (
        "segmenter",
        {"architecture": "fpn", "backbone": "resnet18", "image_size": 32, "decoder_filters": 16},
    ),
}
IMAGES = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
EPOCHS = 4


def save_networks(folder: Path) -> None:
    """Save a bundle of each network with weights that the backend's initializers would not give."""
    build = {"classifier": build_classifier, "segmenter": build_segmenter}
    for name, (builder, arguments) in NETWORKS.items():
        model, rng = build[builder](**arguments, weights=None), np.random.default_rng(8)
        # Without the statistics of its images an untrained network gives the same output for all of them.
        recompute_batch_statistics(model, [IMAGES])
        model.set_weights([values * rng.uniform(0.95, 1.05, values.shape) for values in model.get_weights()])
        save_bundle(folder / name, model, builder, arguments, {"probability": 0.5})


def outputs(folder: Path) -> dict[str, np.ndarray]:
    """Return each network's probabilities, computed as a pipeline does."""
    return {name: KerasNetwork(load_bundle(folder / name).model)(IMAGES) for name in NETWORKS}


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


def main(folder: Path) -> None:
    """Do one backend's part: predict with the other's bundles, save bundles, continue a run, begin another."""
    np.savez(folder / "jax_on_tensorflow.npz", **outputs(folder / "jax"))
    save_networks(folder / "tensorflow")
    np.savez(folder / "tensorflow.npz", **outputs(folder / "tensorflow"))
    manifest = load_manifest(folder / "manifest.csv")
    train_until(manifest, folder / "from_jax", EPOCHS)
    train_until(manifest, folder / "from_tensorflow", 2)
    train_until(manifest, folder / "from_tensorflow_whole", EPOCHS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
