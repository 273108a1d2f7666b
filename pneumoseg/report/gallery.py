"""Galleries of a page: each image as a thumbnail, with its masks as outlines (figure 2 of the paper)."""

import base64
import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from pneumoseg import rle
from pneumoseg.decision import DecisionRule, decide
from pneumoseg.evaluation.cases import OUTCOMES
from pneumoseg.geometry import bounding_box, square_shape
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_image
from pneumoseg.predictions import Predictions

SIDE = 208
"""Pixels of a picture's longer side: sharp enough for outlines, small enough for hundreds on a page."""
_QUALITY = 70
_MOST_OUTLINES = 40  # per mask, the longest ones; all outlines of a speckled mask would fill the page


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


def make_ahead(make: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Make something of each item in threads, a few items ahead of the caller, in order.

    Args:
        make: Function of one item, which threads may call at the same time.
        items: The items; only a few are taken ahead.

    Example:
        >>> list(make_ahead(abs, [-1, 2]))
        [1, 2]
    """
    remaining, pending = iter(items), deque[Future[Any]]()
    with ThreadPoolExecutor() as pool:
        for item in itertools.islice(remaining, 4 * (os.cpu_count() or 1)):
            pending.append(pool.submit(make, item))
        while pending:
            made = pending.popleft().result()
            pending.extend(pool.submit(make, item) for item in itertools.islice(remaining, 1))
            yield made


def picture_scale(shape: tuple[int, int], pixel_aspect: float) -> np.ndarray:
    """Return the pixels of an image's picture per pixel of its rows and of its columns, float64, (2,).

    Args:
        shape: (H, W) of the image, in pixels.
        pixel_aspect: Height of a pixel divided by its width; the picture's pixels are square.
    """
    square = square_shape(shape, pixel_aspect)
    return SIDE / max(square) * np.divide(square, shape)


def picture_size(shape: tuple[int, int], scale: np.ndarray) -> tuple[int, int]:
    """Return the (width, height) of the picture of an image, in pixels.

    Args:
        shape: (H, W) of the image, in pixels.
        scale: The picture's scale, see `picture_scale`.
    """
    height, width = (max(1, round(side)) for side in (scale * shape).tolist())
    return width, height


def picture_of(image: np.ndarray, size: tuple[int, int]) -> str:
    """Return a small picture of an image as a JPEG in a data URI.

    Args:
        image: Image, uint8, (H, W).
        size: (width, height) of the picture, see `picture_size`.
    """
    file = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.BOX).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


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


def outline_path(mask: np.ndarray, scale: np.ndarray) -> str:
    """Return the longest outlines of a mask as an SVG path, simplified to half a pixel of the picture.

    Args:
        mask: bool, (H, W).
        scale: Pixels of the picture per pixel of the mask's rows and columns, see `picture_scale`.

    Returns:
        The `d` of an SVG path in the picture's pixels; empty for an empty mask.
    """
    if not mask.any():
        return ""
    rows, columns = box = bounding_box(mask)
    inside = mask[box]
    parts = []
    contours = find_contours(np.pad(inside, 1).astype(np.uint8), 0.5)
    for contour in sorted(contours, key=len, reverse=True)[:_MOST_OUTLINES]:
        # The padding shifted everything by a pixel, and the centre of a pixel lies half a pixel from its edge.
        corner = np.array([rows.start - 0.5, columns.start - 0.5])
        points = (approximate_polygon(contour, 0.5 / np.max(scale)) + corner) * scale
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for y, x in points[:-1]) + "Z")
    return "".join(parts)
