"""Predictions and truth to scores, always beside the floor of predicting nothing."""

from collections.abc import Iterable, Mapping

import pandas as pd

from pneumoseg import rle
from pneumoseg.metrics import dice


def score_arms(arms: Mapping[str, Iterable[str]], manifest: pd.DataFrame) -> pd.DataFrame:
    """Score predictions as the competition does, beside the floor of predicting nothing (section 4.2).

    Args:
        arms: The predicted masks by name of the arm, as run-length codes, one a row of the manifest and in its order.
            Each is gone through once, image by image.
        manifest: One row an image with its true mask, see `index_dataset`.

    Returns:
        One row an arm, and `all empty`. `mean_dice` is the competition's score (an image with both masks empty
        counts 1), `dice_positives` and `dice_negatives` the same over one class (NaN without such an image), and
        `predicted` the share of images with a predicted mask.

    Raises:
        ValueError: If an arm has more or fewer predictions than the manifest has rows.
    """
    floor = {"all empty": [rle.EMPTY] * len(manifest)}
    return pd.DataFrame.from_dict({name: _row(codes, manifest) for name, codes in {**arms, **floor}.items()}, "index")


def _row(codes: Iterable[str], manifest: pd.DataFrame) -> dict[str, float]:
    truth = manifest[["rle", "rows", "columns"]].itertuples(index=False, name=None)
    pairs = (
        (rle.decode(true, shape), rle.decode(code, shape)) for code, (true, *shape) in zip(codes, truth, strict=True)
    )
    scores = pd.DataFrame([(dice(mask, predicted), predicted.any()) for mask, predicted in pairs])
    positive = manifest["has_pneumothorax"].to_numpy()
    return {
        "mean_dice": scores[0].mean(),
        "dice_positives": scores[0][positive].mean(),
        "dice_negatives": scores[0][~positive].mean(),
        "predicted": scores[1].mean(),
    }
