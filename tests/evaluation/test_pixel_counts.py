"""Counts of one pass against masks drawn one by one."""

import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from pneumoseg.decision import DecisionRule, decide, remove_small_components
from pneumoseg.evaluation.cases import dice_of
from pneumoseg.evaluation.pixel_counts import count_pixels
from pneumoseg.geometry import letterbox, letterbox_image, square_shape, unletterbox
from tests.conftest import predictions_of

SHAPES = [(40, 40), (64, 64), (96, 96), (50, 37), (20, 90), (13, 64), (1, 5), (128, 70)]


def blobs(rng, shape, sigma, steps=256):
    """A smooth random map, uint8, with components of all sizes."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    noise -= noise.min()
    return np.round((steps - 1) * noise / max(noise.max(), 1e-9)).astype(np.uint8)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """40 images of several shapes, more than are counted at once, with maps smaller and larger than they are."""
    rng = np.random.default_rng(0)
    maps, masks = [], []
    for number in range(40):
        shape = SHAPES[number % len(SHAPES)]
        size = (16, 40, 64, 100)[number // len(SHAPES) % 4]
        maps.append(blobs(rng, (size, size), rng.choice([0.7, 1.5, 4])))
        masks.append(blobs(rng, shape, 3) > 255 * rng.choice([0.4, 0.7, 1]))  # the last one has no pixel
    maps[0][:] = 0
    maps[9][:] = 255
    maps[18] = None
    assert any(not mask.any() for mask in masks)
    return predictions_of(tmp_path_factory.mktemp("kept"), maps, masks, rng.random(40)), masks


def prob_map_u8_of(kept, row):
    """A map as it is in the cache, 255 times the probability."""
    with Image.open(kept.maps[row]) as image:
        return np.asarray(image)


def counts_of(mask, truth):
    return np.count_nonzero(mask), np.count_nonzero(mask & truth)


def test_counts_are_those_of_the_masks_that_the_pipeline_draws(predictions):
    kept, masks = predictions
    rng = np.random.default_rng(1)
    thresholds = [0, 1, 0.5, 0.55, *rng.random(6)]
    # On a 64 x 64 image an area stands for 256 times as many pixels: sizes that components have exactly, too.
    areas = [256, 512, 512 + 1e-6, 3500, 20 * 256, 100_000, *(rng.random(4) * 20_000)]
    counts = count_pixels(kept, thresholds, areas)
    seen = set()
    for row, truth in enumerate(masks):
        prob_map = kept.prob_map(row)
        for threshold in thresholds:
            for area in [0, *areas]:
                found = tuple(each[row] for each in counts.at(threshold, area))
                if prob_map is None:
                    assert found == (0, 0)
                    continue
                rule = DecisionRule(mask_threshold=threshold, minimum_area=area)
                _, mask, stage = decide(prob_map, truth.shape, rule)
                assert found == counts_of(mask, truth)
                seen.add(stage)
    assert seen == {"segmenter", "elimination", "mask"}


def test_counts_are_those_of_elimination(predictions):
    kept, masks = predictions
    counts = count_pixels(kept, [0.6], [1000, 5000])
    for row in [n for n in range(40) if n != 18]:
        raw_mask = unletterbox(prob_map_u8_of(kept, row), *masks[row].shape) > 153
        for area in (0, 1000, 5000):
            mask = remove_small_components(raw_mask, area)
            assert tuple(each[row] for each in counts.at(0.6, area)) == counts_of(mask, masks[row])


def test_a_threshold_next_to_a_level_that_occurs(tmp_path):
    maps = [np.arange(256, dtype=np.uint8).reshape(16, 16)]
    kept = predictions_of(tmp_path, maps, [np.ones((16, 16), bool)], [0.5])
    thresholds = [(level + step) / 255 for level in (7, 77, 200) for step in (-1e-6, -1e-9, 0, 1e-9, 1e-6)]
    counts = count_pixels(kept, thresholds, [0])
    for threshold in thresholds:
        mask = decide(maps[0] / 255, (16, 16), DecisionRule(mask_threshold=threshold, minimum_area=0)).mask
        assert counts.at(threshold, 0)[0][0] == np.count_nonzero(mask)


def nearest(old, new):
    """Of each pixel of the new side, the one of the old side whose middle is nearest."""
    return [math.floor(Fraction(2 * pixel + 1, 2) * old / new) for pixel in range(new)]


def mask_on_a_grid(prob_map_u8, shape, grid, threshold, area, aspect=1.0):
    """The mask where components are found, and dropped, on a square grid first."""
    height, width, _, _ = letterbox(*shape, grid, aspect)
    labels, count = ndimage.label(unletterbox(prob_map_u8, height, width) > threshold * 255, np.ones((3, 3)))
    kept = np.zeros((height, width), bool)
    for number in range(1, count + 1):
        if (labels == number).sum() >= area:
            kept |= labels == number
    return kept[np.ix_(nearest(height, shape[0]), nearest(width, shape[1]))]


@pytest.fixture(scope="module")
def anisotropic(tmp_path_factory):
    """Images whose pixels are not square: six shapes, two aspects each."""
    rng = np.random.default_rng(4)
    shapes = [shape for shape in SHAPES[:6] for _ in range(2)]
    aspects = [2.0, 0.7] * 6
    maps = [blobs(rng, (size, size), 2) for size in (40, 64, 100, 16) for _ in range(3)]
    masks = [blobs(rng, shape, 3) > 128 for shape in shapes]
    folder = tmp_path_factory.mktemp("anisotropic")
    return predictions_of(folder, maps, masks, [0.5] * 12, pixel_aspect=aspects), masks, aspects


def test_counts_are_those_of_decisions_on_pixels_that_are_not_square(anisotropic):
    kept, masks, aspects = anisotropic
    thresholds, areas = [0.31, 0.5, 0.8], [0.0, 3500.0, 20_000.0]
    counts, seen = count_pixels(kept, thresholds, areas), set()
    for row, (mask, aspect) in enumerate(zip(masks, aspects, strict=True)):
        for threshold in thresholds:
            for area in areas:
                rule = DecisionRule(0.4, threshold, area)
                decided = decide(kept.prob_map(row), mask.shape, rule, pixel_aspect=aspect).mask
                assert tuple(each[row] for each in counts.at(threshold, area)) == counts_of(decided, mask)
                seen.add(np.count_nonzero(decided))
    assert len(seen) > 40


@pytest.mark.parametrize("grid", [16, 32, 100])
def test_counts_on_another_grid_of_pixels_that_are_not_square(anisotropic, grid):
    kept, masks, aspects = anisotropic
    counts = count_pixels(kept, [0.5], [5.5], grid=grid)
    for row, (truth, aspect) in enumerate(zip(masks, aspects, strict=True)):
        mask = mask_on_a_grid(prob_map_u8_of(kept, row), truth.shape, grid, 0.5, 5.5, aspect)
        assert tuple(each[row] for each in counts.at(0.5, 5.5)) == counts_of(mask, truth)


@pytest.mark.parametrize(("shape", "aspect"), [((64, 128), 2.0), ((128, 64), 0.5), ((60, 128), 1.5)])
def test_a_perfect_map_scores_1_whatever_the_pixels(shape, aspect, tmp_path):
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = ((y - 30) / shape[0]) ** 2 + ((x - 40) / shape[1]) ** 2 < 0.06
    square = tf.constant(square_shape(shape, aspect))
    perfect = letterbox_image(tf.constant(255 * truth[..., None].astype(np.uint8)), 128, square).numpy()[..., 0]
    right = predictions_of(tmp_path / "right", [perfect], [truth], [1], pixel_aspect=aspect)
    wrong = predictions_of(tmp_path / "wrong", [perfect], [truth], [1])
    for grid, least in ((None, 0.98), (128, 0.97), (64, 0.95)):
        one, other = (
            dice_of(*count_pixels(kept, [0.5], [0], grid=grid).at(0.5, 0), truth.sum()) for kept in (right, wrong)
        )
        assert one > least
        assert other < 0.9


def test_an_unknown_mask_is_not_counted_as_empty(tmp_path):
    kept = predictions_of(tmp_path, [np.zeros((4, 4), np.uint8)] * 2, [np.ones((4, 4), bool)] * 2, [0.5] * 2)
    kept.manifest["rle"] = ["", "-1"]
    with pytest.raises(ValueError, match="1 of 2 images have a label and no mask, the first: i0"):
        count_pixels(kept, [0.5], [0])


@pytest.mark.parametrize("grid", [16, 32, 100])
def test_counts_on_another_grid(predictions, grid):
    kept, masks = predictions
    thresholds, areas = [0.31, 0.5, 0.8], [2, 5.5, 30, 200]
    counts = count_pixels(kept, thresholds, areas, grid=grid)
    for row in [n for n in range(40) if n != 18]:
        for threshold in thresholds:
            for area in [0, *areas]:
                mask = mask_on_a_grid(prob_map_u8_of(kept, row), masks[row].shape, grid, threshold, area)
                assert tuple(each[row] for each in counts.at(threshold, area)) == counts_of(mask, masks[row])


def test_the_images_own_grid_is_one_of_them(tmp_path):
    rng = np.random.default_rng(3)
    maps, masks = [blobs(rng, (64, 64), 1.5) for _ in range(4)], [blobs(rng, (64, 64), 3) > 150 for _ in range(4)]
    kept = predictions_of(tmp_path, maps, masks, [0.5] * 4)
    own, same = count_pixels(kept, [0.5], [256 * 7]), count_pixels(kept, [0.5], [7], grid=64)
    np.testing.assert_array_equal(own.pixels, same.pixels)
    np.testing.assert_array_equal(own.overlap, same.overlap)


def test_the_rest_of_what_is_counted(predictions):
    kept, masks = predictions
    counts = count_pixels(kept, [0.7, 0.2, 0.7], [500, 100, 0, 100])
    np.testing.assert_array_equal(counts.thresholds, [0.2, 0.7])
    np.testing.assert_array_equal(counts.areas, [0, 100, 500])
    assert counts.pixels.shape == counts.overlap.shape == (40, 2, 3)
    np.testing.assert_array_equal(counts.truth, [mask.sum() for mask in masks])
    np.testing.assert_array_equal(counts.size, [mask.size for mask in masks])
    greatest = [0 if row == 18 else prob_map_u8_of(kept, row).max() for row in range(40)]
    np.testing.assert_array_equal(counts.max_probability, np.array(greatest) / 255)
    assert (counts.max_probability[0], counts.max_probability[9], counts.max_probability[18]) == (0, 1, 0)
    assert counts.truth[18] > 0  # known even where the file cannot be read


def test_what_was_not_counted(predictions):
    counts = count_pixels(predictions[0], [0.5], [100])
    assert len(counts.at(0.5, 0)[0]) == 40
    for threshold, area in ((0.51, 100), (0.5, 101)):
        with pytest.raises(ValueError, match=rf"threshold {threshold} with minimum area {area} was not counted"):
            counts.at(threshold, area)
