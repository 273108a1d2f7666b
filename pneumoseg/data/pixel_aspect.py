"""Pixel aspects of the images of a manifest."""

import numpy as np
import pandas as pd


def pixel_aspects(manifest: pd.DataFrame) -> np.ndarray:
    """Return the height of a pixel of each image divided by its width, float64 (n,).

    It is 1 for all images of a manifest without the column `pixel_aspect`, such as one made by hand.

    Raises:
        ValueError: If a value is not a positive number.

    Example:
        >>> pixel_aspects(pd.DataFrame({"pixel_aspect": [1.0, 2.0]})), pixel_aspects(pd.DataFrame({"rows": [8]}))
        (array([1., 2.]), array([1.]))
    """
    if "pixel_aspect" not in manifest:
        return np.ones(len(manifest))
    aspects = manifest["pixel_aspect"].to_numpy(float)
    wrong = np.flatnonzero(~(np.isfinite(aspects) & (aspects > 0)))
    if wrong.size:
        raise ValueError(
            f"image_id {manifest['image_id'].iloc[wrong[0]]!r} has a pixel_aspect of {aspects[wrong[0]]:g}: expected "
            "the height of a pixel divided by its width, index the data set again"
        )
    return aspects
