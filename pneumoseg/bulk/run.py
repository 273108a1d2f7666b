"""A run of bulk inference: missing images, sent to workers by Ray Data, and its results written as shards.

The images of a run, in order of path, are cut into chunks as a run of one process cuts them, because the last bits of a
network's output may depend on the other images of its batch, see `Pipeline.chunk_size`. Workers get whole chunks, and
only whole pieces of work are recorded. So the chunks of a run that goes on are those that the first run had.

If workers die again and again on a piece of work, its chunks become pieces of their own, and then the images of the
chunk on which they die. So only a file that kills its workers by itself gets a row with that error. The last bits of
the rows of the images of its chunk may differ from those of a run without this file.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pneumoseg.bulk.crew import Crew
from pneumoseg.bulk.listing import Listing, list_images
from pneumoseg.bulk.packing import local_pipeline, pack
from pneumoseg.bulk.placement import Workers, find_room, local_cpus
from pneumoseg.bulk.shards import SHARD, ResultFolder
from pneumoseg.bulk.worker import GIVEN, Settings, Worker
from pneumoseg.cluster import connect
from pneumoseg.data.files import absolute
from pneumoseg.engines.exports import read_export
from pneumoseg.folder_lock import locked_folder
from pneumoseg.image_errors import ImageError
from pneumoseg.inference.folder import PipelineFolder
from pneumoseg.inference.row import ResultRow
from pneumoseg.processor import usable_cores
from pneumoseg.remote_files import is_remote
from pneumoseg.results.folder import row_of_bad_name
from pneumoseg.results.names import unique_names
from pneumoseg.results.progress import progress_bar

if TYPE_CHECKING:
    from types import ModuleType

_log = logging.getLogger(__name__)
_CHUNKS = 8  # most chunks per piece of work: a killed worker loses no more
_LOST = 16  # most pieces that may be lost before there is any result, or, if more than a tenth, later; see `_Run._try`
_PIECES = 4  # least pieces per worker, so that all end at about the same time
# When a piece comes back, a shard is written if so many rows wait or the first waits so long. A killed driver loses
# these and the pieces that the workers have.
_SHARD_ROWS, _SHARD_S = 4096, 10.0


@dataclass(frozen=True)
class Summary:
    """The end of a run.

    Attributes:
        images: Number of images, each of which has one row.
        positive: Number with a pneumothorax.
        negative: Number without.
        unbelieved: Number whose pixel spacing is not believed.
        skipped: Number of other files in the folders.
        errors: Path and error of each file that could not be read.
        unlisted: Whether any folder could not be listed.
    """

    images: int
    positive: int
    negative: int
    unbelieved: int
    skipped: int
    errors: Sequence[tuple[str, str]]
    unlisted: bool


def predict_in_bulk(
    pipeline: str,
    inputs: Sequence[str],
    out: str,
    *,
    workers: Workers | None = None,
    batch_size: int = 4,
    assembled: bool = False,
    engine: str = "keras",
    progress: bool = False,
) -> Summary:
    """Run a pipeline on many images with workers on Ray, and write the results as Parquet shards.

    The rows are those of `write_results`, bit for bit, on the same kind of processor. A run that was stopped is
    continued by the next one: it predicts new images first, then those that could not be read or were changed since.
    Files that kill their workers get rows with an error. Rows of images that are not among the inputs any more are
    kept.

    Local folders must be the same on all nodes; the pipeline is brought to them. On a local disk two runs cannot write
    one folder. On an object store nothing keeps them apart: they would do the work twice, and `read_results` would
    still give one row per image.

    Args:
        pipeline: Folder of the pipeline, local or remote.
        inputs: Images, folders and, remote, globs.
        out: Folder of the results, local or remote.
        workers: Where and how many; None for as many as find room on this machine.
        batch_size: Images per batch, in both stages.
        assembled: Whether to use the decision rule as assembled.
        engine: Engine of the networks, see `load_pipeline`.
        progress: Whether to show a progress bar on the standard error stream.

    Raises:
        FileNotFoundError: If an input or the pipeline does not exist, or no image is found.
        FileExistsError: If `out` holds something else, or another process writes it.
        ConnectionError: If there is no Ray at the address.
        ValueError: If something is not installed, the address is one of Ray Client, or this machine has fewer GPUs
            or CPUs than the workers need.
        RuntimeError: If the workers fail, or an image has no row in the end.

    Example:
        >>> from pneumoseg.bulk.run import predict_in_bulk  # doctest: +SKIP
        >>> predict_in_bulk("runs/pipeline", ["s3://hospital/2023"], "s3://hospital/results")  # doctest: +SKIP
    """
    workers = workers or Workers()
    if (workers.address or "").startswith("ray://"):
        raise ValueError(
            f"--ray {workers.address}: Ray Data cannot work through Ray Client: run the command on a node of the "
            "cluster with --ray auto, for example by `ray job submit` or `ray submit`"
        )
    folder = ResultFolder(out)
    out = folder.place
    own = out if is_remote(out) else str(absolute(out))
    with local_pipeline(pipeline) as place:
        identity = _identity(place, assembled, engine) | {"batch_size": batch_size}
        with _locked(out):
            threads = folder.claim(identity, _threads())
            settings = Settings(batch_size, assembled, engine, threads)
            done = folder.rows(["path", "image_id", "error", "state"])
            listing = list_images(inputs, known=_known_images(done), own=own)
            run = _Run(folder, listing, done, 8 * batch_size)
            run.tell()
            if run.is_complete:
                run.append_unnamed()
            else:
                with connect(workers.address, cpus=local_cpus(workers)) as ray:
                    run.predict(ray, pack(place, exports=engine != "keras"), settings, workers, progress=progress)
            return run.sum_up()


class _Run:
    """The images that are left, and the rows that come back."""

    def __init__(self, folder: ResultFolder, listing: Listing, done: pa.Table, chunk: int) -> None:
        self._folder, self._listing, self._chunk = folder, listing, chunk
        images, self._done = listing.images, done
        before = pc.index_in(images["path"], value_set=done["path"])
        old = done.take(before)  # null where there is none
        is_new = pc.is_null(before)
        is_good = pc.and_(pc.is_null(old["error"]), pc.equal(old["state"], images["state"]))
        is_again = pc.and_(pc.invert(is_new), pc.invert(pc.fill_null(is_good, False)))
        self._new, self._again = images.filter(is_new), images.filter(is_again)
        self._old_errors = dict(
            zip(self._again["path"].to_pylist(), old.filter(is_again)["error"].to_pylist(), strict=True)
        )
        self._left = pa.concat_tables([self._new, self._again]).combine_chunks()
        self._seen = np.zeros(len(self._left), bool)
        self._unnamed = [row for path in listing.unnamed if (row := row_of_bad_name(path))]
        self._names = self._choose_names()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to predict."""
        return not len(self._left)

    def tell(self) -> None:
        """Log the number of images that are done already."""
        total, kept = len(self._listing.images), len(self._done)
        if kept:
            _log.info(
                f"{self._folder.place}: {total - len(self._left)} of {total} images are done, {len(self._again)} are "
                "run again"
            )
        others = kept - (total - len(self._new)) - len(self._listing.unnamed)
        if others > 0:
            _log.warning(f"{self._folder.place}: keeps the results of {others} files that are not among the inputs")

    def predict(
        self, ray: "ModuleType", pipeline: bytes, settings: Settings, workers: Workers, *, progress: bool
    ) -> None:
        """Predict the images that are left, and write shards as results come back.

        Raises:
            RuntimeError: If the workers fail.
        """
        number, options = find_room(ray, workers, settings.engine)
        settings = settings._replace(gpus=options["num_gpus"])
        crew = Crew(ray, Worker, (ray.put(pipeline), settings), number, options)
        self.append_unnamed()
        with progress_bar(len(self._left), shown=progress) as advance, _shards(self._folder) as append:

            def take(results: pa.Table) -> None:
                append(self._take(results))
                advance(len(results))

            sizes = list(dict.fromkeys((self._piece_size(number), self._chunk, 1)))
            for size in sizes:
                if size < sizes[0] and (lost := np.sum(~self._seen)):
                    _log.warning(f"workers died again and again on {lost} images, which are tried {size} at a time")
                self._try(crew, size, take)
            take(self._lost())

    def _try(self, crew: Crew, size: int, take: Callable[[pa.Table], None]) -> None:
        """Let workers predict the images that have no result yet, in pieces of some size.

        If more than a few pieces are lost before there is a first result, that ends the run: this pipeline kills its
        workers. So it ends if more than a tenth of the first, large pieces are lost: then a machine is broken or lacks
        memory. Of smaller pieces any number may be lost.

        Raises:
            RuntimeError: If the workers fail.
        """
        while pieces := self._pieces(size):
            had_results = self._seen.any()
            most_lost = self._most_lost(len(pieces), is_first=size > self._chunk)
            try:
                with crew.work(pieces, ahead=int(size > 1), most_lost=most_lost) as results:
                    for table in results:
                        take(table)
                return
            except crew.ray.exceptions.RayError as error:
                if had_results or not self._seen.any():
                    raise RuntimeError(_failure(_reason_of_deaths(error, crew.ray, most_lost))) from error

    def _most_lost(self, pieces: int, *, is_first: bool) -> int | None:
        if not len(self._new):  # the last run lost them
            return None
        if not self._seen.any():
            return _LOST
        return max(_LOST, pieces // 10) if is_first else None

    def append_unnamed(self) -> None:
        """Write the rows of files whose names no table can hold, unless they are there."""
        table = pa.Table.from_pylist([row.as_dict() for row in self._unnamed], SHARD)
        table = table.filter(pc.invert(pc.is_in(table["path"], value_set=self._done["path"])))
        if len(table):
            self._folder.append(table)

    def sum_up(self) -> Summary:
        """Read the shards, check that each image has its row, and count.

        Raises:
            RuntimeError: If one has none.
        """
        rows = self._folder.rows(["path", "has_pneumothorax", "spacing_source", "area_mm2", "error"])
        paths = self._listing.images["path"]
        unnamed = pa.array([row.path for row in self._unnamed], pa.large_string())
        wanted = pa.concat_arrays([*paths.chunks, unnamed])
        places = pc.index_in(wanted, value_set=rows["path"])
        if places.null_count:
            raise RuntimeError(
                f"{self._folder.place}: {places.null_count} of {len(wanted)} images have no row: run again"
            )
        rows = rows.take(places)
        bad = rows.filter(pc.is_valid(rows["error"]))
        positive = pc.sum(rows["has_pneumothorax"]).as_py() or 0
        unbelieved = pc.sum(pc.and_(pc.is_valid(rows["spacing_source"]), pc.is_null(rows["area_mm2"]))).as_py() or 0
        errors = list(zip(bad["path"].to_pylist(), bad["error"].to_pylist(), strict=True))
        return Summary(
            len(wanted),
            positive,
            len(wanted) - positive - len(errors),
            unbelieved,
            self._listing.skipped,
            errors,
            self._listing.unlisted,
        )

    def _choose_names(self) -> pa.Array:
        """Return the name of each image that is left, see `unique_names`."""
        if self.is_complete:
            return pa.array([], pa.large_string())
        kept = dict(zip(self._done["path"].to_pylist(), self._done["image_id"].to_pylist(), strict=True))
        names = unique_names(self._listing.images["path"].to_pylist(), kept)
        return pa.array((names[path] for path in self._left["path"].to_pylist()), pa.large_string())

    def _piece_size(self, workers: int) -> int:
        """Return the number of images per piece of work: of some whole chunks."""
        chunks = -(-len(self._left) // self._chunk)
        return self._chunk * max(1, min(_CHUNKS, chunks // (_PIECES * workers)))

    def _pieces(self, size: int) -> list[pa.Table]:
        """Return the work that is left: new images, then images that are run again."""
        numbers = np.flatnonzero(~self._seen)
        pieces = [
            part[start : start + size]
            for part in np.split(numbers, [np.searchsorted(numbers, len(self._new))])
            for start in range(0, len(part), size)
        ]
        paths = self._left["path"]
        return [pa.table({"number": piece, "path": paths.take(pa.array(piece))}) for piece in pieces]

    def _lost(self) -> pa.Table:
        """Return a row with an error for each image that no worker gave, as a worker would."""
        numbers = np.flatnonzero(~self._seen)
        if len(numbers):
            _log.warning(f"{len(numbers)} images kill their workers: THEY HAVE ROWS WITH AN ERROR")
        paths = self._left["path"].take(pa.array(numbers)).to_pylist()
        rows = [_row_of_killer(path) | {"number": number} for number, path in zip(numbers, paths, strict=True)]
        return pa.Table.from_pylist(rows, GIVEN)

    def _take(self, results: pa.Table) -> pa.Table:
        """Return the rows of a shard for what a worker gave, without errors that are known already.

        Raises:
            RuntimeError: If the worker has failed.
        """
        if failures := results["failure"].drop_null().to_pylist():
            first = self._left["path"][results["number"][0].as_py()]
            raise RuntimeError(_failure(f"{failures[0]} (in the piece of work that begins with {first})"))
        numbers = results["number"].to_numpy()
        if self._seen[numbers].any():
            raise RuntimeError("a worker gave an image that another gave before: report this, and run again")
        self._seen[numbers] = True
        rows = results.drop_columns(["number", "failure"])
        rows = rows.set_column(0, "image_id", self._names.take(results["number"]))
        rows = rows.append_column("state", self._left["state"].take(results["number"]))
        known = [
            error is not None and self._old_errors.get(path) == error
            for path, error in zip(rows["path"].to_pylist(), rows["error"].to_pylist(), strict=True)
        ]
        return rows.filter(pc.invert(pa.array(known, pa.bool_())))


@contextlib.contextmanager
def _shards(folder: ResultFolder) -> "Iterator[Any]":
    """Yield a function that gathers rows, and writes a shard when there are many or after some time.

    Gathered rows are written at the end, also after an error.
    """
    gathered, since = list[pa.Table](), 0.0

    def write() -> None:
        rows = pa.concat_tables([SHARD.empty_table(), *gathered])
        gathered.clear()
        if len(rows):
            folder.append(rows)

    def append(rows: pa.Table) -> None:
        nonlocal since
        if not gathered:
            since = time.monotonic()
        gathered.append(rows)
        if sum(map(len, gathered)) >= _SHARD_ROWS or time.monotonic() - since > _SHARD_S:
            write()

    try:
        yield append
    finally:
        write()


def _known_images(done: pa.Table) -> set[str]:
    """Return the URLs that were read; a file with an error may be no image."""
    read = done["path"].filter(pc.is_null(done["error"]))
    return set(filter(is_remote, read.to_pylist()))


def _identity(folder: Path, assembled: bool, engine: str) -> dict[str, Any]:
    """Return what the results depend on."""
    record = PipelineFolder.read(folder, assembled=assembled)
    identity = {"networks": record.networks, "rule": asdict(record.rule), "flip": record.flip, "engine": engine}
    if engine != "keras":
        export = read_export(folder, engine, record.networks)
        identity |= {"engine": export.name, "export": export.sha256}
    return identity


def _locked(out: str) -> AbstractContextManager[None]:
    """Lock a local folder, which is made."""
    if is_remote(out):
        return nullcontext()
    Path(out).mkdir(parents=True, exist_ok=True)
    return locked_folder(out, "written")


def _threads() -> int:
    """Return the number of threads with which a run of one process would compute an operation here."""
    chosen = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(chosen) if chosen.isdecimal() and int(chosen) else usable_cores()


def _row_of_killer(path: str) -> dict[str, Any]:
    error = ImageError(path, "each worker that read it died", "Give workers more memory, or leave the file out")
    return ResultRow.of_error("", path, error).as_dict()


def _reason_of_deaths(error: Exception, ray: "ModuleType", most_lost: int | None) -> str:
    died = isinstance(error, ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError)
    if most_lost is None or not died:
        return _last_line(error)
    return (
        f"they died on more than {most_lost} pieces of work; they may need more memory, or a machine is broken: take "
        "fewer --workers, or look for that machine with `ray status`"
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _failure(reason: str) -> str:
    return f"the workers on Ray failed: {reason}; finished rows are kept, so run the same command again"
