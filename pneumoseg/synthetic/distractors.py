"""Distractors of real radiographs, equally frequent with and without a pneumothorax, so that they predict nothing."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import CubicSpline

from pneumoseg.synthetic.canvas import GRID, Field, Points, View, blur, clouds, step, stroke
from pneumoseg.synthetic.chest import Chest


def paint_lung_changes(rng: np.random.Generator, chest: Chest, view: View, depth: Field) -> tuple[Field, Field]:
    """Paint over-inflated parts (darker, with fewer vessels but no pleural line), dense patches and skin folds.

    Args:
        rng: Source of randomness.
        chest: Geometry of the patient.
        view: Placement of the chest in the image.
        depth: Depth of each pixel in the lung nearest to it, (GRID, GRID) float32, see `Polar`.

    Returns:
        The density to add to the image, and the fraction of the lung markings to remove (0 to 1), each (GRID, GRID)
        float32.
    """
    x, y = view.coordinates()
    inside = step(depth, -0.01, 0.05)
    density, thinning = np.zeros_like(x), np.zeros_like(x)
    for lung in chest.lungs:
        if rng.random() < 0.35:
            offset = np.array([lung.side * rng.uniform(-0.05, 0.2), rng.choice([-0.5, -0.35, 0.1, 0.25])])
            lucency = _blob(rng, x, y, lung.centre + offset, rng.uniform(0.13, 0.24))
            density -= rng.uniform(0.03, 0.08) * lucency
            thinning += rng.uniform(0.3, 0.6) * lucency
        if rng.random() < 0.3:
            centre = lung.centre + rng.uniform((-0.15, -0.3), (0.15, 0.45))
            patch = _blob(rng, x, y, centre, rng.uniform(0.12, 0.3))
            density += rng.uniform(0.05, 0.12) * patch * (1 + 0.4 * clouds(rng, 24))
        if rng.random() < 0.25:
            density += _skin_fold(rng, x, y, lung.side)
    return density * inside, np.clip(thinning, 0, 1)


def _blob(rng: np.random.Generator, x: Field, y: Field, centre: Points, radius: float) -> Field:
    stretch = rng.uniform(0.7, 1.4)
    across, down = (x - np.float32(centre[0])) * stretch, (y - np.float32(centre[1])) / stretch
    return np.exp(-((across**2 + down**2) / radius**2))


def _skin_fold(rng: np.random.Generator, x: Field, y: Field, side: int) -> Field:
    """Paint a density that rises towards the side and stops abruptly, as at a pleural line; vessels continue beyond."""
    where, lean, bend = rng.uniform(0.38, 0.58), rng.uniform(-0.05, 0.3), rng.uniform(-0.25, 0.25)
    beyond = side * x - (where + lean * y + bend * y * y)
    ramp = np.exp(beyond / rng.uniform(0.06, 0.15)) * step(beyond, 0.006, 0)
    middle = rng.uniform(-0.4, 0.2)
    return rng.uniform(0.03, 0.07) * ramp * np.exp(-(((y - middle) / 0.4) ** 4))


def paint_devices(rng: np.random.Generator, view: View) -> Field:
    """Paint leads with electrodes, tubes and drains, each in some of the images.

    Args:
        rng: Source of randomness.
        view: Placement of the chest in the image.

    Returns:
        The density to add to the image, (GRID, GRID) float32.
    """
    lines, widths, strengths = [], [], []
    for _ in range(int(rng.choice(4, p=[0.5, 0.2, 0.2, 0.1]))):
        side = rng.choice([-1, 1])
        electrode = np.array([side * rng.uniform(0.25, 0.75), rng.uniform(-0.5, 0.3)])
        edge = np.array([side * rng.uniform(0.8, 1.3), rng.uniform(-0.6, 1.2)])
        lines += [_cable(rng, electrode, edge), np.array([electrode - 0.012, electrode + 0.012])]
        widths += [0.008, 0.045]
        strengths += [0.45, 0.7]
    if rng.random() < 0.25:
        side = rng.choice([-1, 1])
        start = np.array([side * 0.75, rng.uniform(-0.1, 0.3)])
        lines.append(_cable(rng, start, np.array([side * rng.uniform(0.3, 0.5), rng.uniform(-0.6, 0.0)])))
        widths.append(0.022)
        strengths.append(0.4)
    if rng.random() < 0.25:
        lines.append(np.array([[0.0, -1.2], [0.01, -0.7], [0.0, -0.35]]) + rng.normal(0, 0.01, (3, 2)))
        widths.append(0.03)
        strengths.append(0.3)
    return 0.5 * blur(stroke(view, lines, widths, strengths), 0.003)


def _cable(rng: np.random.Generator, start: Points, end: Points) -> Points:
    knots = np.linspace(start, end, 5)
    knots[1:-1] += rng.normal(0, 0.09, (3, 2))
    return CubicSpline(np.arange(5), knots)(np.linspace(0, 4, 40))


def paint_marker(rng: np.random.Generator) -> Field:
    """Paint the lead letter that names a side: L next to the patient's left shoulder, or R next to the right one.

    Args:
        rng: Source of randomness.

    Returns:
        The letter, (GRID, GRID) float32, 0 to 1; all zeros in a fifth of the images.
    """
    image = Image.new("L", (GRID, GRID))
    if rng.random() < 0.8:
        letter = str(rng.choice(["L", "R"]))
        column = rng.uniform(0.86, 0.92) if letter == "L" else rng.uniform(0.03, 0.09)
        place = (round(column * GRID), round(rng.uniform(0.03, 0.16) * GRID))
        ImageDraw.Draw(image).text(place, letter, fill=255, font=ImageFont.load_default(rng.uniform(16, 30)))
    return np.asarray(image, np.float32) / 255
