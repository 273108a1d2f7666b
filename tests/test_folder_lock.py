"""The lock of a folder."""

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
