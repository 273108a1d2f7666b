"""Masks drawn over their image."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers and bright enough on a radiograph.
COLOURS = {"truth": "#56b4e9", "prediction": "#e69f00"}


def outline(axes: "Axes", image: np.ndarray, masks: dict[str, np.ndarray], title: str = "") -> None:
    """Draw one image and the outlines of its masks.

    Args:
        axes: Where to draw.
        image: uint8, (H, W).
        masks: bool, (H, W) each, by name: "truth", "prediction". An empty one is left out.
        title: Written above.
    """
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    for name, mask in masks.items():
        if mask.any():
            axes.contour(np.pad(mask, 1), levels=[0.5], colors=COLOURS[name], linewidths=1.2, extent=_extent(mask))
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def draw_outlines(image: np.ndarray, masks: dict[str, np.ndarray], title: str = "") -> "Figure":
    """A figure of one image; arguments as `outline`."""
    from matplotlib import pyplot

    # pyplot, since only it tells Jupyter how to show a figure; closed, so that Jupyter does not show it twice.
    figure = pyplot.figure(figsize=(6, 6), layout="constrained")
    outline(figure.subplots(), image, masks, title)
    pyplot.close(figure)
    return figure


def _extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    # The mask was padded by one pixel, so that a region at the image's border has a closed outline.
    return -1, mask.shape[1], -1, mask.shape[0]
