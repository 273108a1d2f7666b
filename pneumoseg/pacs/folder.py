"""Folder in, folder out: the DICOM images of one folder, and their results as DICOM objects in another.

The output folder holds:

- `SERIES#INSTANCE.dcm`: one file per object, named after its Series Instance UID and its SOP Instance UID, as mercure
  names files.
- `result.json`: the outcome for each file, see `FolderResult`. It is written last: where it is, all is done.
"""

import io
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset

from pneumoseg.atomic_write import atomic_write, remove_temporary_files
from pneumoseg.data.files import ImageFiles, absolute, search_images
from pneumoseg.dicom_objects import KINDS, RefusedError, read_source
from pneumoseg.folder_lock import locked_folder
from pneumoseg.identifiers import is_hidden, printable
from pneumoseg.image_errors import ImageError
from pneumoseg.inference import Pipeline, Result
from pneumoseg.inference.row import ResultRow
from pneumoseg.pacs.discretion import hidden_messages
from pneumoseg.pacs.folder_result import FolderResult, Outcome, WrittenObject
from pneumoseg.pacs.object_origin import Origin, read_origin
from pneumoseg.pacs.reasons import describe
from pneumoseg.pacs.work_folders import require_folders

_log = logging.getLogger(__name__)
RESULT = "result.json"
"""Name of the file with the outcome for each file."""
_FACTS = ("has_pneumothorax", "probability", "area_px", "area_mm2", "spacing_source", "stage")
_SPAN = 100
"""Number of files between two lines about the progress."""


def process_folder(
    source: str | Path, target: str | Path, pipeline: Pipeline, kinds: Sequence[str] = KINDS, *, strict: bool = False
) -> FolderResult:
    """Run the pipeline on the DICOM images of a folder, at any depth, and write its results as DICOM objects.

    Files are recognized by their content, see `find_images`; those that are not images, such as `task.json` and
    `.tags` of mercure, are skipped and counted. An image that gets no objects, such as a lateral view, a picture
    without a study, an object of pneumoseg itself, or an image that another file has given results for, is refused with
    a reason. If anything unexpected happens to a file, it has failed, and the others go on. A folder may hold no image,
    because a router may send a series of reports.

    The same images and pipeline give the same names. A run with the same folders starts again, and replaces the files
    of the run before. Logs hold no path, and nothing from a header: a file is named by its number in the order of
    `result.json`.

    Args:
        source: Folder to read; it may be read-only.
        target: Folder to write: a new one, an empty one, or one with results of these images and this pipeline.
        pipeline: The networks and the rule, loaded from a folder.
        kinds: Kinds of objects to write.
        strict: Whether segmentations lack the geometry that viewers want and radiographs have not, see `make_objects`.

    Returns:
        The outcome for each file.

    Raises:
        FileNotFoundError: If there is no input folder.
        FileExistsError: If the output folder holds anything else, such as objects of other images or of another
            pipeline, or another process writes it.
        OSError: If the output folder cannot be written. There is no `result.json` then.
        ValueError: If the output folder is the input folder or lies in it, or a kind is unknown.

    Example:
        >>> result = process_folder("in", "out", load_pipeline("runs/pipeline"))  # doctest: +SKIP
        >>> result.counts["positive"], result.counts["refused"]  # doctest: +SKIP
        (3, 1)
    """
    source, target = absolute(source), absolute(target)
    _require_settings(pipeline, kinds)
    require_folders(source, target)
    with hidden_messages() as hidden:
        found = _search(source)
        with _writing():
            target.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            run = _Run(source, target, pipeline, kinds, strict, found)
            run.clear()
            outcomes = list(run.outcomes())
            result = FolderResult(run.settings, outcomes, run.skipped, len(found.unlisted), hidden)
            with _writing(run.progress), atomic_write(target / RESULT) as temporary:
                temporary.write_text(json.dumps(result.as_dict(), indent=1, allow_nan=False), encoding="utf-8")
    return result


@dataclass(frozen=True)
class _Accepted:
    """A file whose header was accepted, and which waits for the networks, or for the fate of the first such file."""

    path: Path
    sop_instance_uid: str
    is_first: bool


class _Run:
    """One run over a folder."""

    def __init__(
        self, source: Path, target: Path, pipeline: Pipeline, kinds: Sequence[str], strict: bool, found: ImageFiles
    ) -> None:
        self._source, self._target, self._pipeline, self._found = source, target, pipeline, found
        self.settings: dict[str, Any] = {
            "pipeline": pipeline.digest,
            "engine": asdict(pipeline.engine),
            "kinds": [kind for kind in KINDS if kind in kinds],
            "strict": strict,
        }
        self._waiting = deque[Outcome | _Accepted]()
        self._instances = set[str]()
        self._done_instances = set[str]()
        self._done = 0

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Skipped files and folders, as paths below the input folder, each with the reason."""
        return [(self._name(path), reason) for path, reason in self._found.skipped]

    @property
    def progress(self) -> str:
        """Part of a sentence about how far the run is."""
        return f"after {self._done} of {len(self._found.paths)} files"

    def clear(self) -> None:
        """Remove what an earlier run with the same folders wrote.

        Raises:
            FileExistsError: If the output folder holds anything else.
            OSError: If a file cannot be removed.
        """
        with _writing():
            earlier = [path for path in self._target.iterdir() if not is_hidden(path.name)]
        objects = {path: read_origin(path) for path in earlier if path.name != RESULT}
        if others := sum(origin is None for origin in objects.values()):
            raise FileExistsError(
                f"the output folder holds {others} files or folders that this command did not write: name another one"
            )
        if len(objects) < len(earlier):
            self._require_same(self._target / RESULT)
        if objects:
            self._require_origins(objects.values())
        with _writing():
            (self._target / RESULT).unlink(missing_ok=True)
            for path in objects:
                path.unlink()
            remove_temporary_files(self._target)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcome of each file, in order, once its objects are written."""
        for outcome in self._unnumbered_outcomes():
            self._done += 1
            if outcome.state != "done":
                _log.warning(f"file {self._done} of {len(self._found.paths)} {outcome.state}: {outcome.reason}")
            if self._done % _SPAN == 0:
                _log.info(f"{self._done} of {len(self._found.paths)} files are done")
            yield outcome

    def _unnumbered_outcomes(self) -> Iterator[Outcome]:
        for answer in self._answers():
            yield from self._waiting_outcomes()
            accepted = self._waiting.popleft()
            assert isinstance(accepted, _Accepted)
            yield self._finish(accepted, answer)
        yield from self._waiting_outcomes()

    def _waiting_outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes of files that the networks are not running on, up to the next file that they run on."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, _Accepted) and first.is_first:
                return
            self._waiting.popleft()
            yield first if isinstance(first, Outcome) else self._finish_other(first)

    def _finish_other(self, other: _Accepted) -> Outcome:
        """Return the outcome of another file of an image: it runs if no file before it got a result."""
        if other.sop_instance_uid not in self._done_instances:
            return self._finish(other, self._run_alone(str(other.path)))
        error = RefusedError(str(other.path), "has the same SOP Instance UID as another file")
        return self._without_result(other.path, error)

    def _answers(self) -> Iterator[Result | Exception]:
        """Yield the result of each accepted file, in order, or the unexpected error that it causes.

        After such an error, which may be due to any of the files that are read ahead, each of these runs alone.
        """
        remaining, pending = iter(self._accepted()), deque[str]()

        def note() -> Iterator[str]:
            for path in remaining:
                pending.append(path)
                yield path

        while True:
            try:
                for result in self._pipeline.predict_many(note()):
                    pending.popleft()
                    yield result
                return
            except Exception:
                if not pending:
                    raise
            while pending:
                yield self._run_alone(pending.popleft())

    def _run_alone(self, path: str) -> Result | Exception:
        try:
            return next(self._pipeline.predict_many([path]))
        except Exception as error:
            return error

    def _accepted(self) -> Iterator[str]:
        """Yield the first file of each image whose header is accepted; in the queue, each file or its outcome waits."""
        for path in self._found.paths:
            try:
                _require_file(path)
                instance = read_source(path).sop_instance_uid
            except Exception as error:
                self._waiting.append(self._without_result(path, error))
                continue
            is_first = instance not in self._instances
            self._instances.add(instance)
            self._waiting.append(_Accepted(path, instance, is_first))
            if is_first:
                yield str(path)

    def _finish(self, accepted: _Accepted, answer: Result | Exception) -> Outcome:
        """Write the objects of a result and return the outcome."""
        try:
            result = _require_result(answer)
            datasets = result.to_dicom(self.settings["kinds"], strict=self.settings["strict"])
            contents = {_describe_object(kind, dataset): _encode(dataset) for kind, dataset in datasets.items()}
        except Exception as error:
            return self._without_result(accepted.path, error, accepted.sop_instance_uid)
        with _writing(self.progress):
            for written, content in contents.items():
                with atomic_write(self._target / written.file) as temporary:
                    temporary.write_bytes(content)
        self._done_instances.add(accepted.sop_instance_uid)
        row = ResultRow.from_result(result, "", "")
        facts = {name: getattr(row, name) for name in _FACTS}
        return Outcome(
            self._name(accepted.path),
            "done",
            sop_instance_uid=accepted.sop_instance_uid,
            objects=tuple(contents),
            **facts,
        )

    def _without_result(self, path: Path, error: Exception, instance: str | None = None) -> Outcome:
        # The class itself is for files that cannot be opened, which may pass.
        refused = isinstance(error, ImageError) and type(error) is not ImageError
        return Outcome(self._name(path), "refused" if refused else "failed", describe(error), instance)

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self._source).as_posix())

    def _require_same(self, path: Path) -> None:
        """Check that an earlier result is one of the same pipeline, without files that are no longer there."""
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            pipeline, names = earlier["pipeline"], {file["path"] for file in earlier["files"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FileExistsError(
                f"the output folder holds a {RESULT} that this command did not write: name another folder"
            ) from error
        if pipeline != self.settings["pipeline"]:
            raise FileExistsError("the output folder holds results of another pipeline: name another folder")
        if gone := len(names - {self._name(found) for found in self._found.paths}):
            raise FileExistsError(
                f"the output folder holds results of {gone} files that are not in the input folder: name another "
                "folder, or empty this one"
            )

    def _require_origins(self, origins: Iterable[Origin | None]) -> None:
        """Check that earlier objects are of the same pipeline, and of images of the input folder by their headers.

        A result.json may have been deleted, and the files of another study may have the same names.
        """
        pipeline = self.settings["pipeline"]
        expected = {Origin(pipeline, _instance_of(path)) for path in self._found.paths}
        if others := sum(origin not in expected for origin in origins):
            raise FileExistsError(
                f"the output folder holds {others} objects of another pipeline or of images that are not in the input "
                "folder: name another folder, or empty this one"
            )


def _require_settings(pipeline: Pipeline, kinds: Sequence[str]) -> None:
    if not pipeline.digest:
        raise ValueError("the pipeline has no digest: load it from a folder with load_pipeline")
    if not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"kinds are {', '.join(kinds) or 'none'}, expected some of {', '.join(KINDS)}")


def _search(source: Path) -> ImageFiles:
    try:
        return search_images([source])
    except OSError as error:
        raise OSError(f"the input folder cannot be searched ({error.strerror}): check who may read it") from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Lock the output folder, without naming it in the error."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(target, "written"))
        except FileExistsError as error:
            raise FileExistsError("the output folder is being written by another process: wait for it") from error
        except OSError as error:
            raise OSError(f"the output folder cannot be locked ({error.strerror}): name another one") from error
        yield


@contextmanager
def _writing(when: str = "before the first file") -> Iterator[None]:
    """Tell which error of the output folder stopped the run, and when, without naming a file."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"the output folder cannot be written ({error.strerror}), stopped {when} without a {RESULT}: mend the "
            "cause and run the same command again"
        ) from error


def _require_result(answer: Result | Exception) -> Result:
    if isinstance(answer, Exception):
        raise answer
    if answer.error is not None:
        raise answer.error
    return answer


def _encode(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _describe_object(kind: str, dataset: Dataset) -> WrittenObject:
    series, instance = str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID)
    return WrittenObject(kind, f"{series}#{instance}.dcm", series, instance)


def _require_file(path: Path) -> None:
    """Check that a path leads to no pipe, socket or device, which never becomes an image."""
    if os.path.exists(path) and not os.path.isfile(path):  # unlike those of Path, raise no error
        raise RefusedError(str(path), "is not a regular file")


def _instance_of(path: Path) -> str:
    """Return the SOP Instance UID of an image that may get objects; '' for other files."""
    try:
        return read_source(path).sop_instance_uid
    except Exception:  # the run tells why
        return ""
