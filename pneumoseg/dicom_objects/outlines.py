"""Outlines of the connected components of a mask."""

from typing import NamedTuple

import numpy as np

from pneumoseg.geometry import bounding_box

_MOST_POINTS = 8000
"""Largest number of points of an outline: in explicit VR, Graphic Data hold 65,534 bytes of 4 per number."""


class Component(NamedTuple):
    """One connected component of a mask.

    Attributes:
        area_px: Number of its pixels.
        outline: Closed polyline around it, float32, (n, 2): column and row of each point, where (0.5, 0.5) is the
            centre of the first pixel. The last point is the first one.
    """

    area_px: int
    outline: np.ndarray


def find_components(mask: np.ndarray, most: int) -> tuple[list[Component], int]:
    """Return the largest 8-connected components of a mask.

    An outline passes halfway between the centres of pixels inside and outside, so the centres inside it are the
    component's, and those of its holes: an outline is the outer one only. If it had more than 8,000 points, it
    is simplified until it does not.

    Args:
        mask: Mask, bool, (H, W).
        most: Largest number of components to outline.

    Returns:
        The components, the largest first; and the number of all components of the mask.

    Example:
        >>> [component], count = find_components(np.array([[False, True]]), 50)
        >>> component.outline.tolist(), count
        ([[1.5, 1.0], [1.0, 0.5], [1.5, 0.0], [2.0, 0.5], [1.5, 1.0]], 1)
    """
    from scipy.ndimage import find_objects
    from skimage.measure import label

    if not mask.any():
        return [], 0
    box = bounding_box(mask)
    labels = label(mask[box], connectivity=2)
    areas, boxes = np.bincount(labels.ravel())[1:], find_objects(labels)
    corner = np.array([box[0].start, box[1].start])
    components = []
    for index in np.argsort(-areas, kind="stable")[:most]:
        rows, columns = boxes[index]
        outline = _outline(labels[rows, columns] == index + 1, corner + np.array([rows.start, columns.start]))
        components.append(Component(int(areas[index]), outline))
    return components, len(areas)


def _outline(inside: np.ndarray, corner: np.ndarray) -> np.ndarray:
    from skimage.measure import approximate_polygon, find_contours

    # A margin lets the outlines close at the border. The outline of a hole is less high than the outer one.
    contours = find_contours(np.pad(inside, 1).astype(np.float32), 0.5, fully_connected="high")
    full = _without_straight_points(max(contours, key=lambda contour: np.ptp(contour[:, 0])))
    outline, tolerance = full, 0.5
    while len(outline) > _MOST_POINTS:
        outline, tolerance = approximate_polygon(full, tolerance), 2 * tolerance
    return (outline - 0.5 + corner)[:, ::-1].astype(np.float32)


def _without_straight_points(contour: np.ndarray) -> np.ndarray:
    """Return a closed contour without the points in the middle of straight lines."""
    steps = np.diff(contour, axis=0)
    turns = np.any(steps[1:] != steps[:-1], axis=1)
    return contour[np.concatenate([[True], turns, [True]])]
