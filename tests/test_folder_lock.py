"""The lock of a folder."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError

import pytest

from pneumoseg.folder_lock import locked_folder


def test_a_folder_is_locked_once_and_free_again_afterwards(tmp_path):
    again = locked_folder(tmp_path, "trained")
    with locked_folder(tmp_path, "written"), pytest.raises(FileExistsError, match="being trained by another process"):
        again.__enter__()
    with locked_folder(tmp_path, "written"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_work_is_not_taken_for_another_process(tmp_path):
    with pytest.raises(BlockingIOError, match="work"), locked_folder(tmp_path, "written"):
        raise BlockingIOError("work")


def test_whoever_waits_gets_the_folder_once_it_is_free(tmp_path):
    def work():
        with locked_folder(tmp_path, "changed", wait=True):
            return "done"

    with ThreadPoolExecutor(1) as pool:
        with locked_folder(tmp_path, "written"):
            waiting = pool.submit(work)
            with pytest.raises(NotDoneError):
                waiting.result(0.2)
        assert waiting.result(10) == "done"
