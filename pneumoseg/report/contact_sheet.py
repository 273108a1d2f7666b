"""Contact sheets: many images with their masks in one figure."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pneumoseg import rle
from pneumoseg.data.files import size_changed
from pneumoseg.data.masks import UNKNOWN
from pneumoseg.data.pixel_aspect import pixel_aspects
from pneumoseg.images import read_image
from pneumoseg.overlay import COLOURS, outline

if TYPE_CHECKING:
    from pneumoseg.inference import Result


def draw_contact_sheet(manifest: pd.DataFrame, results: Sequence["Result"] | None = None, columns: int = 5) -> Figure:
    """Draw the images of a manifest with the outlines of their true and predicted masks.

    An image with a label alone is drawn without a true mask, and its title says so.

    Args:
        manifest: One row per image, see `index_dataset`.
        results: One result per row of the manifest; None to draw only the true masks.
        columns: Number of images per row of the figure.

    Raises:
        ImageError: If an image cannot be read, or its size differs from its mask's.
        ValueError: If the manifest is empty.

    Example:
        >>> draw_contact_sheet(manifest.head(10)).savefig("sheet.png")  # doctest: +SKIP
    """
    if manifest.empty:
        raise ValueError("the manifest has no row: expected at least one image")
    columns = min(columns, len(manifest))
    figure = Figure(figsize=(3 * columns, 3.3 * math.ceil(len(manifest) / columns) + 0.4), layout="constrained")
    cells = np.atleast_1d(figure.subplots(math.ceil(len(manifest) / columns), columns)).ravel()
    for axes in cells:
        axes.set_axis_off()
    for number, (row, aspect) in enumerate(zip(manifest.itertuples(), pixel_aspects(manifest), strict=True)):
        masks = _true_masks(row)
        title = f"{row.image_id[-24:]}\n" + (f"truth {row.area_px} px" if masks else "true mask not known")
        if results is not None:
            masks["prediction"] = results[number].mask
            title += f", predicted {results[number].area_px} px"
        outline(cells[number], _image_of(row), masks, title, aspect)
    names = ["truth"] if results is None else list(COLOURS)
    legend = "   ".join(f"{name}: {'blue' if name == 'truth' else 'orange'}" for name in names)
    figure.suptitle(legend, fontsize=9)
    return figure


def draw_augmentations(manifest: pd.DataFrame, seed: int = 0) -> Figure:
    """Draw the images of a manifest next to the results of each augmentation transform, with the true masks if known.

    Args:
        manifest: One row per image, see `index_dataset`.
        seed: Seed of the first image's random transforms; each further image adds 1.

    Raises:
        ImageError: If an image cannot be read.
        ValueError: If the manifest is empty.

    Example:
        >>> draw_augmentations(manifest.head(3)).savefig("augmentations.png")  # doctest: +SKIP
    """
    if manifest.empty:
        raise ValueError("the manifest has no row: expected at least one image")
    from pneumoseg.data.augmentation import TRANSFORMS, Augmentation

    augmentations = {name: Augmentation([name], probability=1) for name in TRANSFORMS}
    columns = 1 + len(augmentations)
    figure = Figure(figsize=(2.6 * columns, 2.8 * len(manifest) + 0.3), layout="constrained")
    cells = figure.subplots(len(manifest), columns, squeeze=False)
    for number, (row, aspect) in enumerate(zip(manifest.itertuples(), pixel_aspects(manifest), strict=True)):
        image, masks = _image_of(row), _true_masks(row)
        outline(cells[number, 0], image, masks, f"original\n{row.image_id[-24:]}", aspect)
        for axes, (name, augment) in zip(cells[number, 1:], augmentations.items(), strict=True):
            changed = augment(image, masks.get("truth"), seed=seed + number)
            changed_masks = {"truth": changed["mask"]} if masks else {}
            outline(axes, changed["image"], changed_masks, f"{name}\n", aspect)
    return figure


def _true_masks(row: Any) -> dict[str, np.ndarray]:
    """Return the true mask of a manifest's row by the name that `outline` expects, or nothing if it is not known."""
    return {} if row.rle == UNKNOWN else {"truth": rle.decode(row.rle, (row.rows, row.columns))}


def _image_of(row: Any) -> np.ndarray:
    """Read the image of a manifest's row, and check that its size is the indexed one."""
    image = read_image(row.path)
    if error := size_changed(row, image.shape):
        raise error
    return image
