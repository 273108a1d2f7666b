import os
import socket
import subprocess
import sys

import pytest

from pneumoseg.models.weights import WeightsUnavailableError, build_pretrained, check_weights, weights_errors


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_names_of_weights_pass(weights):
    assert check_weights(weights) is None


def test_a_missing_file_and_a_misspelt_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'imagnet' is neither"):
        check_weights("imagnet")
    with pytest.raises(ValueError, match="is neither 'imagenet' nor None nor an existing file"):
        check_weights(tmp_path / "none.h5")


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not a weights file.*_notop\.h5"):
        check_weights(tmp_path / "model.keras")


@pytest.mark.parametrize("failure", [TimeoutError("timed out"), ConnectionResetError("reset")])
def test_a_stalled_or_broken_download_is_unavailable(failure):
    with (
        pytest.raises(WeightsUnavailableError, match=r"xception.*weights=PATH"),
        weights_errors("imagenet", "xception"),
    ):
        raise failure


def test_a_download_leaves_the_time_limit_of_the_process_alone():
    before = socket.getdefaulttimeout()
    with weights_errors("imagenet", "xception"):
        assert socket.getdefaulttimeout() == before
    assert socket.getdefaulttimeout() == before


def test_one_process_at_a_time_downloads(tmp_path):
    """Each looks for the file, and writes it slowly if it is not there, as Keras does."""
    program = """
import os, time
from pathlib import Path
from pneumoseg.models.weights import build_pretrained
file = Path(os.environ["KERAS_HOME"], "weights.h5")

def build():
    if not file.exists():
        with open(file, "a") as out:
            for _ in range(10):
                print("part", file=out, flush=True)
                time.sleep(0.1)
    return file.read_text().count("part")

print(build_pretrained(build, "imagenet", "xception"))
"""
    command, environment = [sys.executable, "-c", program], os.environ | {"KERAS_HOME": str(tmp_path)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == ["10\n"] * 3


def test_networks_are_built_without_a_folder_of_keras(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "none"))
    assert build_pretrained(lambda: "network", "imagenet", "xception") == "network"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_an_error_that_is_not_about_weights_passes_unchanged(weights):
    error = ValueError("Input size must be at least 71x71")
    with pytest.raises(ValueError, match="at least 71") as caught, weights_errors(weights, "xception"):
        raise error
    assert caught.value is error
