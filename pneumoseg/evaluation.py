"""Predictions and truth to scores, always beside the floor of predicting nothing."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pneumoseg import rle
from pneumoseg.metrics import dice

if TYPE_CHECKING:
    from pneumoseg.inference import Result


def score_arms(arms: Mapping[str, Iterable["Result"]], manifest: pd.DataFrame) -> pd.DataFrame:
    """Score predictions as the competition does, beside the floor of predicting nothing (section 4.2).

    Args:
        arms: The results by name of the arm, one a row of the manifest and in its order. Each arm is gone through
            once, image by image.
        manifest: One row an image with its true mask, see `index_dataset`.

    Returns:
        One row an arm, and `all empty`. `mean_dice` is the competition's score (an image with both masks empty
        counts 1), `dice_positives` and `dice_negatives` the same over one class (NaN without such an image),
        `predicted` the share of images with a predicted mask, and `unreadable` the number of images that could not be
        read, which count as predicted empty, as they would be submitted.

    Raises:
        ValueError: If an arm has more or fewer results than the manifest has rows.
    """
    rows = {name: _summary(((r.rle, r.error is not None) for r in results), manifest) for name, results in arms.items()}
    rows["all empty"] = _summary(((rle.EMPTY, False) for _ in range(len(manifest))), manifest)
    return pd.DataFrame.from_dict(rows, "index").astype({"unreadable": int})


def bootstrap_interval(
    score: Callable[[np.ndarray], float],
    groups: np.ndarray,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Estimate between which bounds a score would lie on other images of the same kind (Efron's percentile bootstrap).

    Whole groups are drawn with replacement: two images of one patient tell less than those of two.

    Args:
        score: From row numbers, int64 (n,), some of them several times, to the score of these rows.
        groups: (n,), whose image each row is; all different where nothing is known.
        resamples: How often to draw.
        level: Share of the resamples between the bounds.
        seed: Same seed, same bounds.

    Returns:
        The lower and the upper bound. A resample without a score, such as the AUC of one class, does not count; NaN
        where none has one.
    """
    _, members = np.unique(groups, return_inverse=True)
    rows = np.split(np.argsort(members, kind="stable"), np.cumsum(np.bincount(members))[:-1])
    rng = np.random.default_rng(seed)
    scores = [
        score(np.concatenate([rows[group] for group in rng.integers(len(rows), size=len(rows))]))
        for _ in range(resamples)
    ]
    known = [value for value in scores if not np.isnan(value)]
    if not known:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _summary(predictions: Iterable[tuple[str, bool]], manifest: pd.DataFrame) -> dict[str, float]:
    truth = manifest[["rle", "rows", "columns"]].itertuples(index=False, name=None)
    scores = []
    for (code, unreadable), (true, *shape) in zip(predictions, truth, strict=True):
        predicted = rle.decode(code, tuple(shape))
        scores.append((dice(rle.decode(true, tuple(shape)), predicted), predicted.any(), unreadable))
    table = pd.DataFrame(scores, columns=["dice", "predicted", "unreadable"])
    positive = manifest["has_pneumothorax"].to_numpy()
    return {
        "mean_dice": table["dice"].mean(),
        "dice_positives": table["dice"][positive].mean(),
        "dice_negatives": table["dice"][~positive].mean(),
        "predicted": table["predicted"].mean(),
        "unreadable": table["unreadable"].sum(),
    }
