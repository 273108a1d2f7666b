"""Jobs in processes of their own: what a log gets, what a reason says, and that no process is left over."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pneumoseg.training.jobs import Job, here, in_turn


def job(folder, name, code):
    return Job(name, folder / name / "log.txt", partial(exec, code))


def test_one_after_the_other_and_a_failure_ends_none(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", logger="pneumoseg")
    codes = {
        "error": "raise ValueError('no masks')",
        "bug": "{}['absent']",
        "killed": "import signal; signal.raise_signal(signal.SIGKILL)",
        "ended": "import os; os._exit(3)",
        "good": "import logging; print('trained'); logging.getLogger('pneumoseg.x').info('said'); open('file', 'w')",
    }
    failures = in_turn([job(Path("runs"), name, code) for name, code in codes.items()])
    assert failures == {
        "error": "no masks",
        "bug": "KeyError: 'absent'",
        "killed": "its process was killed by SIGKILL, which is often for want of memory",
        "ended": "its process ended with status 3",
    }
    assert (tmp_path / "runs/good/log.txt").read_text() == "trained\nsaid\n"
    assert "ValueError: no masks" in (tmp_path / "runs/error/log.txt").read_text()
    assert (tmp_path / "file").exists()
    assert "good: started, 5 of 5" in caplog.text
    assert "good: finished" in caplog.text


def test_a_log_is_continued(tmp_path):
    for text in ("first", "second"):
        assert in_turn([job(tmp_path, "a", f"print('{text}')")]) == {}
    assert (tmp_path / "a/log.txt").read_text() == "first\nsecond\n"


def test_a_job_needs_its_folder(tmp_path):
    gone = Job("a", tmp_path / "a/log.txt", print, str(tmp_path / "absent"))
    assert in_turn([gone]).keys() == {"a"}
    assert "absent" in in_turn([gone])["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file in place of a folder")
def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a").write_text("a file")
    assert "File exists" in in_turn([job(tmp_path, "a", "print('never')")])["a"]


def test_here_the_first_error_ends_all(tmp_path):
    done = []
    jobs = [Job("a", tmp_path, lambda: done.append("a")), Job("b", tmp_path, partial(int, "x"))]
    with pytest.raises(ValueError, match="invalid literal"):
        here([*jobs, Job("c", tmp_path, lambda: done.append("c"))])
    assert done == ["a"]
    assert here(jobs[:1]) == {}


_DRIVER = """
import signal
from functools import partial
from pathlib import Path
from pneumoseg.training.jobs import Job, in_turn
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background command ignores it
work = "import os, time; print(os.getpid()); time.sleep(600)"
if __name__ == "__main__":
    in_turn([Job("a", Path("log.txt"), partial(exec, work))])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_job_ends_with_the_process_that_started_it(end, tmp_path):
    (tmp_path / "driver.py").write_text(_DRIVER)
    driver = subprocess.Popen([sys.executable, "driver.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    log = tmp_path / "log.txt"
    while driver.poll() is None and not (log.exists() and log.read_text().endswith("\n")):
        time.sleep(0.01)
    process = int(log.read_text())
    driver.send_signal(end)
    driver.wait(timeout=60)
    while _is_alive(process):
        time.sleep(0.01)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
