"""Progress bar with a rate and the time left, on the standard error stream."""

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


class _RateColumn(ProgressColumn):
    """The mean rate since the start, since results come in bursts, and the time left at this rate."""

    def render(self, task: Task) -> Text:
        """Return the text, which is empty until the first images are done."""
        if not task.completed or not task.elapsed or task.total is None:
            return Text("")
        rate = task.completed / task.elapsed
        left = datetime.timedelta(seconds=round((task.total - task.completed) / rate))
        return Text(f"{rate:.2f} images/s, {left} left")


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar while the context lasts.

    Args:
        total: Number of images.
        shown: Whether to show it.

    Yields:
        A function that is called with the number of images that were done since the last call.

    Example:
        >>> with progress_bar(2, shown=False) as advance:
        ...     advance(2)
    """
    columns = TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), _RateColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not (shown and total)) as progress:
        task = progress.add_task("Predicting", total=total)
        yield lambda count: progress.advance(task, count)
