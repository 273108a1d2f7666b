"""Geometry and small-region elimination against hand-drawn cases."""

import numpy as np
import pytest

from pneumoseg.postprocessing import Fit, fit_square, remove_small_components, restore


@pytest.mark.parametrize(
    ("rows", "columns", "size", "expected"),
    [
        (1024, 1024, 512, Fit(512, 512, 0, 0)),
        (1024, 512, 512, Fit(512, 256, 0, 128)),
        (300, 400, 100, Fit(75, 100, 12, 0)),
        (3, 2, 5, Fit(5, 3, 0, 1)),  # 2 * 5 / 3 = 3.33
        (2, 1, 5, Fit(5, 3, 0, 1)),  # 2.5 rounds up
        (1, 4000, 8, Fit(1, 8, 3, 0)),  # never vanishes
    ],
)
def test_fit_square(rows, columns, size, expected):
    assert fit_square(rows, columns, size) == expected


def test_restore_is_the_identity_on_the_same_grid():
    probability = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    np.testing.assert_array_equal(restore(probability, 16, 16), probability)


def test_restore_cuts_the_padding_off():
    probability = np.full((8, 8), 0.9, np.float32)
    probability[:, 2:6] = 0.25  # a 16 x 8 image lies in columns 2 to 5
    np.testing.assert_allclose(restore(probability, 16, 8), np.full((16, 8), 0.25), atol=1e-6)


def test_restore_interpolates_between_pixel_centres():
    probability = np.tile(np.array([0.0, 1.0], np.float32), (2, 1))
    # Centres of the four new pixels lie at -.25, .25, .75 and 1.25 of the old grid; the edge is repeated.
    np.testing.assert_allclose(restore(probability, 4, 4)[0], [0, 0.25, 0.75, 1], atol=1e-6)


def test_restore_keeps_float16_probabilities_within_their_range():
    restored = restore(np.array([[0, 1], [1, 0]], np.float16), 7, 7)
    assert restored.dtype == np.float32
    assert restored.min() >= 0
    assert restored.max() <= 1


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
