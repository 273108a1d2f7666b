"""Comparisons of an export with Keras, with numbers worked out by hand."""

import numpy as np
import pytest

from pneumoseg import rle
from pneumoseg.decision import DecisionRule
from pneumoseg.inference.comparison import ComparedImages, Comparison, Reference, compare, generate_images
from pneumoseg.inference.pipeline import Pipeline
from tests.networks import brightest, identity

RULE = DecisionRule(0.5, 0.5, 0)


def square(value, rows=32):
    """Return an image that is black but for a square of 16 x 16 pixels."""
    image = np.zeros((64, 64), np.uint8)
    image[:rows, :16] = value
    return image


def compared(tmp_path, export, images, codes=None, rule=RULE, **options):
    keras = Pipeline([brightest()], [identity()], rule, **options)
    named = ComparedImages(images, [""] * len(images) if codes is None else codes, "images made by hand")
    return compare(Reference(keras, named, tmp_path), Pipeline(*export, rule, **options))


def test_differences(tmp_path):
    images = [square(255), square(153), square(51)]  # 1, 0.6 and 0.2
    found = compared(tmp_path, ([brightest(scale=0.5)], [identity(scale=0.9)]), images)
    assert (found.images, found.unreadable, found.with_truth, found.dice_change) == (3, 0, 0, None)
    assert found.probability_difference == pytest.approx(0.5)
    assert found.map_difference == pytest.approx(0.1)
    assert found.closest == pytest.approx(0.1)
    assert (found.passed, found.positive) == (2, 2)
    assert (found.flipped_gates, found.flipped_images, found.flipped_by_gate) == (2, 2, 2)
    assert found.flipped_first == "image 1"
    assert found.problems("int8") == ["2 of 3 images are decided otherwise, the first: image 1"]
    assert found.problems("float32") == [
        "the largest difference of the probability is 0.5 (at most 0.0001)",
        "the largest difference of the map is 0.1 (at most 0.0001)",
    ]


def test_a_decision_that_the_segmenter_changes_is_not_the_gate_s(tmp_path):
    found = compared(tmp_path, ([brightest()], [identity(scale=0.5)]), [square(204), square(230)])  # 0.4 and 0.45
    assert (found.flipped_gates, found.flipped_images, found.flipped_by_gate) == (0, 2, 0)


def test_maps_of_images_that_are_not_passed_on_are_compared(tmp_path):
    found = compared(tmp_path, ([brightest()], [identity(scale=0.5)]), [square(102)])
    assert found.map_difference == pytest.approx(0.2)
    assert (found.passed, found.flipped_images, found.problems("int8")) == (0, 0, [])
    assert found.doubts() == ["the classifier passes none of the images on: no mask was compared"]


def test_dice_is_of_the_images_whose_masks_are_known(tmp_path):
    image = square(255)
    image[:32, 16:32] = 140  # 0.549, and 0.494 after the loss of a tenth
    truth = image == 255
    found = compared(tmp_path, ([brightest()], [identity(scale=0.9)]), [image, square(255)], [rle.encode(truth), ""])
    assert found.with_truth == 1
    assert found.dice_keras == pytest.approx(2 * 512 / (512 + 1024))
    assert found.dice_export == 1
    assert found.problems("bfloat16") == ["the mean Dice changes by +0.3333 (at most 0.002)"]
    assert found.doubts() == ["all images get a mask: decisions on both sides were not compared"]


def test_flip_and_several_networks_are_averaged(tmp_path):
    export = [brightest(), brightest(scale=0.8)], [identity(), identity(scale=0.6)]
    found = compared(tmp_path, export, [square(255), square(0)], flip=True)
    assert found.probability_difference == pytest.approx(0.1)
    assert found.map_difference == pytest.approx(0.2)
    assert not found.doubts()


def test_unreadable_images_are_counted(tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "a.png").write_bytes(b"no image")
    found = compared(tmp_path / "maps", ([brightest()], [identity()]), [tmp_path / "a.png", square(255), square(0)])
    assert (found.images, found.unreadable) == (2, 1)
    assert found.doubts() == ["1 of the images could not be read and are not compared"]
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        compared(tmp_path / "maps", ([brightest()], [identity()]), [tmp_path / "a.png"])


def test_nan_is_a_difference(tmp_path):
    found = compared(tmp_path, ([brightest(scale=np.nan)], [identity(scale=np.nan)]), [square(255)])
    assert (found.probability_difference, found.map_difference, found.flipped_images) == (1, 1, 1)


@pytest.mark.parametrize(("change", "refused"), [(0.0019, False), (-0.0021, True)])
def test_bound_of_dice(change, refused):
    numbers = Comparison("x", ["a"], 0, 1, 1, 0.3, 0.3, 0.1, 1, 0, 0, "", 1, 0.5, 0.5 + change)
    assert bool(numbers.problems("int8")) is refused


def test_generated_images_have_masks_in_every_third():
    images = generate_images(64, count=4)
    assert [code != rle.EMPTY for code in images.codes] == [True, False, False, True]
    assert images.origin == "4 generated images"
    assert images.sources[0].shape == (64, 64)
