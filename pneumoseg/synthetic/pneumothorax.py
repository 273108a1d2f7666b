"""Air between lung and chest wall: pockets of a given area, the pleural line, and the annotation rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pneumoseg.synthetic.anatomy import Anatomy
from pneumoseg.synthetic.canvas import GRID, Field, blur, step
from pneumoseg.synthetic.chest import Polar

# A log-normal distribution with the mean (1.37%) and median (0.82%) of the competition's positive masks. It puts 58% of
# them below 1% of the image (competition: 57%) and 19% below 3500 of 1024 x 1024 pixels (competition: 20.5%).
_MEDIAN_AREA = 0.0082
_SPREAD = math.sqrt(2 * math.log(1.37 / 0.82))
_AREA_LIMITS = (0.0004, 0.08)
_MAX_LUNG_FRACTION = 0.3

# Directions of pockets from the centre of the lung (0: chest wall, pi / 2: apex), and their frequencies.
_APEX, _BASE = 1.45, -0.75
_DIRECTIONS = (_APEX, 0.9, 0.2, _BASE, 2.2)
_FREQUENCIES = (0.36, 0.32, 0.14, 0.12, 0.06)

# 624 of the 2,669 positive images have several rows, and 183 have rows that overlap.
_STYLES = ("one", "separate", "overlapping")
_STYLE_FREQUENCIES = (1 - 624 / 2669, 441 / 2669, 183 / 2669)


@dataclass(frozen=True)
class Pocket:
    """One collection of air in a lung.

    Attributes:
        polar: Positions as seen from the centre of this lung.
        level_set: Field that is positive inside the pocket, 0 on the pleural line and on the chest wall, and negative
            outside, (GRID, GRID) float32.
        direction: Direction of the pocket from the centre of the lung, in radians.
    """

    polar: Polar
    level_set: Field
    direction: float


def sample_area(rng: np.random.Generator) -> float:
    """Return a random area of a pneumothorax, as a fraction of the image: 0.0004 to 0.08."""
    return float(np.clip(_MEDIAN_AREA * np.exp(_SPREAD * rng.standard_normal()), *_AREA_LIMITS))


def sample_annotation_style(rng: np.random.Generator) -> str:
    """Return a random annotation style: "one" row, "separate" rows or "overlapping" rows."""
    return str(rng.choice(_STYLES, p=_STYLE_FREQUENCIES))


def sample_pockets(rng: np.random.Generator, polars: Sequence[Polar], area: float, style: str) -> list[Pocket]:
    """Return random pockets that cover a given area together.

    Args:
        rng: Source of randomness.
        polars: Positions as seen from the centre of each lung.
        area: Area as a fraction of the image. At most 30% of the lungs are covered.
        style: Annotation style. "separate" gives two pockets in different places, the other styles give one.

    Returns:
        The pockets.
    """
    lungs = sum(np.count_nonzero(polar.depth > 0) for polar in polars) / GRID**2
    area = min(area, _MAX_LUNG_FRACTION * lungs)
    here, other = rng.permutation(2)
    place = float(rng.choice(_DIRECTIONS, p=_FREQUENCIES))
    if style != "separate":
        return [_pocket(rng, polars[here], place, area)]
    fraction = rng.uniform(0.5, 0.8)
    first = _pocket(rng, polars[here], place, area * fraction)
    elsewhere = _BASE if place > 0.5 else _APEX
    second = polars[here if rng.random() < 0.6 else other]
    return [first, _pocket(rng, second, elsewhere, area * (1 - fraction), taken=first)]


def _pocket(rng: np.random.Generator, polar: Polar, place: float, area: float, taken: Pocket | None = None) -> Pocket:
    """Return a pocket of a given area.

    The lung recedes from its wall, most in one direction, by the amount that gives the area.
    """
    depth, direction = polar
    fraction = area * GRID**2 / np.count_nonzero(depth > 0)
    centre = place + rng.normal(0, 0.15)
    bell = _bell(rng, direction - np.float32(centre), rng.uniform(0.3, 0.5) + 1.9 * min(fraction, 0.7))
    ratio = np.where((depth > 0) & (bell > 0.01), depth / np.maximum(bell, 0.01), np.float32(np.inf))
    if taken is not None and taken.polar is polar:
        ratio = np.where(taken.level_set > 0, np.float32(np.inf), ratio)
    # A lung that is much smaller than the other may have too little room; then the pocket takes all of it.
    wanted = min(max(4, round(area * GRID**2)), int(np.count_nonzero(np.isfinite(ratio))))
    recession = np.partition(ratio, wanted - 1, axis=None)[wanted - 1]
    return Pocket(polar, np.minimum(np.float32(recession) * bell - depth, depth).astype(np.float32), centre)


def _bell(rng: np.random.Generator, turn: Field, width: float) -> Field:
    """Return the relative recession of the lung in each direction.

    It is 1 in the middle and negative beyond 1.8 widths, so that the pocket has tips.
    """
    angles = np.linspace(-np.pi, np.pi, 1024)
    waves = 1 + sum(rng.normal(0, 0.05) * np.cos(n * angles + rng.uniform(0, 6)) for n in (2, 3, 5))
    table = (np.exp(-0.5 * (angles / width) ** 2) - math.exp(-0.5 * 1.8**2)) * waves
    cell = np.round((turn + np.float32(np.pi)) * np.float32(1024 / (2 * np.pi))).astype(np.int32)
    return table.astype(np.float32)[cell % 1024]


def split_annotation(pocket: Pocket, style: str) -> list[Field]:
    """Return the level sets of the annotation rows of one pocket.

    Args:
        pocket: The pocket.
        style: Annotation style. "overlapping" gives two halves that share a middle part, the other styles the pocket.
    """
    if style != "overlapping":
        return [pocket.level_set]
    turn = np.angle(np.exp(1j * (pocket.polar.direction - pocket.direction))).astype(np.float32)
    low, high = np.quantile(turn[pocket.level_set > 0], [0.35, 0.65])
    # Bounded below, which avoids a step behind the lung's centre, where the angle wraps around.
    cuts = [np.maximum(high - turn, np.float32(-0.01)), np.maximum(turn - low, np.float32(-0.01))]
    return [np.minimum(pocket.level_set, cut) for cut in cuts]


def paint_pneumothorax(rng: np.random.Generator, anatomy: Anatomy, pockets: list[Pocket]) -> tuple[Field, Field]:
    """Paint pockets into the lungs.

    Args:
        rng: Source of randomness.
        anatomy: Painted layers of the patient.
        pockets: Pockets of air.

    Returns:
        The layers (air, markings) that replace those of `anatomy`, each (GRID, GRID) float32.
    """
    air, markings = anatomy.air, anatomy.markings
    faint = rng.random() < 0.15
    darkness = rng.uniform(0.04, 0.07) if faint else rng.uniform(0.12, 0.2)
    for pocket in pockets:
        inside = blur((pocket.level_set > 0).astype(np.float32), 0.005)
        depth = pocket.polar.depth
        air = air + darkness * inside * np.sqrt(step(depth, -0.01, 0.08))
        markings = markings * (1 - inside) + rng.uniform(0.05, 0.1) * _pleura(pocket)
    return air, markings


def _pleura(pocket: Pocket) -> Field:
    """Paint a line of about two grid pixels along the edge of the lung that has separated from the wall."""
    inside = blur((pocket.level_set > 0).astype(np.float32), 0.0035)
    return 4 * inside * (1 - inside) * step(pocket.polar.depth, 0.015, 0.05)
