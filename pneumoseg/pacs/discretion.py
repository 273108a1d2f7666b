"""Discretion of the console: no message of a library that may quote a name, a UID or a path."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_INDISCREET = ("PIL", "highdicom", "pydicom")
"""Loggers that quote values of headers."""


@contextmanager
def hidden_messages() -> Iterator[Counter[str]]:
    """Hide what libraries log about files, and all warnings, while the context lasts, in all threads.

    The libraries quote values of headers, and the warnings of pneumoseg name files.

    Yields:
        The number of warnings so far, by the name of their class. Python shows a warning with the same text from the
        same line once, so it counts once.

    Example:
        >>> with hidden_messages() as hidden:
        ...     warnings.warn("PatientName is DOE^JANE")
        >>> hidden
        Counter({'UserWarning': 1})
    """
    hidden: Counter[str] = Counter()

    def count(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        hidden[category.__name__] += 1

    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in _INDISCREET}
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = count
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield hidden
        finally:
            for logger, level in loggers.items():
                logger.setLevel(level)
