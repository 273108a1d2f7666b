"""Tests that files appear whole or not at all."""

import os

import pytest

from pneumoseg.atomic_write import atomic_write, remove_temporary_files


def test_appears_when_written(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_others_may_read_it_as_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "file.txt") as temporary:
            temporary.write_text("whole")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == mode


def test_two_threads_may_write_one_file(tmp_path):
    with atomic_write(tmp_path / "file.txt") as one, atomic_write(tmp_path / "file.txt") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file.txt").read_text() == "one"  # the outer block ends last
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def interrupted():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_files_that_a_killed_process_left_are_removed_and_no_others(tmp_path):
    names = [".a.png.123.0123abcd", "a.png", ".hidden", ".a.png.123.xyz", "b.123.0123abcd"]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/.a.png.123.0123abcd").write_text("x")
    remove_temporary_files(tmp_path)
    remove_temporary_files(tmp_path / "absent")
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], "inside"}
    assert (tmp_path / "inside/.a.png.123.0123abcd").exists()
