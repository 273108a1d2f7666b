"""Results as Parquet shards in a local or remote folder, and their reader.

A folder of bulk results holds `run.json`, which tells the pipeline and the options that it is for, and shards, such as
`part-000012-5f0c9a1b.parquet`: each appears whole or not at all, and is never changed. The number grows with each
shard. An image that could not be read, or was changed, may have rows in several shards: the one in the latest counts.
"""

import io
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import pneumoseg
from pneumoseg.atomic_write import atomic_write, remove_temporary_files
from pneumoseg.bulk.listing import sort_by_path
from pneumoseg.inference.row import COLUMNS
from pneumoseg.remote_files import (
    errors_of,
    is_remote,
    join_url,
    open_file_system,
    without_file_protocol,
    write_remote,
)

if TYPE_CHECKING:
    import pandas as pd

RUN = "run.json"
_READERS = 8
_TYPES = {
    "image_id": pa.large_string(),
    "path": pa.large_string(),
    "probability": pa.float64(),
    "has_pneumothorax": pa.bool_(),
    "area_px": pa.int64(),
    "area_mm2": pa.float64(),
    "spacing_source": pa.large_string(),
    "stage": pa.large_string(),
    "rle": pa.large_string(),
    "error": pa.large_string(),
    "rows": pa.int32(),
    "columns": pa.int32(),
    "pipeline_digest": pa.large_string(),
}
RESULTS = pa.schema(_TYPES)
"""Columns that a worker gives: those of `results.csv`, the size of the image, and the digest of the pipeline."""
SHARD = RESULTS.append(pa.field("state", pa.int64()))
"""Columns of a shard: `state` tells whether the image was changed since."""
assert tuple(_TYPES)[: len(COLUMNS)] == COLUMNS


class ResultFolder:
    """A folder of bulk results.

    Args:
        place: Path or URL of the folder.

    Example:
        >>> ResultFolder("s3://hospital/results").shards()  # doctest: +SKIP
        ['part-000000-5f0c9a1b.parquet']
    """

    def __init__(self, place: str) -> None:
        self.place = without_file_protocol(place)
        self._token = secrets.token_hex(4)  # keeps shards of two runs at the same time apart
        self._next: int | None = None
        self._record: bytes | None = None

    def names(self) -> list[str]:
        """Return the names of all files and folders in the folder; none if it does not exist."""
        if not is_remote(self.place):
            folder = Path(self.place)
            return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        system, path = open_file_system(self.place)
        try:
            with errors_of(self.place):
                found = [name.rstrip("/") for name in system.ls(path, detail=False)]
        except FileNotFoundError:
            return []
        # An object store may hold an empty object with the folder's own name.
        return sorted(name.rpartition("/")[2] for name in found if name != path.rstrip("/"))

    def shards(self) -> list[str]:
        """Return the names of the shards, the latest last."""
        return [name for name in self.names() if name.startswith("part-") and name.endswith(".parquet")]

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: If it cannot be read.
        """
        if not is_remote(self.place):
            return (Path(self.place) / name).read_bytes()
        system, path = open_file_system(join_url(self.place, name))
        with errors_of(self.place):
            content: bytes = system.cat_file(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which appears whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        if not is_remote(self.place):
            with atomic_write(Path(self.place) / name) as temporary:
                temporary.write_bytes(content)
        else:
            write_remote(join_url(self.place, name), content)

    def append(self, rows: pa.Table) -> None:
        """Write a shard with some rows, see `SHARD`.

        Raises:
            FileExistsError: If another run with other options has claimed the folder since this one did.
            OSError: If it cannot be written.
        """
        if self._next is None:
            self._require_unchanged()
            self._next = 1 + max((int(name.split("-")[1]) for name in self.shards()), default=-1)
        buffer = io.BytesIO()
        pq.write_table(rows.cast(SHARD), buffer, compression="zstd")
        self.write(f"part-{self._next:06d}-{self._token}.parquet", buffer.getvalue())
        self._next += 1

    def claim(self, identity: Mapping[str, Any], threads: int) -> int:
        """Record the pipeline and options that the folder is for; if it holds results, check that they are the same.

        Args:
            identity: Pipeline and options: numbers and text by name.
            threads: Number of threads that a new run computes with.

        Returns:
            The number of threads that the results were computed with.

        Raises:
            FileExistsError: If the folder holds results of others, or something else.
            ValueError: If its record is damaged.
        """
        names = self.names()
        if not is_remote(self.place):
            remove_temporary_files(self.place)
        if RUN in names and self.shards():
            return self._require(identity)
        if others := [name for name in names if name != RUN and not name.startswith(".")]:
            raise FileExistsError(
                f"{self.place} exists and holds something other than bulk results, such as {others[0]}: choose another "
                "folder"
            )
        content = {**identity, "threads": threads, "version": pneumoseg.__version__}
        self._record = json.dumps(content, indent=2).encode() + b"\n"
        if RUN not in names or self.read(RUN) != self._record:
            self.write(RUN, self._record)
        return threads

    def _require_unchanged(self) -> None:
        """Check, before the first shard makes it final, that the record is still the one that this run wrote."""
        if self._record is not None and self.read(RUN) != self._record:
            raise FileExistsError(
                f"{self.place} was claimed by another run with other options in the meantime: choose another folder"
            )

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of each shard, the latest last.

        Raises:
            ValueError: If a shard is damaged.
        """
        schema = pa.schema([SHARD.field(name) for name in columns])

        def read(name: str) -> pa.Table:
            try:
                return pq.read_table(io.BytesIO(self.read(name)), columns=schema.names).cast(schema)
            except pa.ArrowException as error:
                raise ValueError(f"{self.place}: {name} is damaged ({error}): remove it and run again") from error

        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(read, self.shards())

    def rows(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns of the latest row of each image; `path` must be one of them.

        Raises:
            ValueError: If a shard is damaged.
        """
        schema = pa.schema([SHARD.field(name) for name in columns])
        return _latest(pa.concat_tables([schema.empty_table(), *self.tables(columns)]))

    def _require(self, identity: Mapping[str, Any]) -> int:
        try:
            recorded = json.loads(self.read(RUN))
            threads = int(recorded.pop("threads"))
            del recorded["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.place}: {RUN} is damaged ({error!r}): choose another folder") from error
        other = sorted(name for name in {*identity, *recorded} if recorded.get(name) != identity.get(name))
        if other:
            raise FileExistsError(
                f"{self.place} holds results of another pipeline or other options ({', '.join(other)}): choose another "
                "folder, or remove this one"
            )
        return threads


def read_results(out: str | Path) -> "pd.DataFrame":
    """Return the results of bulk inference, one row per image.

    Args:
        out: Folder that `pneumoseg predict --ray` wrote, local or remote.

    Returns:
        The columns of `results.csv`, see `ResultRow`; `rows` and `columns`, the size of the image in pixels, which
        `rle.decode` takes; and `pipeline_digest`. Sorted by path, folder by folder, as one process does. Missing facts
        are None, NaN or NA.

    Raises:
        FileNotFoundError: If the folder holds no bulk results.
        ValueError: If a shard is damaged.

    Example:
        >>> results = read_results("s3://hospital/results")  # doctest: +SKIP
        >>> results["has_pneumothorax"].sum()  # doctest: +SKIP
        3206
    """
    folder = ResultFolder(str(out))
    if RUN not in folder.names():
        raise FileNotFoundError(f"{out}: no results of `pneumoseg predict --ray`, it has no {RUN}")
    import pandas as pd

    # Types that keep whole numbers whole where some are missing.
    types = {pa.bool_(): pd.BooleanDtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}
    frame: pd.DataFrame = sort_by_path(folder.rows(RESULTS.names)).to_pandas(types_mapper=types.get)
    return frame


def _latest(rows: pa.Table) -> pa.Table:
    """Keep the last row of each path."""
    numbered = pa.table({"path": rows["path"], "number": np.arange(len(rows))})
    last = numbered.group_by("path").aggregate([("number", "max")])["number_max"]
    return rows if len(last) == len(rows) else rows.take(last)
