"""Tests of the record of an export: its round trip, and everything that must be refused."""

import hashlib
import json
from dataclasses import replace

import pytest

from pneumoseg.engines import ExportError
from pneumoseg.engines.export_record import ExportRecord, check_files, read_record, sum_files, write_record

FILES = {"classifier_1.xml": b"<net/>", "classifier_1.bin": b"weights"}
RECORD = ExportRecord(
    engine="openvino",
    precision="int8",
    networks={"classifier_1": "ab" * 32},
    facts={"classifier_1": {"name": "classifier_compact", "image_size": 64, "parameters": 7}},
    files={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    comparison={"images": 3, "largest_probability_difference": 0.001},
    versions={"openvino": "2026.4.1"},
    cpu={"name": "EPYC"},
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "openvino-int8"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    write_record(folder, RECORD)
    return folder


def edit(folder, own_sum=True, **changes):
    """Change values of a record, and by default its own checksum too, worked out as the format's description says."""
    content = json.loads((folder / "export.json").read_text()) | changes
    if own_sum:
        del content["sha256"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "export.json").write_text(json.dumps(content))


def test_a_record_comes_back_as_it_was_written(folder):
    assert read_record(folder) == RECORD
    assert json.loads((folder / "export.json").read_text())["sha256"] == RECORD.sha256
    check_files(folder, RECORD)
    assert sum_files(folder) == RECORD.files


def test_the_checksum_does_not_depend_on_the_layout_but_on_every_field(folder):
    edit(folder)
    assert read_record(folder) == RECORD
    changed = [replace(RECORD, **{name: {}}) for name in ("networks", "facts", "files", "comparison", "versions")]
    changed += [replace(RECORD, engine="onnx"), replace(RECORD, precision="float32"), replace(RECORD, cpu={})]
    assert len({record.sha256 for record in (RECORD, *changed)}) == 9


def test_hidden_files_are_ignored(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    check_files(folder, RECORD)
    assert sum_files(folder) == RECORD.files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "changed", "longer"])
def test_damaged_files_are_refused(folder, name, damage):
    path, content = folder / name, FILES[name]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content + b"x" if damage == "longer" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ExportError, match=rf"{name}.*export --engine openvino --precision int8`$"):
        check_files(folder, RECORD)


def test_an_added_file_is_refused(folder):
    (folder / "classifier_2.xml").write_bytes(b"<net/>")
    with pytest.raises(ExportError, match=r"classifier_2\.xml is not part of the export: remove it"):
        check_files(folder, RECORD)


def test_a_missing_record_is_refused(tmp_path):
    with pytest.raises(ExportError, match=rf"{tmp_path}: no export, it has no export\.json: .*`pneumoseg export`"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_record_that_is_not_json_is_refused(folder, text):
    (folder / "export.json").write_text(text)
    with pytest.raises(ExportError, match="JSON"):
        read_record(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "float32"},
        {"networks": {"classifier_1": "cd" * 32}},
        {"files": {}},
        {"comparison": {}},
        {"sha256": "ab" * 32},
    ],
)
def test_an_edited_record_is_refused(folder, changes):
    edit(folder, own_sum=False, **changes)
    with pytest.raises(ExportError, match="was changed after it was written"):
        read_record(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, and this version of pneumoseg reads 1"),
        ({"more": 1}, "expected the keys engine, precision, networks"),
        ({"engine": "keras"}, "engine and precision are keras-int8, expected one of openvino-float32, openvino-bf"),
        ({"precision": "int4"}, "engine and precision are openvino-int4, expected one of"),
        ({"engine": "onnx", "precision": "bfloat16"}, "engine and precision are onnx-bfloat16, expected one of"),
        ({"versions": []}, "must be objects"),
        ({"facts": {}}, "facts must hold name, image_size and parameters of each network"),
        ({"facts": {"classifier_1": {"name": "x", "image_size": "64", "parameters": 7}}}, "facts must hold"),
        ({"facts": {"classifier_1": {"name": "x", "image_size": 64}}}, "facts must hold"),
        ({"files": {"../spec.json": "ab" * 32}}, "files must hold the SHA-256 of each file by its name"),
        ({"files": {"classifier_1.xml": 5}}, "files must hold"),
    ],
)
def test_a_record_with_wrong_content_is_refused_even_with_a_right_checksum(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ExportError, match=message):
        read_record(folder)
