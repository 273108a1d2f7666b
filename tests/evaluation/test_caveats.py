"""Caveats of an evaluation, from the images that a pipeline has seen."""

import re

import numpy as np
import pytest

from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.caveats import caveats
from pneumoseg.inference import PipelineFolder
from pneumoseg.models.bundle_spec import BundleSpec, DataSplit
from tests.conftest import predictions_of

MASKS = [np.eye(8, dtype=bool), np.zeros((8, 8), bool), np.eye(8, dtype=bool)]


@pytest.fixture
def predictions(tmp_path):
    """Return predictions of the images i0, i1 and i2."""
    return predictions_of(tmp_path, [np.zeros((8, 8), np.uint8)] * 3, MASKS, [0.9, 0.1, 0.6])


def pipeline_of(**networks):
    """Return a pipeline of bundles that are given as (threshold, split)."""
    specs = {
        name: BundleSpec(name.split("_")[0], {} if threshold is None else {"probability": threshold}, images)
        for name, (threshold, images) in networks.items()
    }
    return PipelineFolder(DecisionRule(0.5), None, False, dict.fromkeys(specs, "sum"), specs)


def test_nothing_to_say_of_images_that_no_network_has_seen(predictions):
    seen = DataSplit(["x"], ["y"])
    pipeline = pipeline_of(classifier_1=(0.5, seen), segmenter_1=(0.5, seen))
    assert caveats(predictions, DecisionRule(), pipeline) == []
    assert caveats(predictions, DecisionRule(), None) == []


def test_training_and_validation_images_are_counted_by_network(predictions):
    pipeline = pipeline_of(
        classifier_1=(0.2, DataSplit(["i0", "x"], ["i1", "i2"])), segmenter_1=(0.5, DataSplit(["y"], ["i2"]))
    )
    trained, validated, segmenter = caveats(predictions, DecisionRule(), pipeline)
    assert trained.startswith("1 of the 3 images are training images of the classifier: the scores are too good")
    assert validated.startswith("2 of the 3 images are validation images of the classifier")
    assert segmenter.startswith("1 of the 3 images are validation images of the segmenter")


@pytest.mark.parametrize(
    ("thresholds", "threshold", "told"),
    [([0.5], 0.5, True), ([0.5], 0.4, False), ([0.3, 0.5], 0.4, True), ([0.3, 0.5], 0.5, False), ([None], 0.5, False)],
)
def test_threshold_that_scored_images_chose_is_told(predictions, thresholds, threshold, told):
    seen = DataSplit(["x"], ["i0", "i1", "y"])
    networks = {f"classifier_{number}": (value, seen) for number, value in enumerate(thresholds, start=1)}
    found = caveats(predictions, DecisionRule(threshold), pipeline_of(**networks))
    chose = [text for text in found if "chose the threshold of the classifier" in text]
    assert [re.match(r"(\d+) of the (\d+)", text).groups() for text in chose] == [("2", "3")] * told


def test_networks_that_do_not_say_what_they_have_seen_are_named(predictions):
    pipeline = pipeline_of(classifier_1=(0.2, None), segmenter_1=(0.5, DataSplit()))
    (text,) = caveats(predictions, DecisionRule(), pipeline)
    assert text.startswith("NOT CHECKED: classifier_1 does not record which images")


def test_unreadable_files_are_counted(tmp_path):
    maps = [np.zeros((8, 8), np.uint8), None, None]
    predictions = predictions_of(tmp_path, maps, MASKS, [0.9, np.nan, np.nan])
    assert caveats(predictions, DecisionRule(), None) == [
        "2 files could not be read; they are scored as predicted empty."
    ]
    predictions.manifest["rle"] = ""
    assert caveats(predictions, DecisionRule(), None) == ["2 files could not be read; they are not scored."]
