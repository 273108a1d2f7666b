"""The actor that predicts one piece of work after another, with a pipeline that it loads once."""

import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from pneumoseg.bulk.packing import unpacked
from pneumoseg.bulk.shards import RESULTS
from pneumoseg.cluster import keep_to_gpus
from pneumoseg.inference.row import ResultRow

if TYPE_CHECKING:
    from pneumoseg.inference import Result


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

    Args:
        pipeline: Reference, known to Ray, to the bytes that `packing.pack` gives.
        settings: How to compute.

    Example:
        >>> data.map_batches(Worker, fn_constructor_args=(reference, Settings()))  # doctest: +SKIP
    """

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        import ray

        _prepare_process(settings)
        from pneumoseg.inference import load_pipeline

        with unpacked(ray.get(pipeline)) as folder:
            self._pipeline = load_pipeline(
                folder, settings.batch_size, assembled=settings.assembled, engine=settings.engine
            )

    def __call__(self, work: pa.Table) -> pa.Table:
        """Predict some images.

        Args:
            work: `number`, int64, of each image in the run; `path`, its path or URL.

        Returns:
            The same `number` and all columns of `RESULTS`. A file that cannot be read gives a row with its error.
        """
        paths = work["path"].to_pylist()
        results = self._pipeline.predict_many(paths)
        rows = [_cells(result, path) for result, path in zip(results, paths, strict=True)]
        return pa.Table.from_pylist(rows, RESULTS).append_column("number", work["number"])


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
