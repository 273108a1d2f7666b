"""Galleries of a page: each image as a thumbnail, with its masks as outlines (figure 2 of the paper)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pneumoseg import rle
from pneumoseg.decision import DecisionRule, decide
from pneumoseg.evaluation.cases import OUTCOMES
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_image
from pneumoseg.predictions import Predictions
from pneumoseg.report.thumbnails import make_ahead, outline_path, picture_of, picture_scale, picture_size


@dataclass(frozen=True)
class Card:
    """The content of one image's card on the page.

    Attributes:
        case: The image's row of `score_cases`.
        view: "PA", "AP" or "view unknown".
        sex: "F", "M" or "sex unknown".
        age: Age in words, or "age unknown".
        picture: The image as a JPEG in a data URI; None if it could not be read.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        truth: Outline of the true mask, as the `d` of an SVG path in the picture's pixels; empty without a mask.
        raw_mask: Outline of the segmenter's raw mask, even if the classifier did not pass the image on.
        predicted: Outline of the final mask.
    """

    case: pd.Series
    view: str
    sex: str
    age: str
    picture: str | None
    width: int
    height: int
    truth: str
    raw_mask: str
    predicted: str


def worst_first(cases: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the cases with the lowest Dice; ties are broken by the larger true mask, then the greater disagreement.

    Args:
        cases: One row per image, see `score_cases`.
        count: Greatest number of cases to return.
    """
    order = cases.sort_values(["dice", "truth_px", "disagreement"], ascending=[True, False, False], kind="stable")
    return order.head(count)


def cards(cases: pd.DataFrame, predictions: Predictions, rule: DecisionRule) -> Iterator[Card]:
    """Make the cards of cases, a few at a time.

    Args:
        cases: Rows of `score_cases`, whose index is their position in the predictions.
        predictions: Probability maps and true masks; the images are read again.
        rule: The rule that the cases were decided by.
    """
    yield from make_ahead(lambda row: _card(row[1], predictions, rule), cases.iterrows())


def outcome_counts(cases: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Return the name, the explanation and the number of cases of each outcome that occurs."""
    counts = cases["outcome"].value_counts()
    return [(name, text, int(counts[name])) for name, text in OUTCOMES.items() if name in counts]


def _card(case: pd.Series, predictions: Predictions, rule: DecisionRule) -> Card:
    row = predictions.manifest.iloc[case.name]
    shape = (int(row["rows"]), int(row["columns"]))
    aspect = float(row.get("pixel_aspect", 1.0))
    scale = picture_scale(shape, aspect)
    width, height = picture_size(shape, scale)
    prob_map = predictions.prob_map(int(case.name))
    raw_mask = mask = np.zeros(shape, bool)
    if prob_map is not None:
        raw_mask, mask, _ = decide(
            prob_map, shape, rule, gated_in=bool(rule.gates_in(case["probability"])), pixel_aspect=aspect
        )
    return Card(
        case,
        row["view"] or "view unknown",
        row["sex"] or "sex unknown",
        f"{row['age']:.0f} years" if row["age"] == row["age"] else "age unknown",
        _picture(row["path"], (width, height)),
        width,
        height,
        *(outline_path(mask, scale) for mask in (rle.decode(row["rle"], shape), raw_mask, mask)),
    )


def _picture(path: str, size: tuple[int, int]) -> str | None:
    try:
        return picture_of(read_image(path), size)
    except ImageError:
        return None
