"""Pixel aspects of the images of a manifest."""

import numpy as np
import pandas as pd


def pixel_aspects(manifest: pd.DataFrame) -> np.ndarray:
    """Return the height of a pixel of each image divided by its width, float64 (n,).

    It is 1 for all images of a manifest without the column `pixel_aspect`, such as one made by hand.

    Example:
        >>> pixel_aspects(pd.DataFrame({"pixel_aspect": [1.0, 2.0]})), pixel_aspects(pd.DataFrame({"rows": [8]}))
        (array([1., 2.]), array([1.]))
    """
    if "pixel_aspect" not in manifest:
        return np.ones(len(manifest))
    return manifest["pixel_aspect"].to_numpy(float)
