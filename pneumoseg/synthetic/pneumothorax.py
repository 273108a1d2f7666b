"""Air between lung and chest wall: pockets of a given area, the pleural line, and the rows they are annotated in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pneumoseg.synthetic.anatomy import Anatomy
from pneumoseg.synthetic.canvas import GRID, Field, blur, step
from pneumoseg.synthetic.chest import Polar

# The log-normal whose mean (1.37%) and median (.82%) are those of the competition's positive masks; it then gives
# 58% of them under 1% (57% there) and 19% under 3500 of 1024 x 1024 pixels (20.5% there).
_MEDIAN_AREA = 0.0082
_SPREAD = math.sqrt(2 * math.log(1.37 / 0.82))
_AREA_LIMITS = (0.0004, 0.08)
_LARGEST_SHARE_OF_LUNGS = 0.3

# Where pockets collect, as angles from the middle of the lung (0: chest wall, pi / 2: apex), and how often.
_APEX, _BASE = 1.45, -0.75
_PLACES = (_APEX, 0.9, 0.2, _BASE, 2.2)
_FREQUENCIES = (0.36, 0.32, 0.14, 0.12, 0.06)

# 624 of the 2,669 positive images have several rows, and 183 have rows that overlap.
_ROWS = ("one", "separate", "overlapping")
_ROW_FREQUENCIES = (1 - 624 / 2669, 441 / 2669, 183 / 2669)


@dataclass(frozen=True)
class Pocket:
    """One collection of air in the lung that `polar` is of, around the angle `direction`.

    `level` (GRID, GRID) is above 0 inside, 0 on the pleural line and on the chest wall, below 0 outside.
    """

    polar: Polar
    level: Field
    direction: float


def draw_area(rng: np.random.Generator) -> float:
    """Draw the share of the image that a pneumothorax covers, 0.04% to 8%."""
    return float(np.clip(_MEDIAN_AREA * np.exp(_SPREAD * rng.standard_normal()), *_AREA_LIMITS))


def draw_rows(rng: np.random.Generator) -> str:
    """Draw how a pneumothorax is annotated: in "one" row, in "separate" ones, or in "overlapping" ones."""
    return str(rng.choice(_ROWS, p=_ROW_FREQUENCIES))


def draw_pockets(rng: np.random.Generator, polars: Sequence[Polar], area: float, rows: str) -> list[Pocket]:
    """Draw pockets that cover `area` (a share of the image) together, but at most 30% of what the lungs do.

    They are one, or two in different places where `rows` is "separate".
    """
    lungs = sum(np.count_nonzero(polar.depth > 0) for polar in polars) / GRID**2
    area = min(area, _LARGEST_SHARE_OF_LUNGS * lungs)
    here, other = rng.permutation(2)
    place = float(rng.choice(_PLACES, p=_FREQUENCIES))
    if rows != "separate":
        return [_pocket(rng, polars[here], place, area)]
    share = rng.uniform(0.5, 0.8)
    first = _pocket(rng, polars[here], place, area * share)
    elsewhere = _BASE if place > 0.5 else _APEX
    second = polars[here if rng.random() < 0.6 else other]
    return [first, _pocket(rng, second, elsewhere, area * (1 - share), taken=first)]


def _pocket(rng: np.random.Generator, polar: Polar, place: float, area: float, taken: Pocket | None = None) -> Pocket:
    """The lung recedes from its wall, most in one direction, by as much as makes the pocket `area` large."""
    depth, direction = polar
    share = area * GRID**2 / np.count_nonzero(depth > 0)
    centre = place + rng.normal(0, 0.15)
    bell = _bell(rng, direction - np.float32(centre), rng.uniform(0.3, 0.5) + 1.9 * min(share, 0.7))
    ratio = np.where((depth > 0) & (bell > 0.01), depth / np.maximum(bell, 0.01), np.float32(np.inf))
    if taken is not None and taken.polar is polar:
        ratio = np.where(taken.level > 0, np.float32(np.inf), ratio)
    # A lung much smaller than the other one may not have the room: then all that it has is taken.
    wanted = min(max(4, round(area * GRID**2)), int(np.count_nonzero(np.isfinite(ratio))))
    recession = np.partition(ratio, wanted - 1, axis=None)[wanted - 1]
    return Pocket(polar, np.minimum(np.float32(recession) * bell - depth, depth).astype(np.float32), centre)


def _bell(rng: np.random.Generator, turn: Field, width: float) -> Field:
    """How far the lung recedes in each direction: 1 in the middle, below 0 beyond 1.8 widths, so that tips form."""
    angles = np.linspace(-np.pi, np.pi, 1024)
    waves = 1 + sum(rng.normal(0, 0.05) * np.cos(n * angles + rng.uniform(0, 6)) for n in (2, 3, 5))
    table = (np.exp(-0.5 * (angles / width) ** 2) - math.exp(-0.5 * 1.8**2)) * waves
    cell = np.round((turn + np.float32(np.pi)) * np.float32(1024 / (2 * np.pi))).astype(np.int32)
    return table.astype(np.float32)[cell % 1024]


def split_rows(pocket: Pocket, rows: str) -> list[Field]:
    """Levels of the annotation rows of one pocket: itself, or two halves that share a middle part."""
    if rows != "overlapping":
        return [pocket.level]
    turn = np.angle(np.exp(1j * (pocket.polar.direction - pocket.direction))).astype(np.float32)
    low, high = np.quantile(turn[pocket.level > 0], [0.35, 0.65])
    # Bounded below, so that there is no step behind the lung's centre, where the angle starts anew.
    cuts = [np.maximum(high - turn, np.float32(-0.01)), np.maximum(turn - low, np.float32(-0.01))]
    return [np.minimum(pocket.level, cut) for cut in cuts]


def paint_pneumothorax(rng: np.random.Generator, anatomy: Anatomy, pockets: list[Pocket]) -> tuple[Field, Field]:
    """Paint the pockets into the lungs: returns (air, markings) in place of those of `anatomy`."""
    air, markings = anatomy.air, anatomy.markings
    faint = rng.random() < 0.15
    darkness = rng.uniform(0.04, 0.07) if faint else rng.uniform(0.12, 0.2)
    for pocket in pockets:
        inside = blur((pocket.level > 0).astype(np.float32), 0.005)
        depth = pocket.polar.depth
        air = air + darkness * inside * np.sqrt(step(depth, -0.01, 0.08))
        markings = markings * (1 - inside) + rng.uniform(0.05, 0.1) * _pleura(pocket)
    return air, markings


def _pleura(pocket: Pocket) -> Field:
    """A line about two grid pixels wide along the edge of the lung that has come off the wall."""
    inside = blur((pocket.level > 0).astype(np.float32), 0.0035)
    return 4 * inside * (1 - inside) * step(pocket.polar.depth, 0.015, 0.05)
