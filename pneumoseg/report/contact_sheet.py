"""Many images with their masks on one sheet."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pneumoseg import rle
from pneumoseg.dicom import read_image
from pneumoseg.overlay import COLOURS, outline

if TYPE_CHECKING:
    from pneumoseg.inference import Result


def draw_contact_sheet(manifest: pd.DataFrame, results: Sequence["Result"] | None = None, columns: int = 5) -> Figure:
    """Draw the images of a manifest with the outlines of their true and predicted masks.

    Args:
        manifest: One row an image, see `index_dataset`.
        results: One prediction a row of the manifest; None to draw the true masks alone.
        columns: Images side by side.

    Raises:
        DicomError: If an image cannot be read.
        ValueError: If the manifest is empty.
    """
    if manifest.empty:
        raise ValueError("the manifest has no row: nothing to draw")
    columns = min(columns, len(manifest))
    figure = Figure(figsize=(3 * columns, 3.3 * math.ceil(len(manifest) / columns) + 0.4), layout="constrained")
    cells = np.atleast_1d(figure.subplots(math.ceil(len(manifest) / columns), columns)).ravel()
    for axes in cells:
        axes.set_axis_off()
    for number, row in enumerate(manifest.itertuples()):
        masks = {"truth": rle.decode(row.rle, (row.rows, row.columns))}
        title = f"{row.image_id[-24:]}\ntruth {row.area_px} px"
        if results is not None:
            masks["prediction"] = results[number].mask
            title += f", predicted {results[number].area_px} px"
        outline(cells[number], read_image(row.path), masks, title)
    names = ["truth"] if results is None else list(COLOURS)
    legend = "   ".join(f"{name}: {'blue' if name == 'truth' else 'orange'}" for name in names)
    figure.suptitle(legend, fontsize=9)
    return figure
