"""Packages that a command without networks must not import, because they take long and it does not use them."""

import numpy as np
import pytest

from tests.commands import run_command
from tests.conftest import write_dicom

NETWORKS = {"tensorflow", "keras", "segmentation_models", "openvino", "onnxruntime"}
FIGURES = {"matplotlib", "albumentations", "cv2", "skimage"}
STATISTICS = {"sklearn", "scipy"}
TABLES = {"numpy", "pandas", "pydicom", "PIL"}


@pytest.mark.parametrize(
    ("arguments", "status", "unused"),
    [
        (["--version"], 0, NETWORKS | FIGURES | STATISTICS | TABLES),
        (["validate-submission", "s.csv", "--expected", "rle.csv"], 0, NETWORKS | FIGURES | STATISTICS),
        (["index", "in", "rle.csv", "--out", "m.csv"], 0, NETWORKS | FIGURES | STATISTICS),
        # Without their inputs these end after what they import.
        (["show-masks", "--manifest", "absent.csv", "--out", "o.png"], 2, NETWORKS | STATISTICS | {"albumentations"}),
        (["evaluate", "--predictions", "absent", "--pipeline", "absent"], 2, NETWORKS | {"albumentations", "cv2"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_command_imports_only_what_it_uses(arguments, status, unused, tmp_path):
    write_dicom(tmp_path / "in/i0.dcm", np.zeros((32, 32), np.uint8))
    for name in ("rle.csv", "s.csv"):
        (tmp_path / name).write_text("ImageId,EncodedPixels\ni0,-1\n")
    finished, imported = run_command(*arguments, cwd=tmp_path)
    assert finished.returncode == status, finished.stderr
    assert "pneumoseg" in imported
    assert imported & unused == set()
