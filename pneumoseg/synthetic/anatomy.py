"""Anatomy of a synthetic chest: soft tissue, heart, spine, bones, and the two lungs with their vessels.

Densities are fractions of the image's full range before exposure: 0 is open air, 1 the densest bone.
"""

from dataclasses import dataclass

import numpy as np

from pneumoseg.synthetic.canvas import Field, Points, View, blur, clouds, fill, step, stroke
from pneumoseg.synthetic.chest import Chest, Lung


@dataclass(frozen=True)
class Anatomy:
    """Painted layers of one patient.

    Attributes:
        solid: Density that does not depend on the state of the lungs, (GRID, GRID) float32.
        air: Density that aerated lung subtracts from `solid`, 0 to about 0.4, (GRID, GRID) float32.
        markings: Density of the vessels and the fine texture of lung tissue, (GRID, GRID) float32.
    """

    solid: Field
    air: Field
    markings: Field


def paint_anatomy(rng: np.random.Generator, chest: Chest, view: View, depth: Field) -> Anatomy:
    """Paint one patient in one view.

    Args:
        rng: Source of randomness for what the geometry leaves open, such as the course of the vessels.
        chest: Geometry of the patient.
        view: Placement of the chest in the image.
        depth: Depth of each pixel in the lung nearest to it, (GRID, GRID) float32, see `Polar`.

    Returns:
        The painted layers.
    """
    x, y = view.coordinates()
    inside = step(depth, -0.01, 0.03)
    return Anatomy(
        solid=_soft_tissue(chest, view, x, y) + _bones(rng, chest, view, x, y),
        air=_air(rng, depth),
        markings=inside * (_vessels(rng, chest, view) + _texture(rng)),
    )


def _soft_tissue(chest: Chest, view: View, x: Field, y: Field) -> Field:
    body = blur(fill(view, chest.body), 0.012)
    thick = blur(body, 0.12)
    flesh = 0.5 + 0.1 * chest.stoutness + (0.16 + 0.05 * chest.stoutness) * step(y, 0.05, 0.55)
    spread = 0.26 * chest.heart_size
    heart = 0.1 * np.exp(-(((x - 0.1) / spread) ** 2) - ((y - 0.2) / (1.3 * spread)) ** 2)
    mediastinum = np.exp(-((x / 0.16) ** 2)) * (0.12 + 0.04 * step(y, -0.9, -0.3))
    return body * (thick * flesh + mediastinum + heart) + (_breasts(x, y, chest.stoutness) if chest.sex == "F" else 0)


def _breasts(x: Field, y: Field, stoutness: float) -> Field:
    across, low = (np.abs(x) - 0.46) / 0.3, 0.34 + 0.16 * stoutness
    radius = np.sqrt(across**2 + ((y - low) / 0.34) ** 2)
    # The lower margin is a sharp fold; the upper margin fades into the chest wall.
    return (0.03 + 0.05 * stoutness) * step(radius, 1.05, 0.9) * step(y, low - 0.35, low + 0.2)


def _air(rng: np.random.Generator, depth: Field) -> Field:
    """Return the density that lung subtracts along the beam: steep at the border, flat in the middle."""
    amount = rng.uniform(0.27, 0.36)
    bowl = np.sqrt(1 - (1 - np.clip(depth + 0.01, 0, 1)) ** 5)
    return amount * bowl * (1 + 0.07 * clouds(rng, 5))


def _bones(rng: np.random.Generator, chest: Chest, view: View, x: Field, y: Field) -> Field:
    posterior, anterior = chest.ribs
    strength = rng.uniform(0.7, 1.3)
    # The spine hides the beginning of the ribs.
    ribs = _bone(view, posterior, 0.05, 0.075) * step(np.abs(x), 0.08, 0.2) + _bone(view, anterior, 0.06, 0.04)
    vertebrae = 0.5 + 0.5 * np.cos(y * (2 * np.pi / 0.15) + rng.uniform(0, 6))
    spine = step(np.abs(x), 0.1, 0.075) * (0.045 + 0.025 * vertebrae)
    trachea = np.exp(-(((x - 0.01) / 0.045) ** 2)) * step(y, -0.25, -0.4)
    return strength * (ribs + _shoulders(rng, view)) + spine - 0.12 * trachea


def _bone(view: View, lines: list[Points], width: float, density: float) -> Field:
    """Paint hollow bars: the cortex at both edges is denser than the marrow in between."""
    bar = blur(stroke(view, lines, [width] * len(lines), [1] * len(lines)), 0.006)
    return density * (0.8 * bar + 2.2 * bar * (1 - bar))


def _shoulders(rng: np.random.Generator, view: View) -> Field:
    """Paint the clavicles and the shoulder blades, whose medial border crosses the lung as a pleural line would."""
    turn = np.linspace(0, 1, 24)
    rise, reach = rng.uniform(0.02, 0.16), rng.uniform(-0.06, 0.1)
    collars, blades, borders = [], [], []
    for side in (-1, 1):
        x = 0.08 + 0.72 * turn
        y = -0.62 - rise * turn + 0.04 * np.sin(2 * np.pi * turn) + rng.normal(0, 0.01)
        collars.append(np.stack([side * x, y], 1))
        inner = 0.66 - reach + rng.normal(0, 0.02) - 0.05 * np.sin(np.pi * turn)
        border = np.stack([side * (inner + 0.12 * turn), -0.74 + 0.72 * turn], 1)
        borders.append(border)
        blades.append(np.concatenate([border, [[side * 1.0, -0.5], [side * 0.98, -0.8]]]))
    blade = 0.035 * blur(fill(view, blades), 0.008)
    edge = blur(stroke(view, borders, [0.012] * 2, [1, 1]), 0.004)
    return _bone(view, collars, 0.06, 0.08) + rng.uniform(0.4, 1.2) * (blade + 0.05 * edge)


def _vessels(rng: np.random.Generator, chest: Chest, view: View) -> Field:
    lines, widths = [], []
    for lung in chest.lungs:
        for generation in _branches(rng, lung):
            lines += list(generation[0])
            widths += [generation[1]] * len(generation[0])
    order = np.argsort(widths)
    strengths = np.clip(np.array(widths) / 0.022, 0.3, 1)
    tree = stroke(view, [lines[i] for i in order], [widths[i] for i in order], strengths[order].tolist())
    return rng.uniform(0.07, 0.13) * (blur(tree, 0.004) + blur(tree, 0.015))


def _branches(rng: np.random.Generator, lung: Lung) -> list[tuple[Points, float]]:
    """Fork every vessel six times on its way out.

    Returns:
        For each generation, its segments (n, 2, 2) in chest coordinates and their width.
    """
    angles = np.linspace(-1.45, 1.45, 9) + rng.normal(0, 0.1, 9)
    tips = lung.hilum + np.stack([np.zeros(9), 0.12 * np.sin(angles)], 1)
    width, generations = 0.024, []
    for _ in range(6):
        length = rng.uniform(0.07, 0.15, (len(tips), 1))
        ends = tips + length * np.stack([lung.side * np.cos(angles), np.sin(angles)], 1)
        generations.append((np.stack([tips, ends], 1), width))
        tips = np.repeat(ends, 2, axis=0)
        spread = np.tile([-0.3, 0.3], len(ends)) + rng.normal(0, 0.16, len(tips))
        angles = np.repeat(angles, 2) + spread
        width *= 0.72
    return generations


def _texture(rng: np.random.Generator) -> Field:
    return rng.uniform(0.008, 0.014) * (clouds(rng, 64) + clouds(rng, 128))
