import hashlib
import json
import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

from pneumoseg.models import bundle as bundles
from pneumoseg.models.bundle import BundleError, DataSplit, load_bundle, read_data_split, save_bundle
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.freezing import set_trainable
from pneumoseg.models.segmenter import build_segmenter

ARGUMENTS = {"backbone": "mobilenet_025", "image_size": 32}
IMAGES = np.random.default_rng(11).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A classifier after one step of training with a part frozen, so that every kind of weight has moved."""
    model = build_classifier("mobilenet_025", 32, weights=None)
    set_trainable(model, "second_half")
    model.compile("adam", "binary_crossentropy", run_eagerly=True)
    model.train_on_batch(IMAGES, np.array([[0.0], [1.0]]))
    return model


@pytest.fixture
def folder(model, tmp_path):
    save_bundle(tmp_path / "classifier", model, "classifier", ARGUMENTS, {"probability": 0.3})
    return tmp_path / "classifier"


def _forge(folder, **changes):
    """Edits a spec and makes its sums right again, as someone who knows the format would."""
    spec = json.loads((folder / "spec.json").read_text())
    spec |= {"weights_sha256": hashlib.sha256((folder / "model.weights.h5").read_bytes()).hexdigest()} | changes
    content = {key: value for key, value in spec.items() if key != "spec_sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    spec["spec_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "spec.json").write_text(json.dumps(spec))


def test_round_trip(folder, model):
    loaded = load_bundle(folder)
    np.testing.assert_array_equal(loaded.model(IMAGES), model(IMAGES))
    assert (loaded.builder, loaded.arguments, loaded.thresholds) == ("classifier", ARGUMENTS, {"probability": 0.3})
    assert loaded.versions["keras"] == keras.__version__
    assert sorted(os.listdir(folder)) == ["model.weights.h5", "spec.json"]


def test_a_bundle_says_what_it_was_trained_on_without_being_built(tmp_path, model):
    images = DataSplit(["b", "ä", "a"], ["c"])
    save_bundle(tmp_path / "classifier", model, "classifier", ARGUMENTS, images=images)
    assert load_bundle(tmp_path / "classifier").images == images
    (tmp_path / "classifier" / "model.weights.h5").unlink()
    assert read_data_split(tmp_path / "classifier") == DataSplit({"a", "b", "ä"}, {"c"})


def test_a_bundle_may_not_know_what_it_was_trained_on(folder):
    assert read_data_split(folder) is None


@pytest.mark.parametrize("images", [[], {}, {"training": ["a"]}, {"training": ["a"], "validation": [1]}, "a"])
def test_malformed_images_are_refused(folder, images):
    _forge(folder, images=images)
    with pytest.raises(BundleError, match="images must list training and validation image ids"):
        load_bundle(folder)


def test_an_image_that_one_of_two_networks_was_trained_on_is_trained_on():
    assert DataSplit(["a"], ["b", "c"]) | DataSplit(["b"], ["a", "c", "d"]) == DataSplit(["a", "b"], ["c", "d"])
    assert DataSplit(["a"], ["a"]).validation == frozenset()


def test_another_process_predicts_the_same_and_the_library_stays_silent(tmp_path):
    segmenter = build_segmenter("fpn", "mobilenet", 32, weights=None, decoder_filters=16)
    arguments = {"backbone": "mobilenet", "image_size": 32, "decoder_filters": 16, "weights": "imagenet"}
    save_bundle(tmp_path / "segmenter", segmenter, "segmenter", arguments)
    np.save(tmp_path / "images.npy", IMAGES)
    program = (
        "import sys, numpy as np; from pneumoseg.models.bundle import load_bundle\n"
        "assert 'segmentation_models' not in sys.modules\n"
        "bundle = load_bundle('segmenter'); np.save('masks.npy', bundle.model(np.load('images.npy')))\n"
        "print(bundle.arguments)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "masks.npy"), segmenter(IMAGES), atol=1e-6)
    del arguments["weights"]
    assert done.stdout.strip() == str({"architecture": "fpn", **arguments})


def test_the_optimizer_is_not_kept(folder, model):
    with h5py.File(folder / "model.weights.h5") as file:
        assert "optimizer" not in file
    assert (folder / "model.weights.h5").stat().st_size < 2 * 4 * model.count_params()


@pytest.mark.parametrize("position", [100, 300_000, -1])
def test_one_changed_byte_of_the_weights_is_noticed(folder, position):
    content = bytearray((folder / "model.weights.h5").read_bytes())
    content[position] ^= 1
    (folder / "model.weights.h5").write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        load_bundle(folder)


@pytest.mark.parametrize(("old", "new"), [("0.3", "0.2"), ("mobilenet_025", "mobilenetv2"), ("0.1.0", "0.1.1")])
def test_an_edited_spec_is_noticed(folder, old, new):
    text = (folder / "spec.json").read_text()
    assert old in text
    (folder / "spec.json").write_text(text.replace(old, new))
    with pytest.raises(BundleError, match="was changed after it was saved"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["spec.json", "model.weights.h5"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"has no {name}"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"builder": "classifier"}', "[" * 100_000, "\udcff"])
def test_a_malformed_spec_is_refused(folder, text):
    (folder / "spec.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match=r"not JSON|exactly the keys"):
        load_bundle(folder)


def test_a_huge_spec_is_not_read(folder):
    os.truncate(folder / "spec.json", 100_000_001)
    with pytest.raises(BundleError, match="over 100000000 bytes"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builder": "os.system"}, "unknown builder 'os.system'"),
        ({"builder": ["classifier"]}, "unknown builder"),
        ({"format": 3}, "format 3"),
        ({"arguments": [1]}, "must be objects"),
        ({"arguments": {**ARGUMENTS, "weights": "http://example.org/w.h5"}}, "takes no argument 'weights'"),
        ({"arguments": {**ARGUMENTS, "custom_objects": {}}}, "takes no argument 'custom_objects'"),
        ({"arguments": {**ARGUMENTS, "image_size": "32"}}, "image_size='32' should be of type"),
        ({"arguments": {**ARGUMENTS, "image_size": True}}, "image_size=True should be of type"),
        ({"arguments": {**ARGUMENTS, "backbone": "../../mobilenet"}}, "Unknown classifier backbone"),
        ({"arguments": {**ARGUMENTS, "backbone": "mobilenetv2"}}, "cannot be rebuilt"),
        ({"thresholds": {"probability": float("nan")}}, "threshold 'probability' is nan"),
        ({"thresholds": {"probability": "0.5"}}, "threshold 'probability' is '0.5'"),
        ({"code": "print(1)"}, "exactly the keys"),
    ],
)
def test_a_forged_spec_with_right_sums_is_refused(folder, changes, message):
    _forge(folder, **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def _external_link(file, name):
    file[name] = h5py.ExternalLink("other.h5", "/values")


def _external_storage(file, name):
    file.create_dataset(name, shape=(256, 1), dtype="f4", external=[("/etc/hostname", 0, 1024)])


def _huge_shape(file, name):
    file.create_dataset(name, shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))


def _text(file, name):
    file[name] = np.full((256, 1), b"x")


@pytest.mark.parametrize("put", [_external_link, _external_storage, _huge_shape, _text, lambda *_: None])
def test_hostile_weights_with_right_sums_are_refused(folder, put):
    name = "layers/dense/vars/0"
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        assert file[name].shape == (256, 1)
        del file[name]
        put(file, name)
    _forge(folder)
    with pytest.raises(BundleError, match="cannot be rebuilt"):
        load_bundle(folder)


def test_damaged_weights_with_right_sums_are_refused(folder):
    content = (folder / "model.weights.h5").read_bytes()
    (folder / "model.weights.h5").write_bytes(content[: len(content) // 2])
    _forge(folder)
    with pytest.raises(BundleError, match="cannot be rebuilt"):
        load_bundle(folder)


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_bundle_is_replaced_by_a_new_one(folder, model, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr(bundles, "_exchange", _refuse)
    save_bundle(folder, model, "classifier", ARGUMENTS, {"probability": 0.7})
    assert load_bundle(folder).thresholds == {"probability": 0.7}
    assert os.listdir(folder.parent) == [folder.name]


def test_folders_change_places_in_one_step(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    try:
        bundles._exchange(tmp_path / "first", tmp_path / "second")
    except OSError as error:
        pytest.skip(f"not on this system: {error}")
    assert os.listdir(tmp_path / "first") == ["second"]
    assert os.listdir(tmp_path / "second") == ["first"]


def _refuse(*_):
    raise OSError("disk full")


@pytest.mark.parametrize("step", ["flush", "_file_sha256", "_move_into_place"])
def test_a_failed_save_leaves_the_old_bundle_and_no_rubbish(folder, model, monkeypatch, step):
    with monkeypatch.context() as patched:
        patched.setattr(bundles, step, _refuse)
        with pytest.raises(OSError, match="disk full"):
            save_bundle(folder, model, "classifier", ARGUMENTS, {"probability": 0.7})
    assert os.listdir(folder.parent) == [folder.name]
    assert load_bundle(folder).thresholds == {"probability": 0.3}


def test_a_link_to_a_folder_stays_a_link(folder, model):
    link = folder.with_name("best")
    link.symlink_to(folder, target_is_directory=True)
    save_bundle(link, model, "classifier", ARGUMENTS)
    assert link.is_symlink()
    assert load_bundle(folder).thresholds == {}


def test_a_folder_with_other_files_is_left_alone(folder, model):
    (folder / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(BundleError, match="holds other files"):
        save_bundle(folder, model, "classifier", ARGUMENTS)
    assert (folder / "thesis.tex").read_text() == "irreplaceable"


@pytest.mark.parametrize(
    ("builder", "arguments", "thresholds", "message"),
    [
        ("detector", ARGUMENTS, None, "unknown builder 'detector'"),
        ("classifier", {**ARGUMENTS, "filters": 3}, None, "takes no argument 'filters'"),
        ("classifier", {**ARGUMENTS, "image_size": 32.0}, None, "image_size=32.0 should be of type"),
        (
            "classifier",
            {**ARGUMENTS, "image_size": 64},
            None,
            "image_size=64 does not fit a model that takes",
        ),
        ("classifier", ARGUMENTS, {"probability": float("inf")}, "Expected a finite number"),
        ("classifier", ARGUMENTS, {"probability": True}, "Expected a finite number"),
    ],
)
def test_what_cannot_be_loaded_is_not_saved(tmp_path, model, builder, arguments, thresholds, message):
    with pytest.raises(BundleError, match=message):
        save_bundle(tmp_path / "new", model, builder, arguments, thresholds)
    assert not (tmp_path / "new").exists()


def test_arguments_of_another_network_are_refused(tmp_path):
    model = build_classifier("compact", 64, weights=None)
    for builder, arguments in [
        ("classifier", {"backbone": "mobilenet_025", "image_size": 64}),
        ("segmenter", {"architecture": "unet", "backbone": "compact", "image_size": 64}),
    ]:
        with pytest.raises(BundleError, match="does not fit a model named classifier_compact"):
            save_bundle(tmp_path / "bundle", model, builder, arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("gpu_listed")
def test_xla_is_off_unless_asked_for(folder):
    assert keras.Sequential([keras.Input((1,))]).jit_compile  # Keras' own choice
    assert build_classifier("compact", 32, weights=None).jit_compile is False
    assert build_segmenter("unet", "compact", 32, weights=None).jit_compile is False
    assert load_bundle(folder).model.jit_compile is False
    assert load_bundle(folder, jit_compile=True).model.jit_compile is True
