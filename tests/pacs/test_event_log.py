"""The log of a service."""

import logging
import subprocess
import sys

import pytest

from pneumoseg.pacs.event_log import EventLog

SCRIPT = """
import logging, sys, threading, warnings
logging.getLogger("chatty").addHandler(logging.StreamHandler())
from pneumoseg.pacs.event_log import EventLog
log = EventLog()
log.install()
ours = logging.getLogger("pneumoseg.pacs.service")
logging.getLogger("chatty").error("SECRET")
logging.getLogger("pydicom").warning("SECRET")
logging.getLogger("pneumoseg.dicom").warning("SECRET")
ours.info("KEY out")
ours.info("%d", "SECRET")
try:
    raise KeyError("SECRET")
except KeyError:
    ours.exception("KEY failed")
for _ in range(3):
    warnings.warn("SECRET")

class Dying:
    def __del__(self):
        raise TypeError("SECRET")

Dying()

def die():
    raise ValueError("SECRET")

thread = threading.Thread(target=die)
thread.start()
thread.join()
log.sum_up({"received": 2})
raise RuntimeError("SECRET")
"""


def test_nothing_but_discreet_lines_reaches_the_log():
    finished = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "SECRET" not in finished.stderr
    times, lines = zip(*[(line[:19], line[24:]) for line in finished.stderr.splitlines()], strict=True)
    assert [len(time.split(":")) for time in times] == [3] * len(lines)
    assert list(lines) == [
        "INFO messages of chatty are not shown, because they may quote patient data",
        "INFO messages of pydicom are not shown, because they may quote patient data",
        "INFO messages of pneumoseg.dicom are not shown, because they may quote patient data",
        "INFO KEY out",
        "ERROR KEY failed",
        "INFO messages of UserWarning are not shown, because they may quote patient data",
        "CRITICAL an error was not expected: TypeError",
        "CRITICAL an error was not expected: ValueError",
        "INFO stopped: 2 received; 6 messages and warnings not shown",
        "CRITICAL an error was not expected: RuntimeError",
    ]


@pytest.mark.parametrize(
    ("name", "hidden"), [("pneumoseg.pacs", 0), ("pneumoseg.pacs.spool", 0), ("pneumoseg.pacsy", 1)]
)
def test_loggers_are_known_by_their_whole_names(name, hidden, capsys):
    log = EventLog()
    log.handle(logging.makeLogRecord({"name": name, "msg": "text"}))
    assert sum(log.hidden.values()) == hidden
