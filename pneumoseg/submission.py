"""Submissions to the competition: a writer, and a validator to run before the upload."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoseg import rle
from pneumoseg.annotations.competition import read_runs
from pneumoseg.atomic_write import atomic_write
from pneumoseg.identifiers import image_id_of, normalize, printable, read_text_table

if TYPE_CHECKING:
    from pneumoseg.inference import Result

HEADER = ("ImageId", "EncodedPixels")


def read_ids(path: str | Path) -> list[str]:
    """Read the ids of a submission to write, such as those of the sample submission.

    Args:
        path: CSV of `ImageId,EncodedPixels`, of which only the ids matter, or of ids alone under a header.

    Returns:
        The ids in the order of the file. Repeated ids, as in the sample of the competition's stage 1, count once.

    Raises:
        ValueError: If the file is not a CSV with one or two columns, or holds no id.
        FileNotFoundError: If there is no such file.

    Example:
        >>> read_ids("stage_2_sample_submission.csv")[:2]  # doctest: +SKIP
        ['ID_0011fe81e', 'ID_003206608']
    """
    table = read_text_table(path)
    column = table[table.columns[0]].str.strip().map(normalize) if table.shape[1] == 1 else read_runs(path)["image_id"]
    ids = list(dict.fromkeys(column))
    if not ids:
        raise ValueError(f"{path}: it lists no id, expected one per row below ImageId,EncodedPixels")
    return ids


def files_of_ids(paths: Iterable[Path], ids: Iterable[str]) -> list[Path]:
    """Choose the files that a submission asks for.

    Args:
        paths: Image files.
        ids: Ids to submit.

    Returns:
        The files whose ids are among `ids`, in the order of `paths`.

    Raises:
        ValueError: If there is no such file.

    Example:
        >>> [path.name for path in files_of_ids([Path("a.dcm"), Path("b.dcm")], ["b", "c"])]
        ['b.dcm']
    """
    everything, asked = list(paths), set(map(normalize, ids))
    chosen = [path for path in everything if image_id_of(path) in asked]
    if not chosen:
        names = (printable(min(map(image_id_of, everything), default="")), min(asked, default=""))
        raise ValueError(
            f"none of {len(asked)} ids has a file: the files are named like {names[0]!r}, the ids are like "
            f"{names[1]!r}; name the folder and the ids of one data set"
        )
    return chosen


def write_submission(
    results: Iterable["Result"],
    path: str | Path,
    *,
    ids: Iterable[str] | None = None,
    left_out: Iterable[tuple[str, str]] = (),
) -> Counter[str]:
    """Write a submission with one row per image.

    Rows are written as the results arrive, at constant memory. The file appears when it is complete. An image that
    could not be read gets `-1` and is listed with the reason in `NAME.errors.csv` next to the file, and so does an id
    without a result.

    Args:
        results: One result per image, such as those of `Pipeline.predict_many`.
        path: CSV file to write.
        ids: Ids to write, such as those of the sample submission; repeated ids count once. Ids without a result come
            last, in this order. By default the ids are those of the results.
        left_out: Ids and reasons of files that have no result, see `choose_one_per_id`. They are listed too.

    Returns:
        Number of images that each stage decided; "error" counts the images that could not be read, "missing" the ids
        without a result.

    Raises:
        ValueError: If two results have the same id, which the competition would refuse, or if a result is not among
            `ids`.

    Example:
        >>> write_submission(pipeline.predict_many(paths), "submission.csv")  # doctest: +SKIP
        Counter({'classifier': 1102, 'mask': 275})
    """
    path = Path(path)
    errors_path = path.with_suffix(".errors.csv")
    asked = None if ids is None else dict.fromkeys(map(normalize, ids))
    stages, errors, written = Counter[str](), list[tuple[str, object]](left_out), set[str]()

    def rows() -> Iterator[tuple[str, str]]:
        for result in results:
            if result.image_id in written:
                raise ValueError(f"two images are named {result.image_id}: rename one of them, or leave it out")
            if asked is not None and result.image_id not in asked:
                raise ValueError(f"{result.image_id} is not among the ids to submit: leave it out")
            written.add(result.image_id)
            stages[result.stage] += 1
            if result.error is not None:
                errors.append((result.image_id, result.error))
            yield result.image_id, result.rle
        for image_id in asked or ():
            if image_id not in written:
                stages["missing"] += 1
                errors.append((image_id, "no file has this name"))
                yield image_id, rle.EMPTY

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
