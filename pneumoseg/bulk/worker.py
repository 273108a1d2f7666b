"""The actor that predicts one piece of work after another, with a pipeline that it loads once."""

import functools
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pneumoseg.backend_errors import one_line
from pneumoseg.bulk.packing import unpacked
from pneumoseg.bulk.shards import RESULTS
from pneumoseg.cluster import keep_to_gpus
from pneumoseg.inference.row import ResultRow

if TYPE_CHECKING:
    from pneumoseg.inference import Pipeline, Result

_log = logging.getLogger(__name__)
_REMEDY = "take fewer workers per GPU, or a smaller --batch-size and another --out"
GIVEN = RESULTS.append(pa.field("number", pa.int64())).append(pa.field("failure", pa.large_string()))
"""Columns that a worker gives: `RESULTS`; the number of the image in the run; the reason if the worker has failed."""


class Settings(NamedTuple):
    """Settings of a worker.

    Attributes:
        batch_size: Images per batch.
        assembled: Whether to use the decision rule as assembled.
        engine: Engine of the networks, see `load_pipeline`.
        threads: Threads with which TensorFlow computes one operation. The last bits of its results depend on it.
        gpus: GPUs of the worker; a fraction if others use the same one.
    """

    batch_size: int = 4
    assembled: bool = False
    engine: str = "keras"
    threads: int = 1
    gpus: float = 0.0


class Worker:
    """An actor of Ray Data: takes paths, gives results.

    Errors of Python are results, too: Ray Data can either pass over all errors of a run, as over the deaths of its
    actors, or over none. For the same reason the pipeline is loaded with the first piece of work.

    Args:
        pipeline: Reference, known to Ray, to the bytes that `packing.pack` gives.
        settings: How to compute.

    Example:
        >>> data.map_batches(Worker, fn_constructor_args=(reference, Settings()))  # doctest: +SKIP
    """

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        self._reference, self._settings = pipeline, settings

    def __call__(self, work: pa.Table) -> pa.Table:
        """Predict some images.

        Args:
            work: One row: `number`, list of int64, of each image in the run; `path`, list of str, paths or URLs.

        Returns:
            One row per image with all columns of `GIVEN`. A file that cannot be read gives a row with its error. If
            the worker fails, one row with `number`, of the first image, and `failure`.
        """
        numbers, paths = (pc.list_flatten(work[name]).to_pylist() for name in ("number", "path"))
        try:
            results = self._pipeline.predict_many(paths)
            rows = [_cells(result, path) for result, path in zip(results, paths, strict=True)]
        except Exception as error:
            _log.exception("the worker has failed")
            return pa.Table.from_pylist([{"number": numbers[0], "failure": one_line(error, _REMEDY)}], GIVEN)
        return pa.Table.from_pylist([{**row, "number": n} for n, row in zip(numbers, rows, strict=True)], GIVEN)

    @functools.cached_property
    def _pipeline(self) -> "Pipeline":
        import ray

        batch_size, assembled, engine, *_ = self._settings
        _prepare_process(self._settings)
        from pneumoseg.inference import load_pipeline

        with unpacked(ray.get(self._reference)) as folder:
            return load_pipeline(folder, batch_size, assembled=assembled, engine=engine)


def _cells(result: "Result", path: str) -> dict[str, Any]:
    row = ResultRow.from_result(result, result.image_id, path)
    size = {"rows": row.shape[0], "columns": row.shape[1]} if row.error is None else {}
    return {**row.as_dict(), **size, "pipeline_digest": result.pipeline_digest}


def _prepare_process(settings: Settings) -> None:
    """Tell TensorFlow, before it is imported, how to use this machine."""
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(settings.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keep_to_gpus(settings.gpus)
    logging.getLogger("pneumoseg").setLevel(logging.WARNING)
