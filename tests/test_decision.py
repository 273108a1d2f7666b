"""The decision's stages, its comparisons and small-component elimination against hand-drawn cases."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from pneumoseg.decision import (
    DecisionRule,
    UpscaledMap,
    decide,
    dequantize,
    quantize,
    remove_small_components,
)
from pneumoseg.evaluation.tuning import THRESHOLDS
from pneumoseg.geometry import unletterbox


def boxes(size, *corners):
    mask = np.zeros((size, size), dtype=bool)
    for top, left, height, width in corners:
        mask[top : top + height, left : left + width] = True
    return mask


def test_component_of_exactly_the_minimum_stays():
    mask = boxes(1024, (0, 0, 50, 70), (500, 500, 3499, 1), (900, 0, 1, 3))  # 3500, 524 and 3 px
    np.testing.assert_array_equal(remove_small_components(mask), boxes(1024, (0, 0, 50, 70)))


def test_one_pixel_less_than_the_minimum_goes():
    mask = boxes(1024, (0, 0, 50, 70))
    mask[0, 0] = False
    assert not remove_small_components(mask).any()


def test_diagonal_neighbours_are_one_component():
    mask = boxes(1024, (0, 0, 50, 35), (50, 35, 50, 35))  # two of 1750 px that touch at a corner
    np.testing.assert_array_equal(remove_small_components(mask), mask)
    apart = boxes(1024, (0, 0, 50, 35), (51, 35, 50, 35))
    assert not remove_small_components(apart).any()


def test_minimum_is_scaled_by_area():
    mask = boxes(512, (0, 0, 25, 35), (100, 100, 1, 874 // 2))  # 875 = 3500 / 4
    np.testing.assert_array_equal(remove_small_components(mask), boxes(512, (0, 0, 25, 35)))
    mask[0, 0] = False
    assert not remove_small_components(mask).any()


def test_degenerate_masks():
    assert not remove_small_components(np.zeros((4, 4), dtype=bool)).any()
    assert remove_small_components(np.ones((4, 4), dtype=bool)).all()
    mask = boxes(8, (1, 1, 2, 2))
    np.testing.assert_array_equal(remove_small_components(mask, 0), mask)


def test_default_rule_is_the_papers():
    assert dataclasses.astuple(DecisionRule()) == (0.5, 0.5, 3500, 0.5, 0)


@pytest.mark.parametrize("value", [-0.001, 1.001, math.nan, math.inf, True, "0.5", None, np.float32(0.5)])
@pytest.mark.parametrize("name", ["classifier_threshold", "mask_threshold", "top_threshold"])
def test_thresholds_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} is .*, expected an int or float from 0 to 1"):
        DecisionRule(**{name: value})


@pytest.mark.parametrize("value", [-1, math.nan, -math.inf, math.inf, False, "9", None])
@pytest.mark.parametrize("name", ["minimum_area", "top_area"])
def test_areas_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} is .*, expected a finite int or float, 0 or more"):
        DecisionRule(**{name: value})


def test_bounds_of_the_ranges_are_within():
    for numbers in ((0, 0, 0, 0, 0), (1, 1.0, 2**20, 1, 2**20)):
        assert dataclasses.astuple(DecisionRule(*numbers)) == numbers


NUMBERS = dataclasses.asdict(DecisionRule(0.1, 0.2, 3, 0.4, 5))


def test_rule_from_numbers():
    assert DecisionRule.from_numbers(NUMBERS) == DecisionRule(0.1, 0.2, 3, 0.4, 5)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({}, "expected the numbers classifier_threshold, mask_threshold, minimum_area, top_threshold, top_area"),
        ({name: value for name, value in NUMBERS.items() if name != "top_area"}, "expected the numbers"),
        (NUMBERS | {"further": 1}, "expected the numbers"),
        (list(NUMBERS.values()), "expected the numbers"),
        (None, "expected the numbers"),
        (NUMBERS | {"minimum_area": "3500"}, "minimum_area is '3500'"),
        (NUMBERS | {"top_threshold": 1.5}, r"top_threshold is 1\.5"),
    ],
)
def test_numbers_that_are_no_rule(numbers, message):
    with pytest.raises(ValueError, match=message):
        DecisionRule.from_numbers(numbers)


def test_quantize_by_hand():
    probability = np.array([[0, 1, math.nan], [0.2, 0.0019, 0.0021]])  # 51, .48 and .54 of 255
    for dtype in (np.float64, np.float32, np.float16):
        with np.errstate(invalid="raise"):  # what becomes of NaN must not be left to the processor
            prob_map_u8 = quantize(probability.astype(dtype))
        assert prob_map_u8.dtype == np.uint8
        np.testing.assert_array_equal(prob_map_u8, [[0, 255, 0], [51, 0, 1]])


def test_quantize_is_off_by_half_a_level_at_most():
    prob_map_u8 = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantize(prob_map_u8 / np.float32(255)), prob_map_u8)
    np.testing.assert_array_equal(quantize(dequantize(prob_map_u8)), prob_map_u8)
    np.testing.assert_array_equal(dequantize(prob_map_u8), prob_map_u8 / 255)
    probability = np.random.default_rng(0).random(10_000)
    assert np.abs(quantize(probability) / 255 - probability).max() < 0.5001 / 255


def test_above_is_the_same_for_every_kind_of_number():
    # Halfway between 77 and 78 of 255, where the image's rows interpolate them: 77.5, exact in float32.
    upscaled = UpscaledMap(np.array([[77.0, 77.0], [78.0, 78.0]]) / 255, (4, 4))
    middle = {number: UpscaledMap(np.full((2, 2), number / 255), (2, 2)) for number in (77, 78)}
    assert upscaled.above(76.9 / 255).all()
    for threshold in (77 / 255 - 1e-10, 77 / 255, 77 / 255 + 1e-10):  # the same number in float32
        for kind in (float, np.float64, np.float32):
            assert not middle[77].above(kind(threshold)).any()
            assert middle[78].above(kind(threshold)).all()


def prob_map_u8_of(size, *boxes_and_values):
    prob_map_u8 = np.zeros((size, size), np.uint8)
    for (top, left, height, width), value in boxes_and_values:
        prob_map_u8[top : top + height, left : left + width] = value
    return prob_map_u8


# At 64 x 64 an area counts 256 times as many pixels at 1024 x 1024: 10 px for top, 14 px to keep.
RULE = DecisionRule(mask_threshold=0.6, minimum_area=14 * 256, top_threshold=0.8, top_area=10 * 256)


@pytest.mark.parametrize(
    ("boxes_and_values", "stage", "kept"),
    [
        ([], "segmenter", 0),
        ([((0, 0, 9, 9), 153)], "segmenter", 0),  # .6 itself is not above it
        ([((0, 0, 9, 9), 154), ((0, 0, 1, 9), 255)], "triplet", 0),
        ([((0, 0, 9, 9), 154), ((0, 0, 2, 5), 204)], "triplet", 0),  # nor is .8
        ([((0, 0, 9, 9), 154), ((0, 0, 2, 5), 205)], "mask", 81),
        ([((0, 0, 2, 4), 205)], "triplet", 0),  # too small as well, but this comes first
        ([((0, 0, 1, 13), 205)], "elimination", 0),
        ([((0, 0, 1, 14), 205)], "mask", 14),
        ([((0, 0, 1, 13), 205), ((5, 0, 1, 13), 205)], "elimination", 0),  # 26 in all
        ([((0, 0, 1, 13), 205), ((5, 0, 1, 14), 154)], "mask", 14),  # what is confident may lie elsewhere
    ],
)
def test_each_stage_of_drawing(boxes_and_values, stage, kept):
    prob_map = prob_map_u8_of(64, *boxes_and_values) / 255
    decision = decide(prob_map, (64, 64), RULE)
    assert (decision.stage, np.count_nonzero(decision.mask)) == (stage, kept)
    assert decision.mask.dtype == decision.raw_mask.dtype == bool
    assert decision.mask.shape == (64, 64)
    np.testing.assert_array_equal(decision.raw_mask, 255 * prob_map > 153.5)  # .6 itself is 153
    gated_out = decide(prob_map, (64, 64), RULE, gated_in=False)
    assert (gated_out.stage, gated_out.mask.any()) == ("classifier", False)
    np.testing.assert_array_equal(gated_out.raw_mask, decision.raw_mask)


@pytest.mark.parametrize(("shape", "pixels"), [((64, 64), 64), ((128, 128), 256), ((128, 64), 256), ((32, 32), 16)])
def test_areas_are_scaled_to_the_images_grid(shape, pixels):
    # A block of 8 x 8 where the image lies in the square, whole pixels on every grid; half of 255 is not above .5.
    prob_map_u8 = prob_map_u8_of(64, ((24, 24, 8, 8), 255))
    area = pixels * 1024**2 // (shape[0] * shape[1])
    for number, kept in ((area, pixels), (area + 1, 0)):
        _, mask, stage = decide(prob_map_u8 / 255, shape, DecisionRule(minimum_area=number))
        assert (stage, np.count_nonzero(mask)) == ("mask" if kept else "elimination", kept)
        _, mask, stage = decide(prob_map_u8 / 255, shape, DecisionRule(minimum_area=0, top_area=number))
        assert (stage, np.count_nonzero(mask)) == ("mask" if kept else "triplet", kept)


def test_what_lies_in_the_padding_is_not_drawn():
    prob_map_u8 = prob_map_u8_of(
        16, ((0, 0, 16, 16), 255), ((0, 4, 16, 8), 0)
    )  # a 32 x 16 image lies in columns 4 to 11
    assert decide(prob_map_u8 / 255, (32, 16), DecisionRule(minimum_area=0)).stage == "segmenter"


def test_without_areas_everything_drawn_stays():
    rng = np.random.default_rng(0)
    prob_map_u8 = rng.integers(256, size=(16, 16)).astype(np.uint8)
    rule = DecisionRule(mask_threshold=0.9, minimum_area=0, top_threshold=1)
    decision = decide(prob_map_u8 / 255, (16, 16), rule)
    assert decision.stage == "mask"
    np.testing.assert_array_equal(decision.mask, prob_map_u8 > 229.5)


def test_a_probability_equal_to_the_threshold_is_not_above_it():
    """Every multiple of 1/255 against itself, its neighbours in float64, and every threshold of the tuning grid."""
    prob_map_u8 = np.arange(256, dtype=np.uint8)
    upscaled = UpscaledMap(dequantize(prob_map_u8.reshape(16, 16)), (16, 16))
    for level in range(256):
        for threshold in (level / 255, np.nextafter(level / 255, 0), np.nextafter(level / 255, 1)):
            np.testing.assert_array_equal(upscaled.above(float(threshold)).ravel(), prob_map_u8 > level)
    for threshold in THRESHOLDS:
        hundredths = round(100 * threshold)
        np.testing.assert_array_equal(
            upscaled.above(threshold).ravel(), 100 * prob_map_u8.astype(int) > hundredths * 255
        )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(64, 64), (48, 33), (31, 64)])
def test_interpolated_maps_are_compared_as_whole_numbers(dtype, shape):
    """A map in [0, 1] decides as the whole numbers do that are in the cache, wherever interpolation puts a pixel."""
    rng, on_threshold = np.random.default_rng(0), 0
    for _ in range(20):
        # Few different values around the whole numbers of 0.2 and 0.6, so that many pixels hit a threshold exactly.
        cached = rng.choice([0, 49, 50, 51, 52, 53, 151, 152, 153, 154, 155, 255], size=(16, 16)).astype(np.uint8)
        longest = max(shape)
        height, width = ((2 * 16 * side + longest) // (2 * longest) for side in shape)
        top, left = (16 - height) // 2, (16 - width) // 2
        inside = Image.fromarray(cached[top : top + height, left : left + width].astype(np.float32))
        expected = np.asarray(inside.resize(shape[::-1], Image.Resampling.BILINEAR))
        for threshold in THRESHOLDS:
            rule = DecisionRule(mask_threshold=threshold, minimum_area=0)
            found = decide((cached / 255).astype(dtype), shape, rule)
            np.testing.assert_array_equal(found.raw_mask, expected > np.float32(255 * threshold))
            on_threshold += np.count_nonzero(expected == np.float32(255 * threshold))
    assert on_threshold > 100


def test_a_map_from_the_network_decides_as_its_cached_one():
    prob_map = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    cached = dequantize(quantize(prob_map))
    assert (prob_map != cached).all()
    for threshold in THRESHOLDS:
        rule = DecisionRule(mask_threshold=threshold, minimum_area=0)
        fresh, kept = decide(prob_map, (24, 30), rule), decide(cached, (24, 30), rule)
        np.testing.assert_array_equal(fresh.raw_mask, kept.raw_mask)


def test_only_a_probability_above_the_threshold_is_gated_in():
    rule = DecisionRule(0.25)
    assert rule.gates_in([0, 0.25, 0.2500001, 1, math.nan]).tolist() == [False, False, True, True, False]
    assert bool(rule.gates_in(0.3))


def test_decision_is_that_of_the_whole_upscaled_map():
    rng, stages = np.random.default_rng(0), set()
    for _ in range(300):
        shape, aspect = tuple(rng.integers(1, 90, 2).tolist()), float(rng.choice([0.5, 1, 1, 1.37, 3]))
        prob_map = rng.random((16, 16)) ** rng.choice([1, 20])
        numbers = [float(rng.choice([0, 1, 0.5, rng.random(), rng.integers(256) / 255])) for _ in range(2)]
        rule = DecisionRule(
            0.5, numbers[0], rng.choice([0, 3500, 99999]).item(), numbers[1], rng.choice([0, 99999]).item()
        )
        decision = decide(prob_map, shape, rule, pixel_aspect=aspect)
        whole = unletterbox(quantize(prob_map), *shape, aspect)
        np.testing.assert_array_equal(decision.raw_mask, whole > np.float32(255 * rule.mask_threshold))
        top = np.count_nonzero(whole > np.float32(255 * rule.top_threshold))
        too_few = top < rule.top_area * math.prod(shape) / 1024**2
        kept = remove_small_components(decision.raw_mask, rule.minimum_area)
        np.testing.assert_array_equal(decision.mask, kept & (not too_few))
        stages.add(decision.stage)
    assert stages == {"segmenter", "triplet", "elimination", "mask"}
