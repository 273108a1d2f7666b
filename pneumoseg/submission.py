"""Submissions to the competition: a writer, and a validator to run before the upload."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoseg import rle
from pneumoseg.annotations.competition import read_runs
from pneumoseg.atomic_write import atomic_write
from pneumoseg.identifiers import normalize

if TYPE_CHECKING:
    from pneumoseg.inference import Result

HEADER = ("ImageId", "EncodedPixels")


def write_submission(
    results: Iterable["Result"], path: str | Path, *, left_out: Iterable[tuple[str, str]] = ()
) -> Counter[str]:
    """Write a submission with one row per image.

    Rows are written as the results arrive, at constant memory. The file appears when it is complete. An image that
    could not be read gets `-1` and is listed with the reason in `NAME.errors.csv` next to the file.

    Args:
        results: One result per image, such as those of `Pipeline.predict_many`.
        path: CSV file to write.
        left_out: Ids and reasons of files that have no result, see `choose_one_per_id`. They are listed too.

    Returns:
        Number of images that each stage decided; "error" counts the images that could not be read.

    Raises:
        ValueError: If two results have the same id, which the competition would refuse.

    Example:
        >>> write_submission(pipeline.predict_many(paths), "submission.csv")  # doctest: +SKIP
        Counter({'classifier': 1102, 'mask': 275})
    """
    path = Path(path)
    errors_path = path.with_suffix(".errors.csv")
    stages, errors, written = Counter[str](), list[tuple[str, object]](left_out), set[str]()

    def rows() -> Iterator[tuple[str, str]]:
        for result in results:
            if result.image_id in written:
                raise ValueError(f"two images are named {result.image_id}: rename one of them, or leave it out")
            written.add(result.image_id)
            stages[result.stage] += 1
            if result.error is not None:
                errors.append((result.image_id, result.error))
            yield result.image_id, result.rle

    _write_rows(path, HEADER, rows())
    errors_path.unlink(missing_ok=True)
    if errors:
        _write_rows(errors_path, ("ImageId", "error"), errors)
    return stages


def validate_submission(
    path: str | Path, expected_ids: Iterable[str], shape: tuple[int, int] = (1024, 1024)
) -> list[str]:
    """Check a submission against the ids that it should hold.

    Args:
        path: Submission to check.
        expected_ids: Ids that the submission should hold. Repeated ids, as in the sample of the competition's stage 1,
            count once.
        shape: (H, W) of every mask, in pixels.

    Returns:
        One sentence per problem, or an empty list if the submission is valid. Problems are missing, duplicate and
        unknown ids, a wrong header, and run-length codes that are malformed or exceed the mask.

    Raises:
        ValueError: If the file is not a CSV with two columns.
        FileNotFoundError: If there is no such file.

    Example:
        >>> validate_submission("submission.csv", ["ID_1", "ID_2"])  # doctest: +SKIP
        ['ID_2: missing']
    """
    table = read_runs(path)
    problems = _header_problems(path)
    expected, counts = set(map(normalize, expected_ids)), Counter(table["image_id"])
    problems += [f"{image_id}: missing" for image_id in sorted(expected - counts.keys())]
    problems += [f"{image_id}: unknown id" for image_id in sorted(counts.keys() - expected)]
    problems += [f"{image_id}: {count} rows, expected one" for image_id, count in sorted(counts.items()) if count > 1]
    for image_id, text in zip(table["image_id"], table["rle"], strict=True):
        try:
            rle.run_bounds(text, shape)
        except ValueError as error:
            problems.append(f"{image_id}: {error}")
    return problems


def _header_problems(path: str | Path) -> list[str]:
    with open(path, encoding="utf-8") as file:
        first = file.readline().rstrip("\r\n")
    return [] if first == ",".join(HEADER) else [f"the first line is {first!r}, expected {','.join(HEADER)!r}"]


def _write_rows(path: Path, header: tuple[str, str], rows: Iterable[tuple[object, object]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
