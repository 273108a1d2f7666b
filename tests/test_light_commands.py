"""Packages that a command without networks must not import, because they take long and it does not use them."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import write_dicom

NETWORKS = {"tensorflow", "keras", "segmentation_models", "openvino", "onnxruntime"}
FIGURES = {"matplotlib", "albumentations", "cv2", "skimage"}
STATISTICS = {"sklearn", "scipy"}
TABLES = {"numpy", "pandas", "pydicom", "PIL"}
SCRIPT = """
import sys
from pneumoseg.cli import main
sys.argv = ["pneumoseg", *sys.argv[1:]]
try:
    main()
finally:
    print("imported", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "status", "unused"),
    [
        (["--version"], 0, NETWORKS | FIGURES | STATISTICS | TABLES),
        (["validate-submission", "s.csv", "--expected", "rle.csv"], 0, NETWORKS | FIGURES | STATISTICS),
        (["index", "in", "rle.csv", "--out", "m.csv"], 0, NETWORKS | FIGURES | STATISTICS),
        # Without their inputs these end after what they import.
        (["show-masks", "--manifest", "absent", "--out", "o.png"], 2, NETWORKS | STATISTICS | {"albumentations"}),
        (["evaluate", "--predictions", "absent", "--pipeline", "absent"], 2, NETWORKS | {"albumentations", "cv2"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_command_imports_only_what_it_uses(arguments, status, unused, tmp_path):
    write_dicom(tmp_path / "in/i0.dcm", np.zeros((32, 32), np.uint8))
    for name in ("rle.csv", "s.csv"):
        (tmp_path / name).write_text("ImageId,EncodedPixels\ni0,-1\n")
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert finished.returncode == status, finished.stderr
    imported = set(finished.stderr.rpartition("imported ")[2].split())
    assert "pneumoseg" in imported
    assert imported & unused == set()
