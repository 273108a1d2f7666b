"""Readings of run-length codes: relative or absolute, by columns or by rows; and whether one gives regions or noise.

The same numbers can often be read in two ways. In the mask of a region almost every pixel has a neighbour in the next
column that also belongs to the mask. Read the wrong way, the runs lie where they do not touch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pneumoseg import rle

Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]

# Of 58 masks of the competition, all have a likeness above 0.56 and three quarters above 0.98; read in a wrong way,
# they are refused, or three quarters are below 0.04.
_CLEARLY_MORE = 0.3
_EMPTY = frozenset({"", "-1", "nan", "none", "null"})
_DIGITS = 12  # no image has more pixels


@dataclass(frozen=True)
class Reading:
    """One way to turn a run-length code into pixels.

    Attributes:
        name: Name for messages.
        options: Options of `pneumoseg index` that choose it.
        bounds: Function from the text and the (H, W) of the image to the first pixel of each run and the pixel after
            its last, int64, counted from 0 in the order of the reading. Its ValueError says why a text cannot be read
            this way.
        by_rows: Whether pixels are numbered row by row rather than column by column.
    """

    name: str
    options: str
    bounds: Callable[[str, tuple[int, int]], Bounds]
    by_rows: bool = False


RELATIVE = Reading("relative runs", "--annotations-format csv", rle.run_bounds)
"""The competition's reading."""


def absolute(order: str, first_pixel: int) -> Reading:
    """Return the reading of absolute runs.

    Args:
        order: Order of the pixels, columns or rows.
        first_pixel: Number of the first pixel, 0 or 1.
    """
    options = "--annotations-format absolute-csv" + (" --order rows" if order == "rows" else "")
    bounds = partial(absolute_bounds, first_pixel=first_pixel)
    return Reading(f"absolute runs by {order}", options, bounds, by_rows=order == "rows")


def absolute_bounds(text: str, shape: tuple[int, int], first_pixel: int = 1) -> Bounds:
    """Return the start and end of each run of an absolute run-length code, in ascending order.

    Args:
        text: The runs as `start length start length ...`; an empty text, -1 and nan stand for an empty mask.
        shape: Shape (H, W) of the mask, in pixels.
        first_pixel: Number of the first pixel, 0 or 1.

    Returns:
        Two int64 arrays of equal length: the first pixel of each run, and the pixel after its last, counted from 0.

    Raises:
        ValueError: If the text is malformed, runs overlap, or a run begins before the first pixel or ends after the
            last. The message names the pair and the reason.

    Example:
        >>> starts, ends = absolute_bounds("1 2 9 1", (3, 3))
        >>> starts.tolist(), ends.tolist()
        ([0, 8], [2, 9])
    """
    words = [] if text.strip().lower() in _EMPTY else text.split()
    for position, word in enumerate(words):
        if not (word.isascii() and word.isdigit() and len(word) <= _DIGITS):
            raise ValueError(f"pair {position // 2 + 1}: {word[:20]!r} is not a whole number of pixels")
    if len(words) % 2:
        raise ValueError(f"pair {len(words) // 2 + 1}: a start without a length, the text holds {len(words)} numbers")
    pairs = np.array(words, np.int64).reshape(-1, 2)
    starts, lengths = pairs[:, 0] - first_pixel, pairs[:, 1]
    _refuse(starts < 0, pairs, f"starts before the first pixel, {first_pixel}: pass --first-pixel 0")
    _refuse(lengths < 1, pairs, "has a length below 1")
    order = np.argsort(starts, kind="stable")
    overlaps = np.zeros(len(pairs), bool)
    overlaps[order[1:]] = starts[order[1:]] < (starts + lengths)[order[:-1]]
    _refuse(overlaps, pairs, "overlaps another run: the runs may be relative, --annotations-format csv")
    size = shape[0] * shape[1]
    hint = " (the runs may count from 0: pass --first-pixel 0)" if first_pixel else ""
    _refuse(starts + lengths > size, pairs, f"ends beyond the last of {shape[0]} x {shape[1]} pixels{hint}")
    return starts[order], (starts + lengths)[order]


def look_absolute(texts: Iterable[str]) -> bool:
    """Return whether run-length codes can only be absolute: each run begins behind the end of the run before.

    Gaps of relative runs hardly ever grow like that: in a region, gap and length add up to about one column.

    Example:
        >>> look_absolute(["5 3 15 3 25 3"] * 10), look_absolute(["5 3 7 3 7 3"] * 10)
        (True, False)
    """
    steps = behind = 0
    for text in texts:
        words = text.split()
        if not all(map(str.isdigit, words)) or len(words) % 2:
            continue
        pairs = np.array(words, float).reshape(-1, 2)
        steps += max(len(pairs) - 1, 0)
        behind += int((pairs[1:, 0] >= pairs[:-1].sum(axis=1)).sum())
    return steps >= 10 and behind > 0.95 * steps


def doubts_about_runs(
    chosen: Reading, others: Sequence[Reading], seen: Iterable[tuple[list[str], tuple[int, int]]]
) -> list[str]:
    """Return a sentence if most masks are refused or look like noise in one reading, and like regions in another.

    Args:
        chosen: Reading that was used.
        others: Readings to compare it with.
        seen: Run-length codes of the rows of each image, and (H, W) of the image.
    """
    masks = [(text, shape) for texts, shape in seen for text in texts if len(text.split()) > 2]
    for other in others:
        gains = [_likeness(other, *mask) - _likeness(chosen, *mask) for mask in masks]
        clear = sum(gain > _CLEARLY_MORE for gain in gains)
        if clear > len(masks) / 2:
            return [
                f"{clear} of {len(masks)} masks look like noise or do not fit their images as {chosen.name}, and look "
                f"like regions as {other.name}: index with {other.options}"
            ]
    return []


def _likeness(reading: Reading, text: str, shape: tuple[int, int]) -> float:
    return float(np.nan_to_num(region_likeness(reading, text, shape)))


def region_likeness(reading: Reading, text: str, shape: tuple[int, int]) -> float:
    """Return how often mask pixels lie next to mask pixels of the neighbouring line of the image.

    A line is a column for runs by columns. The number of such pixels is divided by the greatest possible number, all
    pixels but those of the longest run: a rectangle has 1.

    Args:
        reading: Reading of the text.
        text: Run-length code.
        shape: (H, W) of the image, in pixels.

    Returns:
        Fraction, 0 to 1; NaN for a mask of fewer than two runs, and for a text that cannot be read so.

    Example:
        >>> region_likeness(RELATIVE, "0 2 2 2", (4, 4)), region_likeness(RELATIVE, "0 2 4 2", (4, 4))
        (1.0, 0.0)
    """
    try:
        starts, ends = reading.bounds(text, shape)
    except ValueError:
        return np.nan
    if starts.size < 2:
        return np.nan
    lengths = ends - starts
    edges = np.stack([starts, ends], axis=1).ravel()
    pixels_before_edge = np.repeat(np.concatenate([[0], np.cumsum(lengths)]), 2)[1:-1]
    line = shape[1] if reading.by_rows else shape[0]
    first, last = (np.interp(bound + line, edges, pixels_before_edge) for bound in (starts, ends))
    return min(float((last - first).sum() / (lengths.sum() - lengths.max())), 1.0)


def _refuse(wrong: NDArray[np.bool_], pairs: NDArray[np.int64], reason: str) -> None:
    if wrong.any():
        pair = int(np.argmax(wrong))
        raise ValueError(f"pair {pair + 1} ({pairs[pair, 0]} {pairs[pair, 1]}) {reason}")
