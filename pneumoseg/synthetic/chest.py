"""Geometry of one patient's chest, sampled at random: lungs, heart, body outline and ribs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from pneumoseg.synthetic.canvas import Field, Points, View

# Control points (x in the first row, y in the second) of the lung on the viewer's left: from the apex down the chest
# wall, then from the costophrenic angle along the diaphragm and up the mediastinum. The other lung is mirrored, and the
# heart pushes its medial border aside.
_WALL = np.array([[-0.31, -0.48, -0.62, -0.69, -0.72, -0.72], [-0.80, -0.68, -0.42, -0.08, 0.27, 0.48]])
_RIGHT_BASE = np.array(
    [
        [-0.69, -0.60, -0.42, -0.26, -0.17, -0.14, -0.15, -0.13, -0.15, -0.20],
        [0.53, 0.44, 0.35, 0.38, 0.43, 0.22, -0.06, -0.32, -0.56, -0.73],
    ]
)
_LEFT_BASE = np.array(
    [
        [-0.69, -0.62, -0.52, -0.44, -0.40, -0.37, -0.28, -0.19, -0.17, -0.15, -0.20],
        [0.56, 0.48, 0.43, 0.44, 0.45, 0.28, 0.08, -0.12, -0.36, -0.56, -0.73],
    ]
)
_DOME = slice(1, 4)
_HEART_BORDER = slice(3, 8)
_BODY = np.array(
    [
        [-0.15, -0.17, -0.34, -0.66, -0.88, -1.02, -1.10, -1.12, -0.96, -0.86, -0.84, -0.86, -0.90, -0.90, 0.0, 0.0],
        [-1.60, -0.98, -0.90, -0.85, -0.76, -0.55, 0.0, 0.20, -0.05, -0.12, 0.10, 0.50, 1.0, 1.70, 1.70, -1.60],
    ]
)


class Polar(NamedTuple):
    """Position of every pixel as seen from the centre of a lung.

    Attributes:
        depth: Relative depth, (GRID, GRID) float32: 1 at the centre, 0 on the outline, negative outside.
        direction: Direction in radians, (GRID, GRID) float32: 0 towards the chest wall and pi / 2 towards the apex, for
            either lung.
    """

    depth: Field
    direction: Field


@dataclass(frozen=True)
class Lung:
    """One lung.

    Attributes:
        side: -1 on the viewer's left (the patient's right), +1 on the viewer's right.
        outline: Closed curve, (n, 2) in chest coordinates.
    """

    side: int
    outline: Points

    @property
    def centre(self) -> Points:
        """The point in chest coordinates that directions start from; the whole outline is visible from it."""
        return np.array([self.outline[:, 0].mean(), -0.05])

    @property
    def hilum(self) -> Points:
        """The point in chest coordinates at which the vessels enter."""
        return np.array([self.side * 0.17, -0.12])

    def polar(self, x: Field, y: Field) -> Polar:
        """Return the position of points as seen from the centre of the lung; `x` and `y` in chest coordinates."""
        centre = self.centre.astype(np.float32)
        across, up = self.side * (x - centre[0]), centre[1] - y
        corners = (self.outline - self.centre) * (self.side, -1)
        bearings = np.arctan2(corners[:, 1], corners[:, 0])
        order = np.argsort(bearings)
        table = np.linspace(-np.pi, np.pi, 1024)
        reach = np.interp(table, bearings[order], np.hypot(*corners[order].T), period=2 * np.pi)
        reach = ndimage.gaussian_filter1d(reach, 8, mode="wrap")
        direction = np.arctan2(up, across)
        cell = np.round((direction + np.float32(np.pi)) * np.float32(1023 / (2 * np.pi))).astype(np.int32)
        return Polar(1 - np.hypot(across, up) / reach.astype(np.float32)[cell], direction)


@dataclass(frozen=True)
class Chest:
    """Geometry of one patient.

    Attributes:
        lungs: The lungs, the one on the viewer's left first.
        body: The two halves of the body's outline, each (n, 2) in chest coordinates.
        ribs: Ribs as (posterior, anterior) lines, each (n, 2) in chest coordinates.
        heart_size: Size of the heart relative to the average.
        sex: F or M.
        stoutness: Amount of soft tissue over the chest, 0 to 1.
    """

    lungs: tuple[Lung, Lung]
    body: tuple[Points, ...]
    ribs: tuple[list[Points], list[Points]]
    heart_size: float
    sex: str
    stoutness: float


def sample_chest(rng: np.random.Generator) -> Chest:
    """Return the random geometry of one patient."""
    width, height, dome = rng.uniform(0.86, 1.12), rng.uniform(0.86, 1.08), rng.uniform(-0.06, 0.08)
    heart_size = rng.uniform(0.75, 1.25)
    right = _sample_lung(rng, -1, (width, height), dome, 1.0)
    left = _sample_lung(rng, 1, (width, height), dome, heart_size)
    return Chest(
        lungs=(right, left),
        heart_size=heart_size,
        body=_body(width, rng.uniform(0.97, 1.08), rng.uniform(-0.04, 0.06)),
        ribs=_ribs(rng, right, left),
        sex="F" if rng.random() < 0.44 else "M",
        stoutness=rng.uniform(),
    )


def sample_view(rng: np.random.Generator) -> View:
    """Return a random placement of the chest in the image: rotation, magnification and shift."""
    shift = rng.uniform(-0.06, 0.06, 2)
    return View(rng.normal(0, 0.03), rng.uniform(0.9, 1.12), (float(shift[0]), float(shift[1]) + 0.06))


def _sample_lung(rng: np.random.Generator, side: int, extent: tuple[float, float], dome: float, heart: float) -> Lung:
    base = (_RIGHT_BASE if side < 0 else _LEFT_BASE).T.copy()
    base[_DOME, 1] += dome * np.array([0.5, 1.0, 0.7]) + rng.normal(0, 0.015)
    if side > 0:
        base[_HEART_BORDER, 0] = -0.16 + (base[_HEART_BORDER, 0] + 0.16) * heart
    wall = _WALL.T + np.array([rng.normal(0, 0.012), 0])
    points = np.concatenate([wall, base]) * extent
    return Lung(side, _smooth((points + rng.normal(0, 0.006, points.shape)) * (-side, 1)))


def _smooth(points: Points) -> Points:
    """Return a closed curve of 240 points through the control points."""
    closed = np.concatenate([points, points[:1]])
    chords = np.hypot(*np.diff(closed, axis=0).T)
    # The square root of the chord (centripetal spacing) keeps the curve from looping at the costophrenic angle.
    knots = np.concatenate([[0], np.cumsum(np.sqrt(chords))])
    return CubicSpline(knots, closed, bc_type="periodic")(np.linspace(0, knots[-1], 240, endpoint=False))


def _body(width: float, girth: float, drop: float) -> tuple[Points, Points]:
    half = _BODY.T * (max(width, 0.95) * girth, 1) + (0, drop)
    return half, half * (-1, 1)


def _ribs(rng: np.random.Generator, right: Lung, left: Lung) -> tuple[list[Points], list[Points]]:
    """Return the ribs as (posterior, anterior) lines.

    Each rib is a tilted hoop seen from the front: out along the back, round the side, then down and in at the front.
    """
    turn = np.linspace(0, 0.78 * np.pi, 25)
    gap, top, fall = rng.uniform(0.125, 0.145), rng.uniform(-0.9, -0.84), rng.uniform(0.3, 0.42)
    posterior, anterior = [], []
    for lung in (right, left):
        wall = lung.outline[:, 0] * lung.side
        for number in range(9):
            start = top + gap * number
            drop = fall * min(1.0, 0.6 + 0.1 * number)
            at_height = np.abs(lung.outline[:, 1] - (start + drop / 2)) < 0.08
            reach = wall[at_height].max() + 0.015 if at_height.any() else wall.max() + 0.01
            x = lung.side * (0.06 + (reach - 0.06) * np.sin(turn))
            y = start + drop * (1 - np.cos(turn)) / 2 - 0.05 * np.sin(turn) * np.cos(turn)
            rib = np.stack([x, y], 1)
            posterior.append(rib[:17])
            if number < 6:
                anterior.append(rib[16:])
    return posterior, anterior
