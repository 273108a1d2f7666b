"""Messages that may quote patient data stay hidden, in all threads, and are counted."""

import logging
import threading
import warnings

import pytest

from pneumoseg.pacs.discretion import hidden_messages

LOGGERS = ["pydicom", "highdicom.seg.sop", "PIL.TiffImagePlugin"]


@pytest.mark.parametrize("name", LOGGERS)
def test_what_libraries_log_is_hidden(name, caplog):
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger(name)
    with hidden_messages():
        logger.critical("PatientName is DOE^JANE")
        logging.getLogger("pneumoseg.pacs").info("1 of 2 files")
    logger.warning("after")
    assert caplog.messages == ["1 of 2 files", "after"]


def test_warnings_of_all_threads_are_counted_by_class_and_not_shown(capfd):
    def warn(number):
        warnings.warn(f"PatientName is DOE^JANE {number}", stacklevel=1)

    with hidden_messages() as hidden:
        for number in range(3):
            thread = threading.Thread(target=warn, args=(number,))
            thread.start()
            thread.join()
        warnings.warn("PatientID", DeprecationWarning, stacklevel=1)
    assert hidden == {"UserWarning": 3, "DeprecationWarning": 1}
    assert capfd.readouterr() == ("", "")


def test_the_same_warning_counts_once():
    with hidden_messages() as hidden:
        for _ in range(3):
            warnings.warn("PatientName is DOE^JANE", stacklevel=1)
    assert hidden == {"UserWarning": 1}


def test_all_is_restored_after_an_error():
    logger = logging.getLogger("pydicom")
    level, show = logger.level, warnings.showwarning
    with pytest.raises(KeyError), hidden_messages():
        raise KeyError
    assert (logger.level, warnings.showwarning) == (level, show)
    with pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)
