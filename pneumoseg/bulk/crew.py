"""The workers of a run at work: pieces go to actors of Ray Data, and results come back as they are ready."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from types import ModuleType

_RETRIES = 2  # most further workers that get a piece of work after one has died on it
_LOGGERS = "ray", "ray.data"


@dataclass(frozen=True)
class Crew:
    """Actors of one class, which do one piece of work after another.

    A worker that dies is replaced. A piece of work on which several have died is lost: it gives no results.

    Attributes:
        ray: The module, connected.
        worker: Class of the actors. It is called with a table of one row, whose cells are lists: the columns of one
            piece. So Ray Data, which cuts work by rows, never cuts or joins pieces.
        arguments: Arguments of the class.
        number: Number of actors.
        options: CPUs and GPUs of each, see `find_room`.

    Example:
        >>> crew = Crew(ray, Worker, (reference, settings), 2, {"num_cpus": 1, "num_gpus": 0})  # doctest: +SKIP
        >>> with crew.work(pieces, ahead=1) as results:  # doctest: +SKIP
        ...     rows = pa.concat_tables(results)  # doctest: +SKIP
    """

    ray: "ModuleType"
    worker: type
    arguments: tuple[Any, ...]
    number: int
    options: Mapping[str, float]

    @contextlib.contextmanager
    def work(
        self, pieces: Sequence[pa.Table], *, ahead: int, most_lost: int | None = None
    ) -> "Iterator[Iterator[pa.Table]]":
        """Start the work, and stop it at the end of the context.

        Args:
            pieces: The pieces of work, with one row per image.
            ahead: Number of pieces that wait for a worker while it does another one. If it dies, they count as pieces
                on which a worker has died, too.
            most_lost: Number of lost pieces with which the work goes on; None for any number.

        Yields:
            The results of each piece that is not lost, in the order in which they are ready, which raise `RayError` if
            more pieces are lost or Ray fails.
        """
        with _settings_of_ray(self.ray, -1 if most_lost is None else most_lost):
            # `from_arrow` would run a task for each piece, which takes a CPU of the cluster, before the workers start.
            items = [{name: piece[name].to_pylist() for name in piece.column_names} for piece in pieces]
            work = self.ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                self.worker,
                fn_constructor_args=self.arguments,
                batch_size=1,
                batch_format="pyarrow",
                compute=self.ray.data.ActorPoolStrategy(
                    size=min(self.number, len(pieces)), max_tasks_in_flight_per_actor=1 + ahead
                ),
                max_restarts=-1,
                max_task_retries=_RETRIES,
                **self.options,
            )
            yield work.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextlib.contextmanager
def _settings_of_ray(ray: "ModuleType", most_lost: int) -> Iterator[None]:
    """Set what Ray Data knows only as settings of the whole process, and restore it."""
    context = ray.data.DataContext.get_current()
    wanted = {"max_errored_blocks": most_lost, "enable_progress_bars": False, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in wanted}
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the run tells what goes wrong
        with warnings.catch_warnings():
            # Before 2.64 nothing else limits the retries.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", DeprecationWarning)
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
