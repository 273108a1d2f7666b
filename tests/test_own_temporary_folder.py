"""Temporary folders of processes, some of which are killed."""

import signal
import socket
import subprocess
import sys

import pytest

from pneumoseg.own_temporary_folder import OwnTemporaryFolder

pytest.importorskip("fcntl")
OTHER = """
import sys
from pneumoseg.own_temporary_folder import OwnTemporaryFolder
folder = OwnTemporaryFolder()
(folder.path / "file").write_text("large")
print(folder.path.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_the_folder_of_a_killed_process_goes_with_the_next_and_those_in_use_stay():
    command = [sys.executable, "-c", OTHER]
    killed, alive = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    names = [process.stdout.readline().strip() for process in (killed, alive)]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    own = OwnTemporaryFolder()
    assert {path.name for path in own.path.parent.iterdir()} == {own.path.name, names[1]}
    assert (own.path.parent / names[1] / "file").read_text() == "large"
    alive.communicate()
    own.remove()
    own.remove()
    assert [path.name for path in own.path.parent.iterdir()] == [names[1]]


def test_other_users_cannot_read_it(temporary):
    folder = OwnTemporaryFolder()
    assert folder.path.parent.parent == temporary
    assert folder.path.parent.name.endswith(socket.gethostname())  # another machine may not see who uses it
    assert folder.path.parent.stat().st_mode & 0o077 == 0
    folder.remove()
