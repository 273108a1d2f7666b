"""Log of a service: one line per event with its time, free of patient data."""

import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

_DISCREET = ("pneumoseg.pacs.", "pneumoseg.device.", "pneumoseg.engines.exports.", "pneumoseg.inference.folder.")
"""Loggers whose lines hold no value from a file. All others may quote names, UIDs and paths."""
_log = logging.getLogger(__name__)


class EventLog(logging.Handler):
    """Handler that lets only the lines of discreet loggers through and counts the others, and all warnings.

    An error that nobody caught is told by its class: its traceback and its text may quote values of a file.

    Attributes:
        hidden: Numbers of lines and warnings that were not shown, by the name of the logger or of the warning's class.

    Example:
        >>> log = EventLog()
        >>> log.handle(logging.makeLogRecord({"name": "pydicom", "msg": "Invalid value DOE^JANE"}))
        True
        >>> log.hidden
        Counter({'pydicom': 1})
    """

    def __init__(self) -> None:
        """Write to the standard error stream."""
        super().__init__()
        self.hidden: Counter[str] = Counter()
        self._lines = logging.StreamHandler()
        self._lines.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def install(self) -> None:
        """Let all logs, warnings and uncaught errors of the process end here.

        To be called again after libraries were imported that bring handlers of their own.
        """
        logging.raiseExceptions = False  # a line that cannot be formatted would be shown with its values
        root = logging.getLogger()
        root.handlers[:] = [self]
        logging.getLogger("pneumoseg").setLevel(logging.INFO)
        for name in list(logging.root.manager.loggerDict):
            logging.getLogger(name).handlers.clear()
        warnings.simplefilter("always")
        warnings.showwarning = self._count_warning  # type: ignore[assignment]  # its names do not matter
        sys.excepthook = self.tell_class
        threading.excepthook = lambda args: self.tell_class(args.exc_type)
        sys.unraisablehook = lambda args: self.tell_class(args.exc_type)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line of a discreet logger, without any traceback; count all others."""
        if f"{record.name}.".startswith(_DISCREET):
            record.exc_info = record.exc_text = record.stack_info = None
            self._lines.handle(record)
        else:
            self._hide(record.name)

    def sum_up(self, counts: Mapping[str, int]) -> None:
        """Write a line of counts, and how many messages were not shown."""
        known = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no images"
        _log.info(f"stopped: {known}; {sum(self.hidden.values())} messages and warnings not shown")

    @staticmethod
    def tell_class(error: type[BaseException], _value: object = None, _traceback: TracebackType | None = None) -> None:
        """Write a line about an error that was not caught; a hook of the interpreter."""
        _log.critical(f"an error was not expected: {error.__name__}")

    def _hide(self, name: str) -> None:
        if not self.hidden[name]:
            _log.info(f"messages of {name} are not shown, because they may quote patient data")
        self.hidden[name] += 1

    def _count_warning(self, _message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        self._hide(category.__name__)
