"""Seconds per image of the paper's pipeline on every engine and precision that is installed, next to PyTorch.

Each candidate runs the staged pipeline from file to mask: Xception on all images at 1024 x 1024, then FPN with
InceptionResNetV2 at 512 x 512 on the 22% that the classifier passes on, the share of positives in the competition's
training set. Both networks are also timed alone. Candidates take their turns in each round, so that other work on the
machine affects all of them; printed are medians of the ratios within a round.

The weights are random, which does not change the time. A candidate's threshold is set between the outputs of its own
classifier, so that each segments the same number of images. Whether an export decides as Keras does is another
question: see benchmarks/results/engines.md.

PyTorch's candidates are timm's Xception and segmentation-models-pytorch's FPN, in channels-last layout, in the same
pipeline.

What bounds the networks on this machine is shown by the multiply-add operations of their convolutions and dense layers
per second, as a share of those of a product of two large float32 matrices in the same rounds.

Run with: python benchmarks/inference.py [MANIFEST OF JPEG-BASELINE DICOM FILES] [--rounds 3] [--images 9]
    Without a manifest it runs on generated files. --small takes small networks, to try the benchmark. --keep FOLDER
    keeps the pipeline with its exports, and uses those that it finds there.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import contextlib
import dataclasses
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# PyTorch's compiler, which timm imports, crashes the process if TensorFlow was imported before it.
with contextlib.suppress(ImportError):
    import segmentation_models_pytorch
    import timm
    import torch

import keras
import numpy as np
import pandas as pd

from pneumoseg.data.index import index_dataset, load_manifest
from pneumoseg.decision import DecisionRule
from pneumoseg.engines.export_record import EXPORTS, ExportError
from pneumoseg.inference import Pipeline, assemble_pipeline, load_pipeline
from pneumoseg.inference.export import describe_cpu, export_pipeline
from pneumoseg.models.bundle import save_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.synthetic import write_dataset

POSITIVE = 0.22
BATCH = 4
PAPER = ({"backbone": "xception", "image_size": 1024}, {"architecture": "fpn", "backbone": "inceptionresnetv2"})
SMALL = (
    {"backbone": "compact", "image_size": 128},
    {"architecture": "unet", "backbone": "compact", "image_size": 128},
)
CANDIDATES = tuple(itertools.product(("openvino", "onnx"), ("float32", "bfloat16", "int8")))


class TorchNetwork:
    """A PyTorch network in channels-last layout, in float32 or under autocast to bfloat16."""

    def __init__(self, module: Any, name: str, image_size: int, bfloat16: bool) -> None:
        self._module = module.eval().to(memory_format=torch.channels_last)
        self._bfloat16 = bfloat16
        self.name, self.image_size = name, image_size
        self.parameters = sum(each.numel() for each in module.parameters())

    def __call__(self, images: np.ndarray) -> np.ndarray:
        scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).expand(-1, 3, -1, -1)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            output = self._module(scaled.contiguous(memory_format=torch.channels_last))
        probability = output.float().sigmoid().numpy()
        return probability if probability.ndim == 2 else probability.transpose(0, 2, 3, 1)


def write_pipeline(folder: Path, small: bool) -> None:
    """Write a pipeline with random weights."""
    keras.utils.set_random_seed(0)
    builders = {"classifier": build_classifier, "segmenter": build_segmenter}
    for (kind, build), arguments in zip(builders.items(), SMALL if small else PAPER, strict=True):
        save_bundle(folder / kind, build(**arguments, weights=None), kind, arguments, {"probability": 0.5})
    # No image passes, so no decision differs, and no export is searched for the layers that change one.
    bundles = folder / "classifier", folder / "segmenter"
    assemble_pipeline(*bundles, folder / "pipeline", classifier_threshold=1)


def torch_pipelines(small: bool) -> Iterator[tuple[str, Pipeline]]:
    """Yield PyTorch's pipelines, if it is installed with timm and segmentation-models-pytorch."""
    missing = [name for name in ("torch", "timm", "segmentation_models_pytorch") if not importlib.util.find_spec(name)]
    if missing:
        print(f"PyTorch is left out: {', '.join(missing)} not installed")
        return
    torch.manual_seed(0)
    encoder, sizes = ("resnet18", (128, 128)) if small else ("inceptionresnetv2", (1024, 512))
    classifier = timm.create_model("resnet18" if small else "legacy_xception", pretrained=False, num_classes=1)
    segmenter = segmentation_models_pytorch.FPN(encoder, encoder_weights=None, classes=1)
    precisions = ("float32", "bfloat16") if describe_cpu().get("bfloat16") else ("float32",)
    if len(precisions) == 1:
        print("pytorch-bfloat16 is left out: this CPU does not compute in bfloat16, which PyTorch then emulates")
    for precision in precisions:
        networks = [
            TorchNetwork(module, name, size, precision == "bfloat16")
            for module, name, size in zip(
                (classifier, segmenter), ("classifier_timm", "segmenter_smp"), sizes, strict=True
            )
        ]
        yield f"pytorch-{precision}", Pipeline(networks[:1], networks[1:], batch_size=BATCH)


def exported_pipelines(folder: Path, manifest: pd.DataFrame, left_out: list[str]) -> Iterator[tuple[str, Pipeline]]:
    """Export the pipeline for each engine in each precision that can be had here, and yield the results."""
    for engine, precision in CANDIDATES:
        name = f"{engine}-{precision}"
        if name in left_out:
            continue
        try:
            if not (folder / EXPORTS / name).exists():
                export(folder, engine, precision, manifest)
            yield name, load_pipeline(folder, BATCH, engine=name)
        except ExportError as error:
            print(f"{name} is left out: {error}")


def export(folder: Path, engine: str, precision: str, manifest: pd.DataFrame) -> None:
    """Export the pipeline, whatever it decides: networks with random weights may decide anything."""
    start = time.perf_counter()
    calibration = manifest if precision == "int8" else None
    export_pipeline(folder, engine, precision, images=manifest, calibration=calibration, accept_differences=True)
    print(f"{engine}-{precision}: exported in {time.perf_counter() - start:.0f} s", flush=True)


def prepared(pipeline: Pipeline, paths: list[Path]) -> Pipeline:
    """Return a pipeline that is warm, with the threshold that lets the right number of images pass."""
    classifying = dataclasses.replace(pipeline, rule=DecisionRule(1))
    probability = sorted((result.probability for result in classifying.predict_many(paths)), reverse=True)
    (segmenter,) = pipeline.segmenters
    segmenter(np.zeros((1, segmenter.image_size, segmenter.image_size, 1), np.uint8))
    passed = _segmented(paths)
    threshold = (probability[passed - 1] + probability[passed]) / 2
    return dataclasses.replace(pipeline, rule=DecisionRule(float(threshold), minimum_area=0))


def run(pipeline: Pipeline, paths: list[Path]) -> dict[str, float]:
    """Return seconds per image, of the staged run and of each network alone on a batch."""
    start = time.perf_counter()
    results = list(pipeline.predict_many(paths))
    seconds = {"staged": (time.perf_counter() - start) / len(paths)}
    passed = sum(result.stage != "classifier" for result in results)
    assert not any(result.error for result in results)
    assert passed == _segmented(paths), f"{passed} images were segmented"
    for kind, network in (("classifier", pipeline.classifiers[0]), ("segmenter", pipeline.segmenters[0])):
        images = np.random.default_rng(0).integers(0, 256, (BATCH, network.image_size, network.image_size, 1), np.uint8)
        start = time.perf_counter()
        network(images)
        seconds[kind] = (time.perf_counter() - start) / BATCH
    return seconds


def _segmented(paths: list[Path]) -> int:
    return max(1, round(POSITIVE * len(paths)))


def multiply_adds(model: keras.Model) -> float:
    """Return the number of multiply-add operations of the convolutions and dense layers for one image."""
    layers = [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]
    return sum(
        # Each weight of a kernel is used once for each pixel of the output.
        np.prod(layer.output.shape[1:-1], dtype=float) * np.prod(weight.shape, dtype=float)
        for layer in layers
        for weight in layer.weights
        if "kernel" in weight.name
    )


def matrix_product_rate() -> Callable[[], float]:
    """Return a function that measures multiply-adds per second of a large matrix product in float32 on all cores."""
    import tensorflow as tf

    side = 2048
    matrix = tf.random.normal((side, side))
    product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    product()

    def rate() -> float:
        start = time.perf_counter()
        product()
        return side**3 / (time.perf_counter() - start)

    return rate


def compare(pipelines: dict[str, Pipeline], paths: list[Path], rounds: int, work: dict[str, float]) -> None:
    """Run the candidates in turn, and print the table."""
    passed = _segmented(paths)
    ready = {name: prepared(pipeline, paths) for name, pipeline in pipelines.items()}
    rate, rates = matrix_product_rate(), list[float]()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ready}
    for number in range(rounds):
        for name, pipeline in ready.items():
            rates.append(rate())
            runs[name].append(run(pipeline, paths))
        print(f"round {number + 1} of {rounds} done", flush=True)
    cpu = describe_cpu()
    has = ", ".join(f"{name} {'yes' if cpu[name] else 'no'}" for name in ("bfloat16", "vnni") if cpu[name] is not None)
    print(f"\n{cpu['model']}, {os.cpu_count()} cores, {has}")
    print(f"{len(paths)} images, {passed} of them segmented, batches of {BATCH}, medians of {rounds} rounds in turn")
    print("Seconds per image; ratios to Keras in float32; share: both networks alone, as a part of the staged run\n")
    print("| engine | staged | ratio | classifier | ratio | segmenter | ratio | share |")
    print("|---|---|---|---|---|---|---|---|")
    baseline = runs["keras-float32"]
    for name, own in runs.items():
        cells = []
        for part in ("staged", "classifier", "segmenter"):
            ratio = statistics.median(base[part] / each[part] for base, each in zip(baseline, own, strict=True))
            cells += [f"{statistics.median(each[part] for each in own):.3g}", f"{ratio:.2f}"]
        share = statistics.median(
            (each["classifier"] + passed / len(paths) * each["segmenter"]) / each["staged"] for each in own
        )
        print(f"| {name} | {' | '.join(cells)} | {share:.2f} |")
    usual, best = statistics.median(rates), max(rates)
    print(f"\nfloat32 matrix product: median {usual / 1e9:.1f}, best {best / 1e9:.1f} billion multiply-adds per second")
    for part, operations in work.items():
        print(
            f"{part}: {operations / 1e9:.1f} billion multiply-adds per image; best rate, as a share of the product's:"
        )
        for name, own in runs.items():
            if not name.startswith("pytorch"):
                print(f"  {name:18} {operations / min(each[part] for each in own) / best:.2f}")


@contextlib.contextmanager
def first_images(manifest: Path | None, count: int) -> Iterator[pd.DataFrame]:
    """Yield the first rows of a manifest, or of one of generated files."""
    with tempfile.TemporaryDirectory() as temporary:
        if manifest is None:
            write_dataset(temporary, train=count, test=1, seed=0)
            table = index_dataset(Path(temporary) / "dicom-images-train", Path(temporary) / "train-rle.csv")
        else:
            table = load_manifest(manifest)
        if len(table) < count:
            raise SystemExit(f"{manifest}: {len(table)} images, expected at least {count}")
        yield table.head(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=9)
    parser.add_argument("--without", nargs="*", default=[], metavar="EXPORT", help="such as onnx-int8")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    with first_images(asked.manifest, asked.images) as manifest, tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        if not (folder / "pipeline").exists():
            write_pipeline(folder, asked.small)
        keras_float32 = load_pipeline(folder / "pipeline", BATCH)
        networks = {"classifier": keras_float32.classifiers[0], "segmenter": keras_float32.segmenters[0]}
        pipelines = {"keras-float32": keras_float32}
        pipelines |= exported_pipelines(folder / "pipeline", manifest, asked.without)
        pipelines |= torch_pipelines(asked.small)
        print(f"timed: {', '.join(pipelines)}", flush=True)
        paths = [Path(path) for path in manifest["path"]]
        compare(
            pipelines, paths, asked.rounds, {kind: multiply_adds(network.model) for kind, network in networks.items()}
        )


if __name__ == "__main__":
    main()
