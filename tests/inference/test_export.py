"""Exports of a pipeline: the same decisions, or nothing is written."""

import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from pneumoseg import rle
from pneumoseg.engines.export_record import EXPORTS, RECORD, ExportError, check_files, read_record
from pneumoseg.engines.openvino_network import computed_precision
from pneumoseg.folder_lock import locked_folder
from pneumoseg.inference import assemble_pipeline, load_pipeline
from pneumoseg.inference import export as export_module
from pneumoseg.inference import exported_networks
from pneumoseg.inference.export import export_pipeline
from pneumoseg.inference.export_images import choose_images
from pneumoseg.models.bundle import save_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from tests.conftest import manifest_of

SIZE = 32


def bright_squares(count, seed):
    """Return noisy images, uint8, (count, 32, 32), and their masks; every second one has a bright square."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, size=(count, SIZE, SIZE))
    masks = np.zeros(images.shape, bool)
    for mask, (row, column) in zip(masks[::2], rng.integers(SIZE - 10, size=(count, 2)), strict=False):
        mask[row : row + 10, column : column + 10] = True
    return (images + 130 * masks).astype(np.uint8), masks


def trained(model, images, targets, steps):
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    model.fit(images[..., None].astype("float32"), targets, batch_size=16, epochs=steps, verbose=0)
    return model


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A classifier `c` and a segmenter `s` that find bright squares, and an untrained classifier `c2`."""
    folder = tmp_path_factory.mktemp("bundles")
    keras.utils.set_random_seed(0)
    images, masks = bright_squares(64, 0)
    for name, steps in (("c", 6), ("c2", 0)):
        arguments = {"backbone": "compact", "image_size": SIZE}
        model = build_classifier(**arguments, weights=None)
        if steps:
            trained(model, images, masks.any((1, 2)).astype("float32"), steps)
        save_bundle(folder / name, model, "classifier", arguments, {"probability": 0.5})
    arguments = {"architecture": "unet", "backbone": "compact", "image_size": SIZE}
    model = trained(build_segmenter(**arguments, weights=None), images, masks[..., None].astype("float32"), 10)
    save_bundle(folder / "s", model, "segmenter", arguments, {"probability": 0.5})
    return folder


@pytest.fixture(scope="module")
def assembled(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembled") / "p"
    assemble_pipeline(bundles / "c", bundles / "s", folder)
    return folder


@pytest.fixture
def folder(assembled, tmp_path):
    """A pipeline to export."""
    return shutil.copytree(assembled, tmp_path / "p")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Manifest of 24 images, 12 of them positive."""
    folder = tmp_path_factory.mktemp("images")
    images, masks = bright_squares(24, 1)
    paths = [folder / f"i{number:02}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return manifest_of(paths, images, [rle.encode(mask) for mask in masks])


def test_show(folder, manifest):
    p = load_pipeline(folder)
    print([r.probability for r in p.predict_many(manifest["path"])])
    print([r.stage for r in p.predict_many(manifest["path"])])
    for e in ("openvino", "onnx"):
        for q in ("float32", "int8"):
            r = export_pipeline(folder, e, q, calibration=manifest if q == "int8" else None, images=manifest)
            print(e, q, r.comparison)
    assert 0
