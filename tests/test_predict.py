"""The command `predict`, as a user types it."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pneumoseg.cli import app
from tests.conftest import write_dicom

COMMAND = Path(sys.executable).parent / "pneumoseg"
KEYS = [
    "image_id", "path", "probability", "has_pneumothorax", "area_px", "area_mm2", "spacing_source", "stage", "rle",
    "error",
]  # fmt: skip


@pytest.fixture
def images(tmp_path):
    for number in range(3):
        write_dicom(tmp_path / f"in/i{number}.dcm", np.full((48, 40), 50 * number, np.uint8))
    return tmp_path / "in"


def predict(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_all_is_well(pipeline, images, tmp_path):
    (images / "notes.txt").write_text("hello")
    result = predict(images, "--pipeline", pipeline, "--out", tmp_path / "out", "--overlays", "--probabilities")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "3 images: 3 with a pneumothorax, 0 without, 0 unreadable; 1 other files skipped\n"
        f"Look through them: {tmp_path / 'out/index.html'}\n"
    )
    assert "3/3" in result.stderr
    assert "images/s, 0:00:00 left" in result.stderr
    for kind in ("masks", "overlays", "probabilities"):
        assert sorted(path.name for path in (tmp_path / "out" / kind).iterdir()) == ["i0.png", "i1.png", "i2.png"]
    assert (tmp_path / "out/index.html").read_text().count("<li data-place") == 3


def test_a_bad_file_is_named_at_the_end_and_gives_status_one(pipeline, images, tmp_path):
    (images / "i1.dcm").write_bytes((images / "i1.dcm").read_bytes()[:-100])
    result = predict(images, "--pipeline", pipeline, "--out", tmp_path / "out", "--max-images", 1)
    assert result.exit_code == 1
    assert "2 with a pneumothorax, 0 without, 1 unreadable" in result.stdout
    (line,) = [line for line in result.stderr.splitlines() if line.startswith(str(images / "i1.dcm"))]
    with open(tmp_path / "out/results.csv", newline="") as file:
        assert line == f"{images / 'i1.dcm'}: {list(csv.DictReader(file))[1]['error']}"
    assert (tmp_path / "out/index.html").read_text().count("<li data-place") == 1


def test_json_is_one_line_per_result_with_and_without_a_folder(pipeline, images, tmp_path):
    (images / "i1.dcm").write_bytes(b"broken")
    alone = predict(images, "--pipeline", pipeline, "--json")
    both = predict(images, "--pipeline", pipeline, "--json", "--out", tmp_path / "out")
    assert [alone.exit_code, both.exit_code] == [1, 1]
    assert alone.stdout == both.stdout
    assert "1 unreadable" in alone.stderr
    lines = [json.loads(line) for line in alone.stdout.splitlines()]
    assert [list(line) for line in lines] == [KEYS] * 3
    assert [line["image_id"] for line in lines] == ["i0", "i1", "i2"]
    assert lines[0] == lines[0] | {
        "has_pneumothorax": True, "area_px": 48 * 40, "area_mm2": None, "spacing_source": None, "rle": "0 1920",
        "error": None,
    }  # fmt: skip
    assert 0 < lines[0]["probability"] < 1
    assert {key for key, value in lines[1].items() if value is not None} == {"image_id", "path", "stage", "error"}
    with open(tmp_path / "out/results.csv", newline="") as file:
        for row, line in zip(csv.DictReader(file), lines, strict=True):
            assert row == {key: "" if value is None else str(value) for key, value in line.items()}
    assert not list(tmp_path.glob("*.csv"))


def test_files_are_named_one_by_one(pipeline, images):
    shutil.copytree(images, images / "again")
    result = predict(images / "i2.dcm", images / "again/i2.dcm", images / "i2.dcm", "--pipeline", pipeline, "--json")
    assert result.exit_code == 0
    assert [json.loads(line)["image_id"] for line in result.stdout.splitlines()] == ["i2", "i2_2"]


def test_pictures_in_a_folder_of_results_are_not_predicted(pipeline, images):
    for _ in range(2):
        result = predict(images, "--pipeline", pipeline, "--out", images / "results", "--overlays")
        assert result.exit_code == 0
        assert "3 images: 3 with a pneumothorax, 0 without, 0 unreadable; 0 other files skipped" in result.stdout
    result = predict(images, "--pipeline", pipeline, "--json")
    assert [json.loads(line)["image_id"] for line in result.stdout.splitlines()] == ["i0", "i1", "i2"]


def test_what_cannot_be_opened_or_listed_gives_status_one(pipeline, images, tmp_path, monkeypatch):
    (images / "closed").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as context:
        context.setattr(os, "scandir", refuse)
        for options in (("--out", tmp_path / "out"), ("--json",)):
            with pytest.warns(UserWarning, match="closed .Permission denied"):
                result = predict(images, "--pipeline", pipeline, *options)
            assert result.exit_code == 1
    assert f"{images / 'closed'},cannot be listed (Permission denied)\n" in (tmp_path / "out/skipped.csv").read_text()
    assert predict(images, "--pipeline", pipeline, "--json").exit_code == 0
    (images / "IM4").symlink_to(tmp_path / "nowhere")
    dangling = predict(images, "--pipeline", pipeline, "--json")
    assert dangling.exit_code == 1
    assert "IM4: cannot be opened (No such file or directory)" in dangling.stderr


def test_the_rule_as_assembled_can_be_asked_for(pipeline, images, tmp_path):
    tuned = Path(shutil.copytree(pipeline, tmp_path / "tuned"))
    rule = json.loads((tuned / "pipeline.json").read_text()) | {"mask_threshold": 1.0}
    rule = {name: rule[name] for name in rule if "threshold" in name or "area" in name}
    scores = {"images": 1, "positives": 1, "mean_dice": 0, "mean_dice_before": 0, "baseline": 0}
    tuning = {"rule": rule, "scores": scores, "image_ids": ["x"], "patient_ids": []}
    (tuned / "tuning.json").write_text(json.dumps(tuning))
    assert "0 with a pneumothorax" in predict(images, "--pipeline", tuned, "--out", tmp_path / "a").stdout
    assert "3 with a" in predict(images, "--pipeline", tuned, "--out", tmp_path / "b", "--assembled").stdout
    refused = predict(images, "--pipeline", tuned, "--out", tmp_path / "a", "--assembled")
    assert "another pipeline or other options (rule)" in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{in}",), "nothing to do with the results: name a folder with --out, or print them with --json"),
        (("{in}", "--json", "--overlays"), "--overlays and --probabilities need a folder: name one with --out"),
        (("{in}/absent", "--json"), "absent: no such folder or file"),
        (("{in}/empty", "--json"), "empty: no DICOM, PNG, JPEG or TIFF file"),
        (("{in}", "--json"), "no pipeline, it has no pipeline.json"),
    ],
)
def test_mistakes_are_told_before_any_network_is_built(arguments, message, images):
    (images / "empty").mkdir()
    words = [word.replace("{in}", str(images)) for word in arguments]
    result = predict(*words, "--pipeline", images)
    assert result.stdout == ""
    assert message in str(result.exception)


def test_mistakes_end_with_status_two_and_output_in_pipes_is_clean(pipeline, images, tmp_path):
    def run(*arguments):
        return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)

    mistake = run("predict", images, "--pipeline", pipeline)
    assert (mistake.returncode, mistake.stdout) == (2, "")
    assert "Traceback" not in mistake.stderr
    fine = run("--verbose", "predict", images, "--pipeline", pipeline, "--json", "--out", tmp_path / "out")
    assert fine.returncode == 0, fine.stderr
    assert [json.loads(line)["image_id"] for line in fine.stdout.splitlines()] == ["i0", "i1", "i2"]
    of_tensorflow, _, ours = fine.stderr.partition("Device: ")
    assert of_tensorflow
    assert all(line.startswith("TensorFlow: ") for line in of_tensorflow.splitlines())
    assert "TensorFlow" not in ours
