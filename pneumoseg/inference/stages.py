"""Stages that work at the same time, each in its own thread, on chunks of items that stay in order."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

Stage = Callable[[Iterator[Any]], Iterable[Any]]
"""Work on the items of one chunk, which arrive one by one: yields its outputs as early as it can, in order."""


class _End(NamedTuple):
    """The last thing in a queue: the end of a chunk, or the error that ended it."""

    error: BaseException | None = None


def run_stages(
    items: Iterable[Any], read: Callable[[Any], Any], stages: Sequence[Stage], *, chunk_size: int, readers: int
) -> Iterator[Any]:
    """Read items in several threads and pass them through stages that work at the same time.

    Items are taken in the caller's thread, a chunk at a time: at most one chunk ahead of the chunk whose outputs are
    being yielded. Each stage stops before its next item when the iterator is closed, its consumer fails, or the main
    thread ends, so that a forgotten iterator does not keep the process from exiting.

    Args:
        items: What to read; may be endless.
        read: Function that is called with each item, in any thread.
        stages: What each chunk passes through, beginning with what `read` returned.
        chunk_size: Number of items per chunk.
        readers: Number of threads that read.

    Yields:
        The outputs of the last stage, in order.

    Raises:
        BaseException: Whatever `items`, `read` or a stage raises.

    Example:
        >>> def doubled(numbers):
        ...     for number in numbers:
        ...         yield 2 * number
        >>> list(run_stages(["1", "2", "3"], int, [doubled, doubled], chunk_size=2, readers=2))
        [4, 8, 12]
    """
    remaining, stopped = iter(items), threading.Event()
    threads: list[threading.Thread | None] = [None for _ in stages]  # each stage's thread for its latest chunk
    with ThreadPoolExecutor(readers) as pool:

        def start() -> SimpleQueue[Any] | None:
            reading = [pool.submit(read, item) for item in itertools.islice(remaining, chunk_size)]
            arriving: Iterator[Any] = map(Future.result, reading)
            queue: SimpleQueue[Any] | None = None
            for number, stage in enumerate(stages if reading else ()):
                queue = SimpleQueue()
                work = stage, _until(stopped, arriving), queue, threads[number]
                # Not in a pool: a process that is about to exit waits for pools before its main thread counts as ended.
                thread = threading.Thread(target=_work, args=work)
                thread.start()
                threads[number] = thread
                arriving = _received(queue)
            return queue

        try:
            started = deque([start()])
            while (queue := started.popleft()) is not None:
                started.append(start())
                yield from _received(queue)
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for last in filter(None, threads):
                last.join()


def _work(stage: Stage, items: Iterator[Any], outputs: "SimpleQueue[Any]", previous: threading.Thread | None) -> None:
    if previous is not None:
        previous.join()  # one chunk at a time, in order
    try:
        for output in stage(items):
            outputs.put(output)
    except BaseException as error:
        outputs.put(_End(error))
    else:
        outputs.put(_End())


def _received(queue: "SimpleQueue[Any]") -> Iterator[Any]:
    while not isinstance(item := queue.get(), _End):
        yield item
    if item.error is not None:
        raise item.error


def _until(stopped: threading.Event, items: Iterator[Any]) -> Iterator[Any]:
    """Yield items until nobody waits for them any more: the iterator was closed, or the process is about to exit."""
    for item in items:
        if stopped.is_set() or not threading.main_thread().is_alive():
            raise CancelledError("the iterator was closed, or the main thread has ended")
        yield item
