"""Which images the bundle that a training starts from was trained on."""

import logging
from pathlib import Path

import pandas as pd

from pneumoseg.atomic_write import atomic_write
from pneumoseg.data.splits import START, images_of_run

_log = logging.getLogger(__name__)


def trained_before(bundle: str | Path, validation: pd.DataFrame) -> set[str]:
    """Find the images that a bundle was trained on, and refuse those that are now to be validated on.

    They are told by its run: by the `split.csv` next to the bundle's folder, and by the run that this one started from.
    The images that the run validated on count as unseen: they chose its best epoch, but no weight learnt from them.
    Where patients are grouped, a patient of a training image is on the training side with it, so that images suffice.

    Args:
        bundle: Its folder, such as a run's `best/` or `swa/`.
        validation: Manifest rows that are kept out, whether a training draws them or not.

    Returns:
        The image ids; none where no run is next to the bundle, which is logged as a warning.

    Raises:
        ValueError: If the bundle was trained on images that are kept out now.
    """
    try:
        trained_on = images_of_run(Path(bundle).resolve().parent, "training")
    except FileNotFoundError:
        _log.warning(
            f"NOT CHECKED: start_from: {bundle} has no run's split.csv next to it. If it was trained on any of the "
            f"{len(validation)} images kept out for validation, all scores of this run are too good"
        )
        return set()
    leaked = validation.loc[validation["image_id"].isin(trained_on), "image_id"]
    if len(leaked):
        raise ValueError(
            f"start_from: {bundle} was trained on {len(leaked)} of the {len(validation)} images kept out for "
            f"validation, the first: {leaked.iloc[0]}: all scores would be too good; give both runs the same split, "
            "without cross_validate, or start from another bundle"
        )
    return trained_on


def save_trained_before(run: Path, image_ids: set[str]) -> None:
    """Keep them in a run, as images that were trained on, so that nobody scores the run on them.

    Where the run has noted some before, and nothing tells any more, these stay.
    """
    if not image_ids and (run / START).exists():
        return
    with atomic_write(run / START) as temporary:
        pd.DataFrame({"image_id": sorted(image_ids), "side": "training"}).to_csv(temporary, index=False)
