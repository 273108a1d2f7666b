"""Exports of a pipeline: the same decisions, or nothing is written."""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from typing import ClassVar

import keras
import numpy as np
import pytest
from PIL import Image

from pneumoseg import rle
from pneumoseg.cli.export import _print_comparison
from pneumoseg.engines import conversion
from pneumoseg.engines.export_record import EXPORTS, ExportError, ExportRecord, check_files, read_record
from pneumoseg.engines.openvino_network import computed_precision
from pneumoseg.folder_lock import locked_folder
from pneumoseg.inference import assemble_pipeline, exported_networks, load_pipeline
from pneumoseg.inference import export as export_module
from pneumoseg.inference.export import export_pipeline
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
def manifest(tmp_path_factory):
    """Manifest of 24 images, 12 of them positive."""
    folder = tmp_path_factory.mktemp("images")
    images, masks = bright_squares(24, 1)
    paths = [folder / f"i{number:02}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return manifest_of(paths, images, [rle.encode(mask) for mask in masks])


@pytest.fixture(scope="module")
def keras_pipeline(assembled):
    """The pipeline of Keras, loaded once, because networks are built and traced in seconds."""
    return load_pipeline(assembled)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A conversion that converts each network once for each engine, and copies it from then on."""
    cache = tmp_path_factory.mktemp("converted")

    def convert(model, engine, path):
        place = cache / path.name
        if not place.exists():
            conversion.convert_model(model, engine, place)
        for file in cache.glob(f"{path.stem}.*"):
            if file.suffix == ".onnx" if engine == "onnx" else file.suffix != ".onnx":
                shutil.copy(file, path.parent)

    return convert


@pytest.fixture
def quick(monkeypatch, keras_pipeline, converted):
    """Make exports use the networks and conversions that other tests have made."""
    monkeypatch.setattr(export_module, "load_pipeline", lambda folder, batch_size: keras_pipeline)
    monkeypatch.setattr(exported_networks, "convert_model", converted)


EXPORTED = [
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("onnx", "float32"),
    ("onnx", "int8"),
]


@pytest.mark.parametrize(("engine", "precision"), EXPORTED)
def test_decisions_stay_the_same(engine, precision, folder, manifest, quick, keras_pipeline):
    if engine == "openvino" and computed_precision(precision) != precision:
        pytest.skip("this CPU does not compute in bfloat16")
    calibration = manifest if precision == "int8" else None
    record = export_pipeline(folder, engine, precision, calibration=calibration, images=manifest)
    numbers = record.comparison
    assert (numbers["images"], numbers["passed"], numbers["positive"]) == (24, 12, 12)
    assert (numbers["flipped_gates"], numbers["flipped_images"], numbers["problems"]) == (0, 0, [])
    assert numbers["dice_keras"] > 0.98
    assert abs(numbers["dice_change"]) <= 0.002
    if precision == "float32":
        assert max(numbers["probability_difference"], numbers["map_difference"]) <= 1e-4
    else:
        assert numbers["map_difference"] > 1e-4
    # The files on the disk are those that were compared.
    place = folder / EXPORTS / f"{engine}-{precision}"
    assert read_record(place) == ExportRecord(**json.loads(json.dumps(asdict(record))))
    check_files(place, record)
    files = {"classifier_1.onnx", "segmenter_1.onnx"}
    if engine == "openvino":
        files = {f"{name}{suffix}" for name in ("classifier_1", "segmenter_1") for suffix in (".xml", ".bin")}
    assert set(record.files) == files
    exported = load_pipeline(folder, engine=engine)
    for path in manifest["path"]:
        assert exported.predict(path).has_pneumothorax == keras_pipeline.predict(path).has_pneumothorax


class FakeNetwork:
    """A network that computes what Keras does, plus an error if its file says so."""

    models: ClassVar = {}

    def __init__(self, path, name, image_size, parameters, precision, batch_size):
        self.model, self.name, self.image_size, self.parameters = self.models[path.stem], name, image_size, parameters
        self.error = float(path.read_text())

    def __call__(self, images):
        return np.clip(self.model(images) + self.error, 0, 1)


@pytest.fixture
def fake(monkeypatch, keras_pipeline):
    """Make exports of text files with an error; returns the errors of the networks by name, to be changed."""
    errors = {"classifier_1": 0.0, "segmenter_1": 0.0}
    FakeNetwork.models = {"classifier_1": keras_pipeline.classifiers[0], "segmenter_1": keras_pipeline.segmenters[0]}
    FakeNetwork.models |= {f"trial_{name}": model for name, model in FakeNetwork.models.items()}
    monkeypatch.setattr(export_module, "load_pipeline", lambda folder, batch_size: keras_pipeline)
    monkeypatch.setattr(exported_networks, "network_class", lambda engine: (FakeNetwork, ".onnx"))
    monkeypatch.setattr(
        exported_networks, "convert_model", lambda model, engine, path: path.write_text(str(errors[path.stem]))
    )
    return errors


def tree(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_a_refused_export_leaves_no_trace(fake, folder, manifest):
    before = tree(folder)
    fake["segmenter_1"] = -0.6
    with pytest.raises(ExportError, match="differs too much from Keras: the largest difference of the map"):
        export_pipeline(folder, "onnx", "float32", images=manifest)
    assert tree(folder) == before
    fake["segmenter_1"] = 0.0
    export_pipeline(folder, "onnx", "float32", images=manifest)
    before = tree(folder)
    fake["classifier_1"] = -1
    with pytest.raises(ExportError, match="largest difference of the probability is 1 "):
        export_pipeline(folder, "onnx", "float32", images=manifest)
    assert tree(folder) == before  # the older export is still there
    record = export_pipeline(folder, "onnx", "float32", images=manifest, accept_differences=True)
    assert record.comparison["problems"] == ["the largest difference of the probability is 1 (at most 0.0001)"]
    assert record.comparison["flipped_images"] == 12
    assert read_record(folder / EXPORTS / "onnx-float32").comparison["problems"] == record.comparison["problems"]
    assert {path.name for path in folder.iterdir()} == {"pipeline.json", "classifier_1", "segmenter_1", EXPORTS}


@pytest.mark.parametrize("network", ["classifier_1", "segmenter_1"])
def test_the_layers_that_matter_stay_in_float32(network, fake, folder, manifest, monkeypatch):
    """Three of six layers each cost a part of the output; only without the worst two are all decisions the same."""
    costs = {"a": 0.0, "b": 0.55, "c": 0.01, "d": 0.0, "e": 0.9, "f": 0.0}

    def quantize(source, target, images, *, kept=()):
        spoilt = -sum(cost for layer, cost in costs.items() if layer not in kept)
        target.write_text(str(spoilt if source.stem == network else 0))

    monkeypatch.setattr(exported_networks, "quantize_network", quantize)
    monkeypatch.setattr(exported_networks, "quantizable_layers", lambda path: list(costs))
    record = export_pipeline(folder, "onnx", "int8", calibration=manifest)
    (kept,) = record.comparison["kept_in_float32"].values()
    assert (list(record.comparison["kept_in_float32"]), kept[:2], len(kept)) == ([network], ["e", "b"], 3)
    assert record.comparison["not_quantised"] == []
    assert (record.comparison["flipped_images"], record.comparison["problems"]) == (0, [])


@pytest.mark.parametrize("network", ["classifier_1", "segmenter_1"])
def test_a_network_that_needs_all_layers_is_not_quantised(network, fake, folder, manifest, monkeypatch, capsys):
    def quantize(source, target, images, *, kept=()):
        target.write_text(str(-1 if source.stem == network else 0))

    monkeypatch.setattr(exported_networks, "quantize_network", quantize)
    monkeypatch.setattr(exported_networks, "copy_network", shutil.copy)
    monkeypatch.setattr(exported_networks, "quantizable_layers", lambda path: list("abcdefgh"))
    numbers = export_pipeline(folder, "onnx", "int8", calibration=manifest).comparison
    assert sorted(numbers["kept_in_float32"][network]) == list("abcdefgh")
    assert (numbers["not_quantised"], numbers["flipped_images"], numbers["problems"]) == ([network], 0, [])
    assert (folder / EXPORTS / "onnx-int8" / f"{network}.onnx").read_text() == "0.0"
    _print_comparison(read_record(folder / EXPORTS / "onnx-int8"))
    assert f"layers of {network} in float32" in (shown := capsys.readouterr().out)
    assert "8 (all: NOT QUANTISED)" in shown


def test_accepted_differences_are_those_of_all_layers_quantised(fake, folder, manifest, monkeypatch):
    monkeypatch.setattr(exported_networks, "quantize_network", lambda _, target, __, kept=(): target.write_text("-1"))
    numbers = export_pipeline(folder, "onnx", "int8", calibration=manifest, accept_differences=True).comparison
    assert (numbers["kept_in_float32"], numbers["not_quantised"], numbers["flipped_images"]) == ({}, [], 6)
    assert numbers["problems"][0] == "6 of 12 images are decided otherwise, the first: i02"


def test_an_int8_export_that_no_layer_saves_is_refused(fake, folder, manifest, monkeypatch):
    monkeypatch.setattr(exported_networks, "quantize_network", lambda _, target, __, kept=(): target.write_text("-1"))
    monkeypatch.setattr(exported_networks, "copy_network", lambda _, target: target.write_text("-1"))
    monkeypatch.setattr(exported_networks, "quantizable_layers", lambda path: list("abcdef"))
    with pytest.raises(ExportError, match="6 of 12 images are decided otherwise, the first: i0"):
        export_pipeline(folder, "onnx", "int8", calibration=manifest)
    assert not (folder / EXPORTS).exists()


def test_all_networks_and_mirrored_images_are_exported(fake, folder, manifest, keras_pipeline, monkeypatch):
    joint = replace(keras_pipeline, classifiers=2 * keras_pipeline.classifiers, flip=True)
    monkeypatch.setattr(export_module, "load_pipeline", lambda folder, batch_size: joint)
    FakeNetwork.models["classifier_2"] = keras_pipeline.classifiers[0]
    fake["classifier_2"] = -0.6
    record = export_pipeline(folder, "onnx", "float32", images=manifest, accept_differences=True)
    assert set(record.files) == {"classifier_1.onnx", "classifier_2.onnx", "segmenter_1.onnx"}
    assert record.facts["classifier_2"] == record.facts["classifier_1"]
    assert record.comparison["probability_difference"] == pytest.approx(0.3, abs=1e-5)
    assert record.comparison["flip"] is True
    assert record.comparison["flipped_gates"] == 0


def test_what_a_killed_export_left_is_removed(fake, folder, manifest):
    (folder / ".export.killed").mkdir()
    export_pipeline(folder, "onnx", "float32", images=manifest)
    assert not list(folder.glob(".*"))


def test_one_export_at_a_time(folder, manifest, monkeypatch):
    monkeypatch.setattr(export_module, "load_pipeline", pytest.fail)  # it takes seconds, so the lock comes first
    with locked_folder(folder, "exported"), pytest.raises(FileExistsError, match="being exported by another process"):
        export_pipeline(folder, "onnx", "float32", images=manifest)


def test_a_pipeline_that_was_assembled_again_has_no_export(fake, folder, bundles, manifest):
    export_pipeline(folder, "onnx", "float32", images=manifest)
    kept = shutil.copytree(folder / EXPORTS, folder.parent / "kept")
    assemble_pipeline(bundles / "c2", bundles / "s", folder)
    with pytest.raises(ExportError, match="has no export onnx"):
        load_pipeline(folder, engine="onnx")
    shutil.copytree(kept, folder / EXPORTS)
    with pytest.raises(ExportError, match="of other networks than those that the pipeline has now"):
        load_pipeline(folder, engine="onnx-float32")


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("tensorrt", "float32", "engine is 'tensorrt', expected one of openvino, onnx"),
        ("openvino", "float16", "precision is 'float16', expected one of float32, bfloat16, int8"),
        ("onnx", "bfloat16", "ONNX Runtime does not compute these networks in bfloat16 on a CPU: choose openvino"),
    ],
)
def test_combinations_that_do_not_exist(engine, precision, message, folder):
    with pytest.raises(ExportError, match=message):
        export_pipeline(folder, engine, precision)


def test_calibration_is_for_int8(folder, manifest):
    with pytest.raises(ExportError, match="calibration images are for int8, and the precision is float32"):
        export_pipeline(folder, "onnx", "float32", calibration=manifest)


def test_bfloat16_is_exported_where_it_can_be_compared(folder, monkeypatch):
    monkeypatch.setattr(export_module, "computed_precision", lambda precision: "float32")
    with pytest.raises(ExportError, match=r"this CPU does not compute in bfloat16.*choose --precision float32 or int8"):
        export_pipeline(folder, "openvino", "bfloat16")


def test_a_missing_library_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ExportError, match=r"tf2onnx cannot be imported .*: .* `pip install 'pneumoseg\[onnx\]'`"):
        export_pipeline(folder, "onnx", "float32")


def test_a_network_that_cannot_be_converted_is_an_export_error(monkeypatch, keras_pipeline, tmp_path):
    import tf2onnx

    def fail(*_, **__):
        print("a line of the library")
        raise RuntimeError("\n  Unsupported operator Foo\n  at line 3")

    monkeypatch.setattr(tf2onnx.convert, "from_function", fail)
    model = keras_pipeline.classifiers[0].model
    with pytest.raises(ExportError, match="cannot be converted for onnx: RuntimeError: Unsupported operator Foo"):
        conversion.convert_model(model, "onnx", tmp_path / "c.onnx")


@pytest.mark.parametrize(("engine", "suffix"), [("openvino", ".xml"), ("onnx", ".onnx")])
def test_a_conversion_leaves_no_file_behind(engine, suffix, keras_pipeline, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    conversion.convert_model(keras_pipeline.classifiers[0].model, engine, tmp_path / f"c{suffix}")
    assert (tmp_path / f"c{suffix}").is_file()
    assert not list((tmp_path / "temporary").iterdir())


def test_libraries_are_quiet(capfd):
    with conversion.quiet():
        print("python")
        os.write(1, b"C++")
        os.write(2, b"C++")
    print("after")
    assert capfd.readouterr() == ("after\n", "")
