"""Pipelines on disk: assembled, loaded, tuned, damaged."""

import json
import shutil
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest

from pneumoseg.decision import DecisionRule
from pneumoseg.inference import PipelineFolder, Tuning, assemble_pipeline, load_pipeline, save_tuning
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.bundle_spec import BundleError, DataSplit
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter

NUMBERS = asdict(DecisionRule(0.3, 0.6))
SCORES = {"images": 3.0, "positives": 1.0, "mean_dice": 0.875, "mean_dice_before": 0.75, "baseline": 0.5}
TUNING = Tuning(DecisionRule(0.2, 0.35, 1750, 0.8, 500), ("i1", "i2", "i3"), ("p1", "p2"), SCORES)


def save_classifier(folder, threshold=None, seed=0, images=None):
    keras.utils.set_random_seed(seed)
    arguments = {"backbone": "compact", "image_size": 32}
    thresholds = {} if threshold is None else {"probability": threshold}
    save_bundle(folder, build_classifier(**arguments, weights=None), "classifier", arguments, thresholds, images)


def save_segmenter(folder, threshold, seed=0, size=32, images=None):
    keras.utils.set_random_seed(seed)
    arguments = {"architecture": "unet", "backbone": "compact", "image_size": size}
    model = build_segmenter(**arguments, weights=None)
    save_bundle(folder, model, "segmenter", arguments, {"probability": threshold}, images)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Classifiers `c` and `c2`, segmenters `s` and `s2`."""
    folder = tmp_path_factory.mktemp("bundles")
    save_classifier(folder / "c", 0.3, images=DataSplit("abc", "de"))
    save_classifier(folder / "c2", 0.5, seed=1, images=DataSplit("abd", "c"))
    save_segmenter(folder / "s", 0.6, images=DataSplit("af", "eg"))
    save_segmenter(folder / "s2", 0.7, seed=1)
    return folder


def noise(shape=(32, 32)):
    return np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)


def test_assembled_and_loaded(bundles, tmp_path):
    for _ in range(2):  # a second time over the first
        assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p", minimum_area=99)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    pipeline = load_pipeline(tmp_path / "p", batch_size=3)
    assert pipeline.rule == DecisionRule(0.3, 0.6, 99, 0.5, 0)
    assert (pipeline.flip, pipeline.batch_size) == (False, 3)
    assert pipeline.origin == {"folder": str(tmp_path / "p"), "rule chosen": "as assembled"}
    image = noise((64, 64))
    result = pipeline.predict(image)
    assert result.shape == (64, 64)
    expected = load_bundle(bundles / "c").model(image.reshape(1, 32, 2, 32, 2, 1).mean((2, 4)).round())
    assert result.probability == pytest.approx(float(expected[0, 0]), abs=1e-5)


def test_several_bundles_are_averaged(bundles, tmp_path):
    assemble_pipeline(
        [bundles / "c", bundles / "c2"], [bundles / "s2", bundles / "s"], tmp_path / "p", flip=True, minimum_area=0
    )
    record = PipelineFolder.read(tmp_path / "p")
    assert list(record.networks) == ["classifier_1", "classifier_2", "segmenter_1", "segmenter_2"]
    assert record.bundles("segmenter") == ["segmenter_1", "segmenter_2"]
    assert len(set(record.networks.values())) == 4
    pipeline, image = load_pipeline(tmp_path / "p"), noise()
    assert pipeline.flip
    assert pipeline.networks == record.networks
    assert (pipeline.rule.classifier_threshold, pipeline.rule.mask_threshold) == pytest.approx((0.4, 0.65))
    (found,) = pipeline.probabilities([image])
    chances, maps = [], []
    for name in ("c", "c2", "s", "s2"):
        model = load_bundle(bundles / name).model
        plain, mirrored = (np.asarray(model(each[None, ..., None])) for each in (image, image[:, ::-1]))
        if name[0] == "c":
            chances += [plain[0, 0], mirrored[0, 0]]
        else:
            maps += [plain[0, ..., 0], mirrored[0, :, ::-1, 0]]
    assert found.probability == pytest.approx(np.mean(chances), abs=1e-5)
    assert np.abs(found.prob_map - np.mean(maps, axis=0)).max() < 1e-5


def test_a_pipeline_knows_what_its_networks_were_trained_on(bundles, tmp_path):
    assemble_pipeline([bundles / "c", bundles / "c2"], bundles / "s", tmp_path / "p")
    record = PipelineFolder.read(tmp_path / "p")
    assert record.images("classifier") == DataSplit("abcd", "e")
    assert record.images("segmenter") == DataSplit("af", "eg")
    assert record.images() == DataSplit("abcdf", "eg")
    assert record.unrecorded == []
    assert load_pipeline(tmp_path / "p").training_images == set("abcdf")


def test_a_network_that_does_not_say_what_it_was_trained_on_is_named(bundles, tmp_path, caplog):
    assemble_pipeline(bundles / "c", [bundles / "s", bundles / "s2"], tmp_path / "p")
    record = PipelineFolder.read(tmp_path / "p")
    assert record.unrecorded == ["segmenter_2"]
    assert record.images() == DataSplit("abcf", "deg")
    load_pipeline(tmp_path / "p")
    assert "NOT CHECKED" in caplog.text
    assert "segmenter_2 does not record which images it was trained on" in caplog.text


def test_records_of_the_runs_are_copied_along(bundles, tmp_path):
    (tmp_path / "h.csv").write_text("epoch\n1\n")
    records = {"one/history.csv": tmp_path / "h.csv", "two/fold_1/history.csv": tmp_path / "h.csv"}
    for _ in range(2):
        assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p", records=records)
    assert (tmp_path / "p/runs/two/fold_1/history.csv").read_text() == "epoch\n1\n"
    assert PipelineFolder.read(tmp_path / "p").runs == (tmp_path / "p/runs/one", tmp_path / "p/runs/two")
    assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p")
    assert PipelineFolder.read(tmp_path / "p").runs == ()


def test_numbers_can_be_chosen_at_assembly(bundles, tmp_path):
    save_classifier(tmp_path / "without")
    assemble_pipeline(tmp_path / "without", bundles / "s", tmp_path / "p", classifier_threshold=0.9, mask_threshold=0.1)
    assert PipelineFolder.read(tmp_path / "p").rule == DecisionRule(0.9, 0.1, 3500, 0.5, 0)
    with pytest.raises(BundleError, match="no threshold named probability"):
        assemble_pipeline(tmp_path / "without", bundles / "s", tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_assembly_refuses_what_does_not_fit(bundles, tmp_path):
    with pytest.raises(ValueError, match=r"classifier_threshold is 1\.5"):
        assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "p", classifier_threshold=1.5)
    with pytest.raises(BundleError):
        assemble_pipeline(tmp_path / "absent", bundles / "s", tmp_path / "p", classifier_threshold=0.5)
    with pytest.raises(BundleError, match="holds a segmenter, expected a classifier"):
        assemble_pipeline(bundles / "s", bundles / "c", tmp_path / "p")
    with pytest.raises(ValueError, match="got no classifier: name a run"):
        assemble_pipeline([], bundles / "s", tmp_path / "p")
    with pytest.raises(ValueError, match="got no segmenter: name a run"):
        assemble_pipeline(bundles / "c", [], tmp_path / "p")
    save_segmenter(tmp_path / "large", 0.5, size=64)
    with pytest.raises(ValueError, match=r"one image size, got \[32, 64\]"):
        assemble_pipeline(bundles / "c", [bundles / "s", tmp_path / "large"], tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


@pytest.mark.parametrize("content", [[], ["notes.txt"], ["pipeline.json", "notes.txt"], ["classifier_1"]])
def test_a_folder_of_something_else_is_left_alone(bundles, tmp_path, content):
    (tmp_path / "other").mkdir()
    for name in content:
        (tmp_path / "other" / name).touch()
    with pytest.raises(FileExistsError, match="does not hold a pipeline"):
        assemble_pipeline(bundles / "c", bundles / "s", tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == sorted(content)


def test_a_pipeline_can_be_assembled_over_its_own_bundles(bundles, folder):
    before = PipelineFolder.read(folder).networks
    assemble_pipeline(folder / "classifier_1", [bundles / "s2", folder / "segmenter_1"], folder)
    after = PipelineFolder.read(folder).networks
    assert after["classifier_1"] == before["classifier_1"]
    assert after["segmenter_2"] == before["segmenter_1"]


def test_tuned_rule_is_in_force(folder):
    save_tuning(folder, TUNING)
    record = PipelineFolder.read(folder)
    assert record.tuning == TUNING
    assert record.rule == TUNING.rule
    assert record.assembled == DecisionRule(0.3, 0.6)
    pipeline = load_pipeline(folder)
    assert pipeline.rule == TUNING.rule
    assert pipeline.origin["rule chosen"] == "on 3 images, mean Dice there 0.875"


def test_a_second_tuning_replaces_the_first(folder):
    save_tuning(folder, TUNING)
    second = replace(TUNING, rule=DecisionRule(0.1), image_ids=("i9",), patient_ids=())
    save_tuning(folder, second)
    assert PipelineFolder.read(folder).tuning == second
    assert sorted(path.name for path in folder.iterdir()) == [
        "classifier_1",
        "pipeline.json",
        "segmenter_1",
        "tuning.json",
    ]


def test_assembling_again_drops_the_tuning(bundles, folder):
    save_tuning(folder, TUNING)
    assemble_pipeline(bundles / "c", bundles / "s", folder)
    record = PipelineFolder.read(folder)
    assert record.tuning is None
    assert record.rule == DecisionRule(0.3, 0.6)


def test_a_tuning_needs_a_pipeline(tmp_path):
    with pytest.raises(BundleError, match="no pipeline"):
        save_tuning(tmp_path, TUNING)
    assert list(tmp_path.iterdir()) == []


def without(mapping, *names):
    return {name: value for name, value in mapping.items() if name not in names}


def tuning_file(**changes):
    content = {"rule": NUMBERS, "scores": SCORES, "image_ids": ["i1"], "patient_ids": []}
    return json.dumps(content | changes)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        tuning_file(rule=without(NUMBERS, "top_area")),
        tuning_file(rule=NUMBERS | {"mask_threshold": 2}),
        tuning_file(rule=[0.5]),
        tuning_file(scores=[0.5]),
        tuning_file(scores=SCORES | {"mean_dice": "good"}),
        tuning_file(scores=without(SCORES, "mean_dice")),
        tuning_file(image_ids=3),
        tuning_file(image_ids="i1"),
        tuning_file(patient_ids=[1]),
    ],
)
def test_damaged_tuning(folder, content):
    (folder / "tuning.json").write_text(tuning_file())
    assert PipelineFolder.read(folder).rule == DecisionRule(**NUMBERS)
    (folder / "tuning.json").write_text(content)
    with pytest.raises(BundleError, match=r"tuning\.json.*; tune the pipeline again, or remove the file"):
        load_pipeline(folder)


JOINT = {"classifiers": 1, "segmenters": 1, "flip": False} | NUMBERS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"pipeline\.json"),
        ("[]", "expected a JSON object"),
        (json.dumps(NUMBERS), "classifiers"),
        (json.dumps(without(JOINT, "flip")), "flip"),
        (json.dumps(without(JOINT, "top_area")), "expected the numbers"),
        (json.dumps(JOINT | {"more": 1}), "expected the numbers"),
        (json.dumps(JOINT | {"mask_threshold": True}), "mask_threshold is True"),
        (json.dumps(JOINT | {"mask_threshold": float("nan")}), "mask_threshold is nan"),
        (json.dumps(JOINT | {"minimum_area": -1}), "minimum_area is -1"),
        (json.dumps(JOINT | {"flip": 1}), "true or false"),
        (json.dumps(JOINT | {"classifiers": 0}), "whole numbers from 1"),
        (json.dumps(JOINT | {"classifiers": True}), "whole numbers from 1"),
        (json.dumps(JOINT | {"segmenters": 1.0}), "whole numbers from 1"),
        (json.dumps(JOINT | {"segmenters": 2}), "segmenter_2 has no spec.json"),
    ],
)
def test_damaged_numbers(folder, content, message):
    assert json.loads((folder / "pipeline.json").read_text()) == JOINT
    (folder / "pipeline.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        load_pipeline(folder)


def test_swapped_missing_or_changed_bundles(bundles, folder, tmp_path):
    networks = PipelineFolder.read(folder).networks
    (folder / "classifier_1").rename(folder / "c")
    with pytest.raises(BundleError, match=r"classifier_1 has no spec\.json"):
        load_pipeline(folder)
    (folder / "segmenter_1").rename(folder / "classifier_1")
    (folder / "c").rename(folder / "segmenter_1")
    with pytest.raises(BundleError, match="holds a segmenter, expected a classifier"):
        load_pipeline(folder)
    shutil.rmtree(folder / "classifier_1")
    shutil.copytree(bundles / "c2", folder / "classifier_1")
    assert PipelineFolder.read(folder).networks["classifier_1"] != networks["classifier_1"]
    with pytest.raises(BundleError, match="no pipeline"):
        load_pipeline(tmp_path)


@pytest.mark.usefixtures("gpu_listed")
@pytest.mark.parametrize("jit", [False, True])
def test_xla_is_off_unless_asked_for_and_the_log_says_so(assembled, jit, caplog):
    with caplog.at_level("INFO", "pneumoseg"):
        pipeline = load_pipeline(assembled, jit_compile=True) if jit else load_pipeline(assembled)
    networks = (*pipeline.classifiers, *pipeline.segmenters)
    assert [network.model.jit_compile for network in networks] == [jit, jit]
    assert [network.full_batch for network in networks] == [4 if jit else None] * 2
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Device: ")]
    assert line.endswith(f"float32, jit {'on' if jit else 'off'}")


def test_full_batches_change_nothing_that_is_predicted(assembled):
    images = [noise((32, 32)), noise((40, 30)), 255 - noise((32, 32))]
    plain, full = load_pipeline(assembled, batch_size=8), load_pipeline(assembled, batch_size=8, jit_compile=True)
    for one, other in zip(plain.probabilities(images), full.probabilities(images), strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
        np.testing.assert_allclose(one.prob_map, other.prob_map, atol=1e-6)
