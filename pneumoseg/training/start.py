"""The check of a bundle that a training starts from."""

from pathlib import Path

import pandas as pd

from pneumoseg.models.bundle_spec import read_bundle_spec


def images_trained_before(bundle: str | Path, validation: pd.DataFrame) -> frozenset[str]:
    """Return the images that a bundle was trained on, and refuse those that are now to be validated on.

    The images that the bundle was validated on count as unseen: they chose its best epoch, but no weight was fitted to
    them. If patients are grouped, all images of a training image's patient are in the training split with it, so that
    comparing images is enough.

    Args:
        bundle: Folder of the bundle, such as a run's `best/` or `swa/`.
        validation: Manifest rows that are kept out of training, whether or not they are sampled for validation.

    Returns:
        The image ids.

    Raises:
        BundleError: If the folder holds no bundle, or its spec is damaged.
        ValueError: If the bundle was trained on images that are now kept out, or does not say which ones it saw.
    """
    images = read_bundle_spec(bundle).images
    if images is None:
        raise ValueError(
            f"start_from: {bundle} does not say which images it was trained on, so that scores on the "
            f"{len(validation)} images kept out for validation may be too good: start from another bundle, or save it "
            "again with the images, see save_bundle"
        )
    leaked = validation.loc[validation["image_id"].isin(images.training), "image_id"]
    if len(leaked):
        raise ValueError(
            f"start_from: {bundle} was trained on {len(leaked)} of the {len(validation)} images kept out for "
            f"validation, the first: {leaked.iloc[0]}: all scores would be too good; give both runs the same split, "
            "without cross_validate, or start from another bundle"
        )
    return images.training
