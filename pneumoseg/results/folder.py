"""Folder of results: `results.csv`, pictures of each image, and a page to look through them.

A folder of results holds:

- `results.csv`: one row per image, see `ResultRow`.
- `masks/`, and if asked for `overlays/` and `probabilities/`: one PNG per image.
- `index.html`: the images with their outlines.
- `skipped.csv`: files in the folders that are not images, and folders that were not searched, if there are any.
- `.progress.jsonl`: the journal, so that a stopped run can go on.
"""

import csv
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pneumoseg
from pneumoseg.atomic_write import atomic_write, remove_temporary_files
from pneumoseg.data.files import IN_RESULTS, JOURNAL, ImageFiles, absolute, file_state, find_images
from pneumoseg.folder_lock import locked_folder
from pneumoseg.identifiers import image_id_of, is_hidden, is_utf8, printable
from pneumoseg.image_errors import ImageError
from pneumoseg.inference import Pipeline, Result
from pneumoseg.inference.row import COLUMNS, ResultRow
from pneumoseg.report.results_page import pipeline_facts, write_results_page
from pneumoseg.results.journal import Entry, Journal
from pneumoseg.results.names import unique_names
from pneumoseg.results.pictures import KINDS, Pictures
from pneumoseg.results.progress import progress_bar

_log = logging.getLogger(__name__)
TABLE, PAGE, SKIPPED = "results.csv", "index.html", "skipped.csv"
Inputs = str | Path | Iterable[str | Path] | ImageFiles


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        folder: Folder that was written.
        rows: One row per image, in the order of the inputs.
        skipped: Files in the folders that are not images, and folders that were not searched, and why.

    Example:
        >>> results = write_results(pipeline, "ward", "results")  # doctest: +SKIP
        >>> len(results.rows), len(results.errors)  # doctest: +SKIP
        (120, 1)
    """

    folder: Path
    rows: Sequence[ResultRow]
    skipped: Sequence[tuple[Path, str]]

    @property
    def errors(self) -> list[ResultRow]:
        """Rows of the files that could not be read."""
        return [row for row in self.rows if row.error is not None]


def write_results(
    pipeline: Pipeline,
    inputs: Inputs,
    folder: str | Path,
    *,
    overlays: bool = False,
    probabilities: bool = False,
    max_images: int = 500,
    progress: bool = False,
) -> Results:
    """Run the pipeline on files and folders and write all results to a folder, at constant memory.

    A run that was stopped is continued by the next one with the same pipeline and options, which gives the same folder,
    bit for bit, as a run that was never stopped. With more inputs, only the new ones are run. Files that could not be
    read, and files that were changed since, are run again. The results of files that no longer exist are removed. Two
    images with the same id get different names, see `unique_names`.

    Networks without a bundle cannot be told apart, see `Pipeline.networks`: choose a new folder for each of them.

    Args:
        pipeline: The networks and the rule.
        inputs: Image files, and folders that are searched at any depth; or what `find_images` found.
        folder: Folder to write.
        overlays: Whether to write each image with the outline of its mask.
        probabilities: Whether to write the segmenter's probability maps. It then also runs on the images that the
            classifier does not pass on; the decisions stay the same.
        max_images: Greatest number of images on the page: errors, then the highest probabilities.
        progress: Whether to show a progress bar on the standard error stream.

    Returns:
        All rows, and the files that were skipped.

    Raises:
        FileNotFoundError: If an input does not exist, or none is an image.
        FileExistsError: If the folder holds something else, results of another pipeline or other options, or results of
            existing files that are not among the inputs; or if another process writes it.
        ValueError: If the journal in the folder is damaged.

    Example:
        >>> results = write_results(pipeline, ["ward", "chest.png"], "results")  # doctest: +SKIP
        >>> [row.path for row in results.errors]  # doctest: +SKIP
        ['/data/ward/broken.dcm']
    """
    folder = absolute(folder)
    pictures = Pictures(folder, overlays, probabilities)
    _require_results(folder)
    found = _without_own(inputs if isinstance(inputs, ImageFiles) else find_images(inputs), folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, "written"):
        for place in (folder, *(folder / kind for kind in KINDS)):
            remove_temporary_files(place)
        run = _Run(pipeline, Journal(folder, _identity(pipeline, pictures)), pictures, found)
        run.predict_missing(progress=progress)
        run.finish(max_images)
    return Results(folder, run.rows(), found.skipped)


def result_rows(pipeline: Pipeline, paths: Sequence[Path], *, progress: bool = False) -> Iterator[ResultRow]:
    """Run the pipeline on files and yield a row per file, without writing anything.

    Args:
        pipeline: The networks and the rule.
        paths: Image files.
        progress: Whether to show a progress bar on the standard error stream.

    Yields:
        The row of each file, in order. A file that cannot be read gives a row with its error.

    Example:
        >>> for row in result_rows(pipeline, find_images("ward").paths):  # doctest: +SKIP
        ...     print(row.image_id, row.has_pneumothorax)  # doctest: +SKIP
    """
    readable = [str(path) for path in paths if is_utf8(path)]
    names, results = unique_names(readable, {}), pipeline.predict_many(readable)
    with progress_bar(len(paths), shown=progress) as advance:
        for path in paths:
            yield row_of_bad_name(path) or ResultRow.from_result(next(results), names[str(path)], str(path))
            advance(1)


class _Run:
    """One run: the inputs, the images that are done, and those that are left."""

    def __init__(self, pipeline: Pipeline, journal: Journal, pictures: Pictures, found: ImageFiles) -> None:
        self._pipeline, self._journal, self._pictures, self._found = pipeline, journal, pictures, found
        self._folder = pictures.folder
        self._paths = [str(path) for path in found.paths if is_utf8(path)]
        self._drop_missing()
        kept = {path: entry.row.image_id for path, entry in journal.entries.items()}
        self._names = unique_names(self._paths, kept)

    def rows(self) -> list[ResultRow]:
        """Return the row of each input, in order."""
        return [row_of_bad_name(path) or self._journal.entries[str(path)].row for path in self._found.paths]

    def predict_missing(self, *, progress: bool) -> None:
        """Run new images, then those that have to be run again, each from the beginning of a chunk."""
        new = [path for path in self._paths if path not in self._journal.entries]
        again = [path for path in self._paths if path in self._journal.entries and not self._is_done(path)]
        if self._journal.entries:
            done = len(self._paths) - len(new) - len(again)
            _log.info(f"{self._folder}: {done} of {len(self._paths)} images are done, {len(again)} are run again")
        with progress_bar(len(new) + len(again), shown=progress) as advance:
            for paths in (new, again):
                for entries in self._chunks(paths, advance):
                    if any(self._journal.entries.get(entry.row.path) != entry for entry in entries):
                        self._journal.append(entries)

    def finish(self, max_images: int) -> None:
        """Write the table, the list of skipped files and the page, unless they are there and nothing has changed."""
        rows, facts = self.rows(), pipeline_facts(self._pipeline)
        self._pictures.remove_others(row.image_id for row in rows if row.error is None)
        skipped = [(printable(path), reason) for path, reason in self._found.skipped]
        digest = _digest([pneumoseg.__version__, max_images, facts, skipped, *map(dataclasses.astuple, rows)])
        files = [self._folder / name for name in (TABLE, PAGE, *([SKIPPED] if skipped else []))]
        if self._journal.digest == digest and all(path.is_file() for path in files):
            return
        _write_table(self._folder / TABLE, COLUMNS, (_cells(row) for row in rows))
        if skipped:
            _write_table(self._folder / SKIPPED, ("path", "reason"), skipped)
        else:
            (self._folder / SKIPPED).unlink(missing_ok=True)
        write_results_page(rows, self._folder / PAGE, facts=facts, max_images=max_images, skipped=len(skipped))
        self._journal.finish(self._paths, digest)

    def _is_done(self, path: str) -> bool:
        entry = self._journal.entries[path]
        if entry.row.error is not None or entry.state != _state(path):
            return False
        return all(picture.exists() for picture in self._pictures.paths(entry.row.image_id))

    def _chunks(self, paths: Sequence[str], advance: Callable[[int], None]) -> Iterator[list[Entry]]:
        """Yield the chunks of the pipeline, once the pictures of all their images are written."""
        states = deque[tuple[int, int] | None]()

        def noting_states() -> Iterator[str]:
            for path in paths:
                states.append(_state(path))  # before the file is read, so that a later change is noticed
                yield path

        def write(result: Result) -> ResultRow:
            row = self._write(result)
            advance(1)
            return row

        results = self._pipeline.predict_many(noting_states(), keep_maps=self._pictures.probabilities)
        with ThreadPoolExecutor() as pool:
            while rows := list(pool.map(write, itertools.islice(results, self._pipeline.chunk_size))):
                yield [Entry(row, states.popleft()) for row in rows]

    def _write(self, result: Result) -> ResultRow:
        path = str(result.source)
        name = self._names[path]
        row = ResultRow.from_result(result, name, path)
        try:
            if result.error is None:
                self._pictures.write(name, result)
        except ImageError as error:
            row = ResultRow.of_error(name, path, error)
        if row.error is not None:
            self._pictures.remove(name)
        return row

    def _drop_missing(self) -> None:
        """Forget the files that no longer exist, or are skipped now; refuse if others are not among the inputs."""
        skipped = {str(path) for path, _ in self._found.skipped}
        missing = sorted(self._journal.entries.keys() - set(self._paths))
        unnamed = [path for path in missing if path not in skipped and _exists(path)]
        if unnamed:
            raise FileExistsError(
                f"{self._folder} holds results of {len(unnamed)} files that are not among the inputs, the first: "
                f"{unnamed[0]}: name them too, or choose another folder"
            )
        if missing:
            _log.warning(
                f"{self._folder}: the results of {len(missing)} files that no longer exist, or are not images any "
                f"more, are removed, the first: {missing[0]}"
            )
            self._journal.drop(missing)


def _identity(pipeline: Pipeline, pictures: Pictures) -> dict[str, Any]:
    """Return what the results depend on, except for the batch size, which may change the last bits only."""
    return {
        "networks": pipeline.networks,
        "rule": dataclasses.asdict(pipeline.rule),
        "flip": pipeline.flip,
        "overlays": pictures.overlays,
        "probabilities": pictures.probabilities,
        **pipeline.engine.identity,
    }


def _require_results(folder: Path) -> None:
    """Check that a folder is new, empty, or holds results."""
    if folder.is_dir() and not (folder / JOURNAL).is_file():
        others = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
        if others:
            raise FileExistsError(
                f"{folder} exists and holds something other than results, such as {printable(others[0])}: choose "
                "another folder"
            )


def _without_own(found: ImageFiles, folder: Path) -> ImageFiles:
    """Do not list the folder of the results as skipped, because the first run does not find it."""
    own = folder.resolve()

    def is_own(path: Path, reason: str) -> bool:
        return reason == IN_RESULTS and path.is_dir() and path.resolve().is_relative_to(own)

    return ImageFiles(found.paths, [entry for entry in found.skipped if not is_own(*entry)])


def row_of_bad_name(path: Path) -> ResultRow | None:
    """Return the row of a file whose name no table can hold, which is therefore not read."""
    if is_utf8(path):
        return None
    error = ImageError(str(path), "has a name that is not UTF-8", "Rename the file or its folder")
    return ResultRow.of_error(printable(image_id_of(path)), printable(path), error)


def _state(path: str) -> tuple[int, int] | None:
    try:
        return file_state(path)
    except ImageError:
        return None


def _exists(path: str) -> bool:
    """Return whether there is a file or a link, even if it cannot be reached."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _digest(content: Iterable[Any]) -> str:
    checksum = hashlib.sha256()
    for part in content:
        checksum.update(json.dumps(part).encode() + b"\n")
    return checksum.hexdigest()


def _cells(row: ResultRow) -> list[Any]:
    return ["" if value is None else value for value in row.as_dict().values()]


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
