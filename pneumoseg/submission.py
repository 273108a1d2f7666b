"""The competition's submission: written from results as they come, and checked before anyone uploads it."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoseg import rle
from pneumoseg.data.annotations import read_annotations

if TYPE_CHECKING:
    from pneumoseg.inference import Result

HEADER = ("ImageId", "EncodedPixels")


def write_submission(results: Iterable["Result"], path: str | Path) -> Counter[str]:
    """Write one row an image, as the results come, at constant memory; the file appears when it is whole.

    An image that could not be read gets `-1`, and is listed with the reason in `NAME.errors.csv` beside the file.

    Args:
        results: One an image.
        path: The CSV to write.

    Returns:
        How many images each stage decided; "error" counts those that could not be read.
    """
    path = Path(path)
    errors_path = path.with_suffix(".errors.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    stages, errors = Counter[str](), []
    with _whole_file(path) as writer:
        writer.writerow(HEADER)
        for result in results:
            writer.writerow((result.image_id, result.rle))
            stages[result.stage] += 1
            if result.error is not None:
                errors.append((result.image_id, result.error))
    errors_path.unlink(missing_ok=True)
    if errors:
        with _whole_file(errors_path) as writer:
            writer.writerows([("ImageId", "error"), *errors])
    return stages


def validate_submission(
    path: str | Path, expected_ids: Iterable[str], shape: tuple[int, int] = (1024, 1024)
) -> list[str]:
    """Check a submission against the ids that it should hold.

    Args:
        path: The submission.
        expected_ids: The ids it should hold; one that is named twice counts once, as in the competition's stage-1
            sample.
        shape: (H, W) of every mask's grid.

    Returns:
        One sentence a problem; empty if the submission is valid. The problems: missing, duplicate and unknown ids,
        a wrong header, and runs that are malformed or leave the grid.

    Raises:
        ValueError: If the file is no CSV of two columns.
        FileNotFoundError: If there is no such file.
    """
    table = read_annotations(path)
    problems = _header_problems(path)
    expected, counts = set(expected_ids), Counter(table["image_id"])
    problems += [f"{image_id}: missing" for image_id in sorted(expected - counts.keys())]
    problems += [f"{image_id}: unknown id" for image_id in sorted(counts.keys() - expected)]
    problems += [f"{image_id}: {count} rows, expected one" for image_id, count in sorted(counts.items()) if count > 1]
    for image_id, text in zip(table["image_id"], table["rle"], strict=True):
        try:
            rle.spans(text, shape)
        except ValueError as error:
            problems.append(f"{image_id}: {error}")
    return problems


def _header_problems(path: str | Path) -> list[str]:
    with open(path, encoding="utf-8") as file:
        first = file.readline().rstrip("\r\n")
    return [] if first == ",".join(HEADER) else [f"the first line is {first!r}, expected {','.join(HEADER)!r}"]


@contextmanager
def _whole_file(path: Path) -> Iterator[Any]:
    """A CSV writer on a temporary file that takes its name once all is written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            yield csv.writer(file, lineterminator="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
