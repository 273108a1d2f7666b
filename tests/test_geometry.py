"""Letterboxing and its inverse against hand-computed cases."""

import numpy as np
import pytest

from pneumoseg.geometry import (
    Letterbox,
    bounding_box,
    letterbox,
    scale_area,
    square_shape,
    unletterbox,
    unletterbox_above,
)


@pytest.mark.parametrize(
    ("rows", "columns", "size", "expected"),
    [
        (1024, 1024, 512, Letterbox(512, 512, 0, 0)),
        (1024, 512, 512, Letterbox(512, 256, 0, 128)),
        (300, 400, 100, Letterbox(75, 100, 12, 0)),
        (3, 2, 5, Letterbox(5, 3, 0, 1)),  # 2 * 5 / 3 = 3.33
        (2, 1, 5, Letterbox(5, 3, 0, 1)),  # 2.5 rounds up
        (1, 4000, 8, Letterbox(1, 8, 3, 0)),  # never vanishes
    ],
)
def test_letterbox(rows, columns, size, expected):
    assert letterbox(rows, columns, size) == expected


@pytest.mark.parametrize(
    ("shape", "aspect", "square", "expected"),
    [
        ((100, 200), 2.0, (200, 200), Letterbox(100, 100, 0, 0)),
        ((100, 200), 0.5, (100, 400), Letterbox(25, 100, 37, 0)),
        ((200, 100), 1.5, (300, 100), Letterbox(100, 33, 0, 33)),  # 100 * 100 / 300
        ((3, 2), 0.8, (3, 2), Letterbox(100, 67, 0, 16)),  # 2 / 0.8 is 2.5, which rounds to an even number
        ((64, 64), 1.0, (64, 64), Letterbox(100, 100, 0, 0)),
    ],
)
def test_letterbox_of_pixels_that_are_not_square(shape, aspect, square, expected):
    assert square_shape(shape, aspect) == square
    assert letterbox(*shape, 100, aspect) == expected


@pytest.mark.parametrize("aspect", [0.5, 2.0])
def test_unletterbox_brings_a_map_back_to_pixels_that_are_not_square(aspect):
    shape = (8, 16) if aspect == 2 else (16, 8)
    probability = np.zeros((16, 16), np.float32)
    probability[4:10, 2:8] = 1  # a square of 6 pixels, which are 3 of the longer ones
    expected = np.zeros(shape)
    expected[(slice(2, 5), slice(2, 8)) if aspect == 2 else (slice(4, 10), slice(1, 4))] = 1
    np.testing.assert_array_equal(unletterbox(probability, *shape, aspect) > 0.5, expected)


def test_unletterbox_is_the_identity_on_the_same_grid():
    probability = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    np.testing.assert_array_equal(unletterbox(probability, 16, 16), probability)


def test_unletterbox_cuts_the_padding_off():
    probability = np.full((8, 8), 0.9, np.float32)
    probability[:, 2:6] = 0.25  # a 16 x 8 image lies in columns 2 to 5
    np.testing.assert_allclose(unletterbox(probability, 16, 8), np.full((16, 8), 0.25), atol=1e-6)


def test_unletterbox_interpolates_between_pixel_centres():
    probability = np.tile(np.array([0.0, 1.0], np.float32), (2, 1))
    # Centres of the four new pixels lie at -.25, .25, .75 and 1.25 of the old grid; the edge is repeated.
    np.testing.assert_allclose(unletterbox(probability, 4, 4)[0], [0, 0.25, 0.75, 1], atol=1e-6)


def test_unletterbox_keeps_float16_probabilities_within_their_range():
    enlarged = unletterbox(np.array([[0, 1], [1, 0]], np.float16), 7, 7)
    assert enlarged.dtype == np.float32
    assert enlarged.min() >= 0
    assert enlarged.max() <= 1


@pytest.mark.parametrize("aspect", [1.0, 0.7, 1.6])
@pytest.mark.parametrize("shape", [(128, 128), (100, 77), (61, 300), (32, 32), (20, 45)])
def test_the_part_above_a_threshold_is_a_part_of_the_whole(shape, aspect):
    rng = np.random.default_rng(0)
    for kind in range(6):
        levels = rng.integers(0, 256, (32, 32)).astype(np.uint8)
        if kind % 2:  # a few equal levels, one of which is the threshold
            levels = np.where(levels > 200, 153, 51).astype(np.uint8)
        place = rng.integers(0, 32, 2)
        if kind > 1:  # a spot, at the border or not
            levels[: place[0]], levels[:, : place[1]], levels[place[0] + 5 :], levels[:, place[1] + 4 :] = 0, 0, 0, 0
        whole = unletterbox(levels, *shape, aspect)
        for threshold in (0.0, 51, 127.5, 153, 255):
            part, box = unletterbox_above(levels, *shape, threshold, aspect)
            np.testing.assert_array_equal(part, whole[box])
            outside = whole.copy()
            outside[box] = 0
            assert outside.max() <= threshold


def test_the_part_above_a_threshold_that_nothing_reaches_is_empty():
    part, box = unletterbox_above(np.full((8, 8), 51, np.uint8), 16, 16, 51)
    assert (part.size, np.zeros((16, 16))[box].size) == (0, 0)


def test_the_part_above_a_threshold_is_little_more_than_it():
    levels = np.zeros((16, 16), np.uint8)
    levels[4:6, 8:12] = 255
    part, box = unletterbox_above(levels, 64, 64, 127.5)
    # A pixel of the map reaches 3 pixels of the image beyond its own 4.
    assert box == (slice(14, 26), slice(30, 50))
    assert part.shape == (12, 20)


def test_areas_are_scaled_by_the_number_of_pixels():
    assert scale_area(3500, 1024 * 1024) == 3500
    np.testing.assert_array_equal(scale_area([0, 3500, 2], [9, 512 * 512, 2048 * 2048]), [0, 875, 8])


def test_bounding_box_holds_all_pixels_and_no_more():
    mask = np.zeros((6, 9), bool)
    mask[1, 4] = mask[4, 2] = mask[3, 7] = True
    assert bounding_box(mask) == (slice(1, 5), slice(2, 8))
    assert mask[bounding_box(np.zeros((6, 9), bool))].size == 0
