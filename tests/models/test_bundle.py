import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from pneumoseg.models import bundle as bundles
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.bundle_spec import BundleError, DataSplit, read_bundle_spec
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.freezing import set_trainable
from pneumoseg.models.segmenter import build_segmenter

ARGUMENTS = {"backbone": "mobilenet_025", "image_size": 32}
IMAGES = np.random.default_rng(11).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a classifier after one training step with a part frozen, in which every kind of weight has changed."""
    model = build_classifier("mobilenet_025", 32, weights=None)
    set_trainable(model, "second_half")
    model.compile("adam", "binary_crossentropy", run_eagerly=True)
    model.train_on_batch(IMAGES, np.array([[0.0], [1.0]]))
    return model


@pytest.fixture
def folder(model, tmp_path):
    save_bundle(tmp_path / "classifier", model, "classifier", ARGUMENTS, {"probability": 0.3})
    return tmp_path / "classifier"


def _weights(folder):
    """Return the path of the weights, after checking that it is the only such file and that the spec names it."""
    (path,) = folder.glob("*.weights.h5")
    assert path.name == json.loads((folder / "spec.json").read_text())["weights_sha256"] + ".weights.h5"
    return path


def _forge(folder, **changes):
    """Edit a spec and correct its checksums, as someone who knows the format would do."""
    weights = _weights(folder)
    checksum = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.rename(folder / f"{checksum}.weights.h5")
    spec = json.loads((folder / "spec.json").read_text())
    spec |= {"weights_sha256": checksum} | changes
    content = {key: value for key, value in spec.items() if key != "spec_sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    spec["spec_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "spec.json").write_text(json.dumps(spec))


def test_round_trip(folder, model):
    loaded = load_bundle(folder)
    np.testing.assert_array_equal(loaded.model(IMAGES), model(IMAGES))
    assert (loaded.builder, loaded.arguments, loaded.thresholds) == ("classifier", ARGUMENTS, {"probability": 0.3})
    assert loaded.versions["keras"] == keras.__version__
    checksum = hashlib.sha256(_weights(folder).read_bytes()).hexdigest()
    assert sorted(os.listdir(folder)) == [f"{checksum}.weights.h5", "spec.json"]


def test_the_images_of_a_bundle_are_read_without_building_it(tmp_path, model):
    images = DataSplit(["b", "ä", "a"], ["c"])
    save_bundle(tmp_path / "classifier", model, "classifier", ARGUMENTS, images=images)
    assert load_bundle(tmp_path / "classifier").images == images
    _weights(tmp_path / "classifier").unlink()
    assert read_bundle_spec(tmp_path / "classifier").images == DataSplit({"a", "b", "ä"}, {"c"})


def test_the_images_of_a_bundle_may_be_unknown(folder):
    assert read_bundle_spec(folder).images is None


@pytest.mark.parametrize("images", [[], {}, {"training": ["a"]}, {"training": ["a"], "validation": [1]}, "a"])
def test_malformed_images_are_refused(folder, images):
    _forge(folder, images=images)
    with pytest.raises(BundleError, match="images must list training and validation image ids"):
        load_bundle(folder)


def test_images_of_either_network_count_as_training():
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


def test_the_optimizer_is_not_saved(folder, model):
    with h5py.File(_weights(folder)) as file:
        assert "optimizer" not in file
    assert _weights(folder).stat().st_size < 2 * 4 * model.count_params()


@pytest.mark.parametrize("position", [100, 300_000, -1])
def test_one_changed_byte_of_the_weights_is_noticed(folder, position):
    content = bytearray(_weights(folder).read_bytes())
    content[position] ^= 1
    _weights(folder).write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        load_bundle(folder)


@pytest.mark.parametrize(("old", "new"), [("0.3", "0.2"), ("mobilenet_025", "mobilenetv2"), ("0.1.0", "0.1.1")])
def test_an_edited_spec_is_noticed(folder, old, new):
    text = (folder / "spec.json").read_text()
    assert old in text
    (folder / "spec.json").write_text(text.replace(old, new))
    with pytest.raises(BundleError, match="was changed after it was saved"):
        load_bundle(folder)


def test_a_missing_file_is_named(folder):
    weights = _weights(folder)
    weights.unlink()
    with pytest.raises(BundleError, match=f"has no {weights.name}"):
        load_bundle(folder)
    (folder / "spec.json").unlink()
    with pytest.raises(BundleError, match=r"has no spec\.json"):
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
        ({"arguments": {**ARGUMENTS, "backbone": "../../mobilenet"}}, "unknown classifier backbone"),
        ({"arguments": {**ARGUMENTS, "backbone": "mobilenetv2"}}, "cannot be rebuilt"),
        ({"thresholds": {"probability": float("nan")}}, "threshold 'probability' is nan"),
        ({"thresholds": {"probability": "0.5"}}, "threshold 'probability' is '0.5'"),
        ({"code": "print(1)"}, "exactly the keys"),
        ({"weights_sha256": "../other/" + 64 * "0"}, "weights_sha256 must be 64 hexadecimal digits"),
        ({"weights_sha256": "model"}, "weights_sha256 must be 64 hexadecimal digits"),
        ({"weights_sha256": [64 * "0"]}, "weights_sha256 must be 64 hexadecimal digits"),
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
    with h5py.File(_weights(folder), "r+") as file:
        assert file[name].shape == (256, 1)
        del file[name]
        put(file, name)
    _forge(folder)
    with pytest.raises(BundleError, match="cannot be rebuilt"):
        load_bundle(folder)


def test_damaged_weights_with_right_sums_are_refused(folder):
    content = _weights(folder).read_bytes()
    _weights(folder).write_bytes(content[: len(content) // 2])
    _forge(folder)
    with pytest.raises(BundleError, match="cannot be rebuilt"):
        load_bundle(folder)


COMPACT = {"backbone": "compact", "image_size": 32}


@pytest.fixture(scope="module")
def compact() -> list[keras.Model]:
    """Return two networks of an architecture that is built quickly."""
    return [build_classifier("compact", 32, weights=None) for _ in range(2)]


@pytest.fixture
def compact_folder(compact, tmp_path):
    save_bundle(tmp_path / "classifier", compact[0], "classifier", COMPACT, {"probability": 0.3})
    return tmp_path / "classifier"


def test_a_bundle_is_replaced_by_a_new_one(compact_folder, compact):
    folder = compact_folder
    save_bundle(folder, compact[1], "classifier", COMPACT, {"probability": 0.7})
    loaded = load_bundle(folder)
    np.testing.assert_array_equal(loaded.model(IMAGES), compact[1](IMAGES))
    assert loaded.thresholds == {"probability": 0.7}
    assert sorted(os.listdir(folder)) == [_weights(folder).name, "spec.json"]
    assert os.listdir(folder.parent) == [folder.name]


def test_weights_of_the_same_content_can_be_saved_again(compact_folder, compact, monkeypatch):
    folder, model = compact_folder, compact[0]
    content = _weights(folder).read_bytes()
    monkeypatch.setattr(keras.Model, "save_weights", lambda self, path: path.write_bytes(content))
    save_bundle(folder, model, "classifier", COMPACT, {"probability": 0.7})
    assert load_bundle(folder).thresholds == {"probability": 0.7}
    assert _weights(folder).read_bytes() == content


# The steps of a save in order: writing, flushing and checking the weights, flushing the folder, flushing and renaming
# the spec, flushing the folder again. The new bundle is in place once the spec is renamed.
STEPS = ["weights", "flush 1", "checksum", "flush 2", "flush 3", "rename", "flush 4"]


def _refuse(*_):
    raise OSError("disk full")


def _fail_at(step, patched):
    """Make a save stop with an error at one of its steps."""
    flush, replace, seen = bundles.flush, Path.replace, []

    def counted(path):
        seen.append(path)
        _refuse() if step == f"flush {len(seen)}" else flush(path)

    def renamed(path, target):
        return _refuse() if Path(target).name == "spec.json" and step == "rename" else replace(path, target)

    def half_saved(self, path):
        path.write_bytes(b"half")
        _refuse()

    if step == "weights":
        patched.setattr(keras.Model, "save_weights", half_saved)
    if step == "checksum":
        patched.setattr(bundles, "file_sha256", _refuse)
    patched.setattr(bundles, "flush", counted)
    patched.setattr("pneumoseg.atomic_write.flush", counted)
    patched.setattr(Path, "replace", renamed)


def _stopped_save(folder, model, step, monkeypatch, *, killed):
    with monkeypatch.context() as patched:
        _fail_at(step, patched)
        if killed:  # a killed process does not clean up
            patched.setattr(Path, "unlink", lambda *_, **__: None)
            patched.setattr(Path, "rmdir", lambda *_: None)
        with pytest.raises(OSError, match="disk full"):
            save_bundle(folder, model, "classifier", COMPACT, {"probability": 0.7})


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_stopped_save_leaves_one_whole_bundle(compact_folder, compact, monkeypatch, step, killed):
    folder, (old, new) = compact_folder, compact
    _stopped_save(folder, new, step, monkeypatch, killed=killed)
    loaded = load_bundle(folder)
    replaced = step == STEPS[-1]
    assert loaded.thresholds == {"probability": 0.7 if replaced else 0.3}
    np.testing.assert_array_equal(loaded.model(IMAGES), (new if replaced else old)(IMAGES))
    assert os.listdir(folder.parent) == [folder.name]
    assert (len(os.listdir(folder)) == 2) or killed
    save_bundle(folder, old, "classifier", COMPACT, {"probability": 0.4})
    assert json.loads((folder / "spec.json").read_text())["thresholds"] == {"probability": 0.4}
    assert sorted(os.listdir(folder)) == [_weights(folder).name, "spec.json"]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("step", STEPS[:-1])
def test_a_stopped_first_save_leaves_no_bundle(tmp_path, compact, monkeypatch, step, killed):
    folder, model = tmp_path / "new", compact[0]
    _stopped_save(folder, model, step, monkeypatch, killed=killed)
    assert folder.exists() == killed
    with pytest.raises(BundleError, match=r"has no spec\.json"):
        load_bundle(folder)
    save_bundle(folder, model, "classifier", COMPACT)
    assert sorted(os.listdir(folder)) == [_weights(folder).name, "spec.json"]


def test_hidden_files_of_other_programs_stay(compact_folder, compact):
    others = [".DS_Store", ".spec.json.swp"]
    for name in others:
        (compact_folder / name).touch()
    save_bundle(compact_folder, compact[0], "classifier", COMPACT)
    assert sorted(os.listdir(compact_folder)) == [*others, _weights(compact_folder).name, "spec.json"]


def test_a_link_to_a_folder_stays_a_link(folder, model):
    link = folder.with_name("best")
    link.symlink_to(folder, target_is_directory=True)
    save_bundle(link, model, "classifier", ARGUMENTS)
    assert link.is_symlink()
    assert load_bundle(folder).thresholds == {}


@pytest.mark.parametrize("name", ["thesis.tex", "model.weights.h5", "spec.json.old"])
def test_a_folder_with_other_files_is_left_alone(folder, model, name):
    (folder / name).write_text("irreplaceable")
    before = sorted(os.listdir(folder))
    with pytest.raises(BundleError, match="holds other files"):
        save_bundle(folder, model, "classifier", ARGUMENTS)
    assert (folder / name).read_text() == "irreplaceable"
    assert sorted(os.listdir(folder)) == before


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
        ("classifier", ARGUMENTS, {"probability": float("inf")}, "expected a finite number"),
        ("classifier", ARGUMENTS, {"probability": True}, "expected a finite number"),
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
def test_xla_is_off_unless_requested(folder):
    assert keras.Sequential([keras.Input((1,))]).jit_compile  # the default of Keras
    assert build_classifier("compact", 32, weights=None).jit_compile is False
    assert build_segmenter("unet", "compact", 32, weights=None).jit_compile is False
    assert load_bundle(folder).model.jit_compile is False
    assert load_bundle(folder, jit_compile=True).model.jit_compile is True
