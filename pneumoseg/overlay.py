"""Mask outlines drawn over their image."""

from typing import TYPE_CHECKING

import numpy as np

from pneumoseg.geometry import bounding_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito: colour-blind readers can tell them apart, and they are bright enough on a radiograph.
COLOURS = {"truth": "#56b4e9", "prediction": "#e69f00"}


def outline(
    axes: "Axes", image: np.ndarray, masks: dict[str, np.ndarray], title: str = "", pixel_aspect: float = 1.0
) -> None:
    """Plot an image and the outlines of its masks.

    Args:
        axes: Matplotlib axes to plot into.
        image: Image, uint8, (H, W).
        masks: Masks by name ("truth", "prediction"), each bool, (H, W). Empty masks are left out.
        title: Text above the image.
        pixel_aspect: Height of a pixel of the image divided by its width.
    """
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect=pixel_aspect)
    for name, mask in masks.items():
        if mask.any():
            axes.contour(np.pad(mask, 1), levels=[0.5], colors=COLOURS[name], linewidths=1.2, extent=_extent(mask))
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def draw_outlines(
    image: np.ndarray, masks: dict[str, np.ndarray], title: str = "", pixel_aspect: float = 1.0
) -> "Figure":
    """Return a figure of one image and the outlines of its masks.

    Args:
        image: Image, uint8, (H, W).
        masks: Masks by name ("truth", "prediction"), each bool, (H, W). Empty masks are left out.
        title: Text above the image.
        pixel_aspect: Height of a pixel of the image divided by its width.

    Returns:
        A Matplotlib figure of 6 x 6 inches, which Jupyter shows once.

    Example:
        >>> image, mask = np.zeros((64, 64), np.uint8), np.zeros((64, 64), bool)
        >>> mask[20:40, 30:50] = True
        >>> figure = draw_outlines(image, {"prediction": mask}, title="patient 7")  # doctest: +SKIP
        >>> figure.savefig("patient_7.png")  # doctest: +SKIP
    """
    from matplotlib import pyplot

    # Only a pyplot figure tells Jupyter how to show it. It is closed so that Jupyter does not show it twice.
    figure = pyplot.figure(figsize=(6, 6), layout="constrained")
    outline(figure.subplots(), image, masks, title, pixel_aspect)
    pyplot.close(figure)
    return figure


def draw_over(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the outline of a mask into an image, around the mask, so that it hides nothing inside.

    Args:
        image: Image, uint8, (H, W).
        mask: Mask, bool, (H, W).

    Returns:
        uint8, (H, W, 3), the image with the outline in the colour of predictions, whose width is 0.2% of the image's
        longer side, at least 1 pixel; for an empty mask the image itself, uint8, (H, W).

    Example:
        >>> image = np.zeros((3, 3), np.uint8)
        >>> draw_over(image, np.array([[True, False, False]] * 3))[0].tolist()
        [[0, 0, 0], [230, 159, 0], [0, 0, 0]]
    """
    from skimage.morphology import dilation, disk

    if not mask.any():
        return image
    width = max(1, round(0.002 * max(mask.shape)))
    box = tuple(slice(max(0, side.start - width), side.stop + width) for side in bounding_box(mask))
    inside = mask[box]
    colours = np.repeat(image[..., None], 3, axis=2)
    rim = dilation(inside, disk(width)) & ~inside
    colours[box][rim] = [int(COLOURS["prediction"][place : place + 2], 16) for place in (1, 3, 5)]
    return colours


def _extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    # The mask was padded by one pixel so that a region at the image's border has a closed outline.
    return -1, mask.shape[1], -1, mask.shape[0]
