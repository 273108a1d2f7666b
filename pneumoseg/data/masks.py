"""Images whose mask is known, as opposed to images with a label alone."""

import logging

import numpy as np
import pandas as pd

_log = logging.getLogger(__name__)
UNKNOWN = ""
"""Value of the column `rle` of an image whose mask is not known."""


def has_mask(manifest: pd.DataFrame) -> np.ndarray:
    """Return whether the mask of each image is known, be it empty or not; bool, (n,).

    Example:
        >>> has_mask(pd.DataFrame({"rle": ["-1", "0 3", ""]}))
        array([ True,  True, False])
    """
    return (manifest["rle"] != UNKNOWN).to_numpy()


def require_masks(manifest: pd.DataFrame) -> None:
    """Refuse a manifest with images whose mask is not known.

    Raises:
        ValueError: If there are any. The message names the first one.

    Example:
        >>> require_masks(pd.DataFrame({"image_id": ["a", "b"], "rle": ["-1", "0 3"]}))
    """
    unknown = manifest.loc[~has_mask(manifest), "image_id"]
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(manifest)} images have a label and no mask, the first: {unknown.iloc[0]}: "
            "expected images with masks, leave out the others with `leave_out_unknown_masks`"
        )


def leave_out_unknown_masks(manifest: pd.DataFrame, purpose: str) -> pd.DataFrame:
    """Return the rows of a manifest whose masks are known, and log how many are left out.

    Args:
        manifest: One row per image, see `index_dataset`.
        purpose: Use of the images, for the message, such as "the training of a segmenter".

    Raises:
        ValueError: If no image remains.

    Example:
        >>> len(leave_out_unknown_masks(pd.DataFrame({"rle": ["-1", "0 3", ""]}), "this example"))
        2
    """
    known = has_mask(manifest)
    if len(manifest) and not known.any():
        raise ValueError(
            f"there are no masks for {purpose}: all {len(manifest)} images have a label alone, index the data set with "
            "masks"
        )
    if not known.all():
        _log.info(f"{(~known).sum()} of {len(manifest)} images left out of {purpose}: they have a label and no mask")
    return manifest[known]
