"""A report's pictures: each image small, with its masks as outlines (figure 2 of the paper)."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from pneumoseg import rle
from pneumoseg.decision import DecisionRule, decide
from pneumoseg.dicom import DicomError, read_image
from pneumoseg.evaluation.cases import OUTCOMES
from pneumoseg.predictions import Predictions

_SIDE = 208  # pixels of a picture's longer side: sharp enough for outlines, small enough for hundreds on a page
_QUALITY = 70
_MOST_OUTLINES = 40  # the longest of a mask; a speckled one would fill the page


@dataclass(frozen=True)
class Card:
    """What the page shows of one image.

    Attributes:
        case: Its row of `decide`.
        view: PA, AP or unknown; likewise `sex` and `age`.
        picture: The image as a JPEG in a data URI; None if it could not be read.
        width: Of the picture, in pixels; likewise `height`.
        truth: Outline of the true mask, as the `d` of an SVG path in the picture's pixels; empty without a mask.
        drawn: Of what the segmenter drew, whether it was asked or not.
        predicted: Of the final mask.
    """

    case: pd.Series
    view: str
    sex: str
    age: str
    picture: str | None
    width: int
    height: int
    truth: str
    drawn: str
    predicted: str


def worst_first(cases: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose the cases to show: by Dice, the lowest first, then the larger true mask, then the greater disagreement."""
    order = cases.sort_values(["dice", "truth_px", "disagreement"], ascending=[True, False, False], kind="stable")
    return order.head(count)


def cards(cases: pd.DataFrame, predictions: Predictions, rule: DecisionRule) -> Iterator[Card]:
    """Draw cases, a few at a time.

    Args:
        cases: Rows of `decide`, with their positions in the predictions as index.
        predictions: Where maps and true masks come from; the images are read again.
        rule: What drew the masks.
    """
    with ThreadPoolExecutor() as pool:
        yield from pool.map(lambda row: _card(row[1], predictions, rule), cases.iterrows())


def outcome_counts(cases: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Name, explanation and number of cases of each outcome that occurs."""
    counts = cases["outcome"].value_counts()
    return [(name, text, int(counts[name])) for name, text in OUTCOMES.items() if name in counts]


def _card(case: pd.Series, predictions: Predictions, rule: DecisionRule) -> Card:
    row = predictions.manifest.iloc[case.name]
    shape = (int(row["rows"]), int(row["columns"]))
    scale = _SIDE / max(shape)
    width, height = max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))
    prob_map = predictions.prob_map(int(case.name))
    raw_mask = mask = np.zeros(shape, bool)
    if prob_map is not None:
        raw_mask, mask, _ = decide(prob_map, shape, rule, gated_in=bool(rule.gates_in(case["probability"])))
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
        image = read_image(path)
    except DicomError:
        return None
    file = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.BOX).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def outline_path(mask: np.ndarray, scale: float) -> str:
    """The outlines of a mask as an SVG path, simplified to half a pixel of the picture; of many the longest.

    Args:
        mask: bool, (H, W).
        scale: Pixels of the picture a pixel of the mask.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return ""
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    parts = []
    contours = find_contours(np.pad(inside, 1).astype(np.uint8), 0.5)
    for contour in sorted(contours, key=len, reverse=True)[:_MOST_OUTLINES]:
        # The padding moved all by a pixel; a pixel's centre lies half a pixel from its edge.
        corner = np.array([rows[0] - 0.5, columns[0] - 0.5])
        points = (approximate_polygon(contour, 0.5 / scale) + corner) * scale
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for y, x in points[:-1]) + "Z")
    return "".join(parts)
