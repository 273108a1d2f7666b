import time

import numpy as np
import pytest
from matplotlib.path import Path
from scipy.ndimage import binary_fill_holes, generate_binary_structure, label

from pneumoseg.dicom_objects import outlines
from pneumoseg.dicom_objects.outlines import find_components

EIGHT = generate_binary_structure(2, 2)


def rasterised(outline, shape):
    """Return the pixels whose centres lie inside a closed outline, whose coordinates are column and row."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.column_stack([columns.ravel() + 0.5, rows.ravel() + 0.5])
    return Path(outline).contains_points(centres).reshape(shape)


def test_an_empty_mask_has_no_component():
    assert find_components(np.zeros((3, 3), bool), 9) == ([], 0)


def test_a_single_pixel_has_a_closed_outline_around_its_centre():
    mask = np.zeros((5, 7), bool)
    mask[3, 1] = True
    [component], _ = find_components(mask, 9)
    # The centre of column 1, row 3 is (1.5, 3.5).
    assert component.area_px == 1
    assert sorted(component.outline[:4].tolist()) == [[1, 3.5], [1.5, 3], [1.5, 4], [2, 3.5]]
    assert component.outline[0].tolist() == component.outline[-1].tolist()


@pytest.mark.parametrize("pixels", [np.s_[2, :], np.s_[:, 4], np.s_[:, :], (range(5), range(5)), (0, 0), (-1, -1)])
def test_lines_and_corners(pixels):
    mask = np.zeros((5, 7), bool)
    mask[pixels] = True
    [component], _ = find_components(mask, 9)
    assert component.area_px == mask.sum()
    assert (rasterised(component.outline, mask.shape) == mask).all()
    assert (component.outline >= 0).all()
    assert (component.outline <= (7, 5)).all()


def test_a_straight_line_has_no_points_in_its_middle():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 5:35] = True
    [component], _ = find_components(mask, 9)
    # Eight corners, because an outline cuts the corner of a pixel, and the starting point again, on whichever side.
    assert 9 <= len(component.outline) <= 10


def test_random_masks_are_given_back():
    generator = np.random.default_rng(7)
    for _ in range(40):
        mask = generator.random((23, 31)) < generator.choice([0.1, 0.4, 0.6])
        labels, count = label(mask, EIGHT)
        components, found_count = find_components(mask, 1000)
        areas = [component.area_px for component in components]
        assert areas == sorted(np.bincount(labels.ravel())[1:], reverse=True)
        assert len(areas) == found_count == count
        found = sorted(rasterised(component.outline, mask.shape).tobytes() for component in components)
        expected = [binary_fill_holes(labels == number) for number in range(1, count + 1)]
        assert found == sorted(filled.tobytes() for filled in expected)


def test_only_the_largest_components_are_outlined():
    mask = np.zeros((400, 400), bool)
    mask[::2, ::2] = True
    mask[100, 100:103] = mask[200:202, 200] = True
    started = time.process_time()
    components, count = find_components(mask, 3)
    # Outlines of all 40,000 would take half a minute.
    assert time.process_time() - started < 5
    # Each of the two bars joins two dots.
    _, expected = label(mask, EIGHT)
    assert count == expected
    assert [component.area_px for component in components] == [3, 3, 1]
    assert components[0].area_px + components[1].area_px + 1 + (count - 3) == mask.sum()


def test_a_hole_is_not_outlined():
    mask = np.ones((9, 9), bool)
    mask[1:8, 1:8] = False
    [component], _ = find_components(mask, 9)
    assert component.area_px == 32
    assert rasterised(component.outline, mask.shape).all()


def test_an_outline_with_too_many_points_is_simplified(monkeypatch):
    monkeypatch.setattr(outlines, "_MOST_POINTS", 100)
    # A comb: each tooth has four corners, each of two points.
    mask = np.zeros((60, 41), bool)
    mask[30:] = True
    mask[10:, ::2] = True
    [component], _ = find_components(mask, 9)
    assert 4 <= len(component.outline) <= 100
    assert component.outline[0].tolist() == component.outline[-1].tolist()
    assert (component.outline >= 0).all()
    assert (component.outline <= (41, 60)).all()
    assert component.area_px == mask.sum()
    # The teeth are 1 pixel wide, so the tolerance of 0.5 or 1 pixel that suffices may lose them, but not the rest.
    assert rasterised(component.outline, mask.shape)[32:, 2:-2].all()
    assert not rasterised(component.outline, mask.shape)[:8].any()
