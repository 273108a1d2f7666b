"""What reaches stderr while TensorFlow starts: a stand-in for TensorFlow writes to it as C++ code does."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pneumoseg.stderr_filter import is_kept
from pneumoseg.tensorflow_log import _FIRST_USES, log_lines_kept

CUDART = "I0000 00:00:1795699861.770440    7963 cudart_stub.cc:31] Could not find cuda drivers on your machine"
CUINIT = "E0000 00:00:1795699871.768475    7963 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: "
ABSL = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"


@pytest.fixture
def run(tmp_path):
    """Return a function that runs code whose `import tensorflow` runs other code, as `write` lines of C++."""
    package = tmp_path / "tensorflow"
    (package / "python").mkdir(parents=True)
    (package / "python/__init__.py").touch()

    def run(code, importing="", listing="", stderr=subprocess.PIPE):
        (package / "__init__.py").write_text(f"import os, sys\n{importing}")
        (package / "python/pywrap_tfe.py").write_text(f"import os\ndef TF_ListPhysicalDevices(): {listing or 'pass'}\n")
        environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
        }
        command = [sys.executable, "-c", f"import os, sys\n{code}"]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment, timeout=60, check=False
        )

    return run


def write(*lines):
    return f"os.write(2, {os.linesep.join([*lines, '']).encode()})"


@pytest.mark.parametrize(
    "line",
    [
        ABSL,
        CUDART,
        CUINIT + "Failed call to cuInit: UNKNOWN ERROR (303)",
        CUINIT + "Failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
        "W1126 13:30:51.123456    7963 gpu_device.cc:2341] Cannot dlopen some GPU libraries.",
        "2026-11-26 13:30:51.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.",
        "2026-11-26 13:30:51.123456: W tensorflow/core/util/port.cc:153] AVX2",
        "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the appropriate "
        "compiler flags.",
    ],
)
def test_log_lines_of_tensorflow_are_kept(line):
    assert is_kept(line.encode())
    assert is_kept(line.encode() + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "I am a line of another library",
        "WARNING: the manifest is empty",
        "Progress 50%" + CUDART,
        CUINIT + "Failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: the driver does not fit",
        "E0000 00:00:1795699871.768475    7963 cuda_dnn.cc:52] Could not create cudnn handle",
        "F0000 00:00:1795699871.768475    7963 cpu_feature_guard.cc:90] The TensorFlow library was compiled to use AVX",
        "2026-11-26 13:30:51.123456: E tensorflow/core/util/port.cc:153] failed",
        "2026-11-26 13:30:51.123456: F tensorflow/core/util/port.cc:153] failed",
    ],
)
def test_errors_and_the_lines_of_others_are_not_kept(line):
    assert not is_kept(line.encode())


IMPORTING = write(ABSL, "one", CUDART, "two") + "; print('three', file=sys.stderr); os.write(2, b'four ')"


def test_only_log_lines_are_kept_while_tensorflow_is_imported_and_first_lists_devices(run):
    line = CUINIT + "UNKNOWN ERROR (303)"
    finished = run(
        "import pneumoseg, tensorflow.python.pywrap_tfe as wrapper\n"
        "wrapper.TF_ListPhysicalDevices()\n"
        "wrapper.TF_ListPhysicalDevices()",
        importing=IMPORTING,
        listing=write(line, "five"),
    )
    # The second listing is no longer part of the start.
    assert finished.stderr == f"one\ntwo\nthree\nfour five\n{line}\nfive\n"
    assert finished.returncode == 0


def test_what_was_kept_is_logged(run):
    finished = run(
        "import logging, pneumoseg\n"
        "logging.basicConfig(format='%(name)s %(levelname)s %(message)s', level=logging.DEBUG)\n"
        "import tensorflow",
        importing=IMPORTING,
    )
    logged = "".join(f"pneumoseg.tensorflow_log DEBUG TensorFlow: {line}\n" for line in (ABSL, CUDART))
    assert finished.stderr == f"one\ntwo\nthree\nfour {logged}"


def test_tensorflow_that_was_imported_before_is_left_alone(run):
    code = "import tensorflow, pneumoseg, tensorflow.python.pywrap_tfe as wrapper\nwrapper.TF_ListPhysicalDevices()"
    assert run(code, write(CUDART), write(CUDART)).stderr == f"{CUDART}\n{CUDART}\n"
    assert run(code + "\nprint(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))").stdout == "None\n"


def test_looking_for_tensorflow_does_not_use_up_the_filter(run):
    code = "import importlib.util, pneumoseg\nimportlib.util.find_spec('tensorflow')\nimport tensorflow"
    assert run(code, write(CUDART)).stderr == ""


def test_absent_tensorflow_is_an_import_error(run):
    finished = run("import pneumoseg; sys.path[:] = []\nimport tensorflow")
    assert "ModuleNotFoundError: No module named 'tensorflow'" in finished.stderr


def test_error_in_the_import_keeps_its_traceback(run):
    finished = run("import pneumoseg, tensorflow", write(CUDART, "one") + "\nraise ImportError('no AVX')")
    assert finished.stderr.startswith("one\nTraceback (most recent call last):\n")
    assert finished.stderr.endswith("ImportError: no AVX\n")
    assert finished.returncode == 1


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("faulthandler.enable(); os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os._exit(3)", 3),
    ],
)
def test_nothing_is_lost_in_a_crash(run, end, status):
    fatal = "F0000 00:00:1795699871.768475 7 cpu_feature_guard.cc:90] compiled to use AVX"
    finished = run("import pneumoseg, tensorflow", f"import faulthandler, signal; {write(CUDART, 'one', fatal)}; {end}")
    lines = finished.stderr.splitlines()
    assert lines[:2] == ["one", fatal]
    assert lines[-1] == CUDART
    assert ("Fatal Python error: Segmentation fault" in lines) == ("faulthandler" in end)
    assert finished.returncode == status


def test_process_that_was_started_meanwhile_can_write_to_the_end(run):
    child = "import os, sys; sys.stdin.read(); os.write(2, b'late\\n')"
    finished = run(
        "import pneumoseg, tensorflow\nprint('ready', file=sys.stderr)\ntensorflow.child.communicate()",
        f"import subprocess; child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE)",
    )
    assert finished.stderr == "ready\nlate\n"


def test_lines_of_another_thread_pass(run):
    finished = run(
        "import threading, pneumoseg\n"
        "stop = threading.Event()\n"
        "def count():\n"
        "    number = 0\n"
        "    while not stop.is_set():\n"
        "        number += 1; os.write(2, b'%d\\n' % number)\n"
        "    print(number)\n"
        "thread = threading.Thread(target=count); thread.start()\n"
        "import tensorflow\n"
        "stop.set(); thread.join()",
        write(CUDART),
    )
    assert sorted(map(int, finished.stderr.split())) == list(range(1, int(finished.stdout) + 1))


@pytest.mark.parametrize("executable", ["", "/absent", sys.executable.replace("python", "absent"), "/bin/true"])
def test_where_no_filter_can_be_started_all_lines_appear(run, executable):
    assert run(f"import pneumoseg; sys.executable = {executable!r}\nimport tensorflow", write(CUDART)).stderr == (
        f"{CUDART}\n"
    )


def test_closed_stderr_stays_closed(run):
    code = "os.close(2)\nimport pneumoseg, tensorflow\ntry: os.fstat(2)\nexcept OSError: print('closed')"
    assert run(code, importing="print('imported')").stdout == "imported\nclosed\n"


def test_stderr_may_be_a_file_or_a_terminal(run, tmp_path):
    code = "import pneumoseg, tensorflow\nprint(os.isatty(2)); os.write(2, b'last\\n')"
    with open(tmp_path / "stderr", "w+") as file:
        assert run(code, IMPORTING, stderr=file).stdout == "False\n"
        file.seek(0)
        assert file.read() == "one\ntwo\nthree\nfour last\n"
    ours, theirs = os.openpty()
    assert run(code, IMPORTING, stderr=theirs).stdout == "True\n"
    assert os.read(ours, 1000) == b"one\r\ntwo\r\nthree\r\nfour last\r\n"
    os.close(ours)
    os.close(theirs)


def test_capture_of_a_test_is_respected(capfd, caplog):
    with caplog.at_level(logging.DEBUG, "pneumoseg"), log_lines_kept():
        os.write(2, f"one\n{CUDART}\n".encode())
        with log_lines_kept():
            os.write(2, f"two\n{CUDART}\n".encode())
    os.write(2, b"three\n")
    assert capfd.readouterr().err == "one\ntwo\nthree\n"
    assert caplog.messages == [f"TensorFlow: {CUDART}"] * 2


def test_installed_tensorflow_has_the_functions_that_reach_for_devices():
    from tensorflow.python import pywrap_tfe

    assert all(callable(getattr(pywrap_tfe, name)) for name in _FIRST_USES)
