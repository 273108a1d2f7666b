"""Tests that commands on an export import no TensorFlow, and nothing else that is heavy and not needed."""

import json
import shutil

import numpy as np
import pytest

from tests.commands import run_command
from tests.conftest import write_dicom
from tests.engines.exports import write_export

HEAVY = {"tensorflow", "keras", "sklearn", "skimage", "matplotlib", "highdicom", "torch"}


@pytest.fixture
def folder(pipeline, tmp_path):
    """Return a folder with a pipeline that has exports, and an image with one bright pixel."""
    shutil.copytree(pipeline, tmp_path / "p")
    write_export(tmp_path / "p", "openvino")
    write_export(tmp_path / "p", "onnx")
    image = np.zeros((32, 32), np.uint8)
    image[5, 6] = 255
    write_dicom(tmp_path / "in/1.dcm", image)
    return tmp_path


def run(*arguments):
    """Run a command that succeeds; return its output and the names of the packages that it imported."""
    finished, imported = run_command(*arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, imported


@pytest.mark.parametrize(("engine", "library"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_predict_prints_a_result_without_heavy_imports(folder, engine, library):
    options = ("--pipeline", folder / "p", "--engine", engine, "--json")
    text, imported = run("predict", folder / "in/1.dcm", *options)
    row = json.loads(text)
    assert (row["probability"], row["area_px"]) == (1, 1)
    assert library in imported
    assert not imported & {*HEAVY, "pandas"}


def test_predict_writes_a_folder_without_tensorflow(folder):
    options = ("--pipeline", folder / "p", "--engine", "openvino", "--out", folder / "out")
    _, imported = run("predict", folder / "in", *options)
    assert "OpenVINO, float32" in (folder / "out/index.html").read_text()
    # The outline on the page needs scikit-image.
    assert not imported & (HEAVY - {"skimage"})


def test_submit_imports_nothing_heavy(folder):
    options = ("--pipeline", folder / "p", "--engine", "openvino", "--out", folder / "s.csv")
    _, imported = run("submit", folder / "in", *options)
    assert len((folder / "s.csv").read_text().splitlines()) == 2
    assert not imported & HEAVY
