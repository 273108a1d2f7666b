"""Folder in, folder out: the function behind `pneumoseg dicom`, and the command as a router calls it."""

import contextlib
import errno
import itertools
import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.errors import InvalidDicomError
from typer.testing import CliRunner

import pneumoseg
from pneumoseg import rle
from pneumoseg.cli import app
from pneumoseg.dicom_objects import KINDS
from pneumoseg.engines import Engine
from pneumoseg.folder_lock import locked_folder
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_with_header
from pneumoseg.inference import Result
from pneumoseg.pacs import folder as folder_module
from pneumoseg.pacs.folder import process_folder
from tests.conftest import write_dicom
from tests.pacs.fresh_home import empty_home, left_behind

DIGEST = "0123456789abcdef" * 4
PATIENT = {
    "PatientName": "QUORN^ZACHARY",
    "PatientID": "PID-7654321",
    "PatientBirthDate": "19510203",
    "PatientSex": "F",
    "PatientAge": "38",
    "AccessionNumber": "ACC998877",
    "StudyID": "STUDY42",
    "StudyDate": "20190904",
    "StudyDescription": "CHEST QUORN",
    "ReferringPhysicianName": "HOUSE^GREGORY",
    "ViewPosition": "PA",
}
COUNTS = ("files", "positive", "negative", "refused", "failed", "skipped", "unlisted", "objects")
OUTCOME = {
    "path": str,
    "state": str,
    "reason": (str, type(None)),
    "sop_instance_uid": (str, type(None)),
    "has_pneumothorax": (bool, type(None)),
    "probability": (float, type(None)),
    "area_px": (int, type(None)),
    "area_mm2": (float, type(None)),
    "spacing_source": (str, type(None)),
    "stage": (str, type(None)),
    "objects": list,
}


class FakePipeline:
    """A pipeline whose mask is the pixels above 200, and whose probability is the brightest pixel / 255."""

    chunk_size = 4
    engine = Engine("onnx", "int8", "ab")

    def __init__(self, digest=DIGEST, fails_on=(), probability=None):
        self.digest, self.fails_on, self.probability = digest, fails_on, probability

    def predict_many(self, sources):
        remaining = iter(sources)
        while chunk := list(itertools.islice(remaining, self.chunk_size)):
            if failing := [path for path in chunk if Path(path).name in self.fails_on]:
                raise RuntimeError(failing[0])
            yield from map(self._result, chunk)

    def _result(self, path):
        try:
            image, header = read_with_header(path)
        except ImageError as error:
            return Result("", math.nan, "-1", (0, 0), "error", error, path)
        mask, probability = image > 200, float(image.max()) / 255
        return Result(
            "",
            probability if self.probability is None else self.probability,
            rle.encode(mask),
            image.shape,
            "mask" if mask.any() else "segmenter",
            source=path,
            pixel_spacing=header.pixel_spacing,
            spacing_source=header.spacing_source,
            pipeline_digest=self.digest,
        )


def pixels(bright=0):
    """Return an image with so many bright pixels in its first row, and no others above 100."""
    image = np.full((32, 24), 100, np.uint8)
    image[0, :bright] = 255
    return image


def radiograph(path, number, bright=0, **elements):
    uids = {
        "StudyInstanceUID": f"1.2.840.99.1.{number}",
        "SeriesInstanceUID": f"1.2.840.99.2.{number}",
        "SOPInstanceUID": f"1.2.840.99.3.{number}",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
    }
    given = {name: value for name, value in (PATIENT | uids | elements).items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values break the standard
        write_dicom(path, pixels(bright), **given)
    if "SOPInstanceUID" in elements and elements["SOPInstanceUID"] is None:
        dataset = pydicom.dcmread(path)
        del dataset.SOPInstanceUID
        dataset.save_as(path, enforce_file_format=False)
    return path


def content(target):
    """Return result.json, which must be strict JSON."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads((target / "result.json").read_text(), parse_constant=refuse)


def objects(target):
    return sorted(path.name for path in target.iterdir() if path.name != "result.json")


def tree(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def secrets_of(folder):
    """Return the values of all headers, and the names of all files, as far as they are not ordinary words."""
    found = {part for path in folder.rglob("*") for part in path.relative_to(folder).parts}
    for path in filter(Path.is_file, folder.rglob("*")):
        with warnings.catch_warnings(), contextlib.suppress(InvalidDicomError):
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            found |= {str(element.value) for element in dataset.iterall()}
            found |= set(str(dataset.get("PatientName", "")).split("^"))
    return {value for value in found if len(value) >= 4 and re.search(r"[A-Z\d.^]", value)}


def require_no_secrets(text, folder):
    secrets = secrets_of(folder)
    assert len(secrets) > 10
    assert [value for value in secrets if value in text] == []
    assert str(folder) not in text


@pytest.fixture
def source(tmp_path):
    """Two positive images and a negative one."""
    radiograph(tmp_path / "in/a.dcm", 1, bright=5)
    radiograph(tmp_path / "in/b/b.dcm", 2)
    radiograph(tmp_path / "in/c.dcm", 3, bright=7, PixelSpacing=[10.0, 10.0])
    return tmp_path / "in"


@pytest.fixture
def mixed(source, tmp_path):
    """All kinds of files; three of them get results, of which one is positive with 5 pixels, and one with 7."""
    (source / "b/copy").write_bytes((source / "b/b.dcm").read_bytes())
    radiograph(source / "b/other.dcm", 2, bright=9)
    radiograph(source / "d/damaged.dcm", 4)
    whole = (source / "d/damaged.dcm").read_bytes()
    (source / "d/damaged.dcm").write_bytes(whole[:-200])
    radiograph(source / "d/lateral.dcm", 5, ViewPosition="LL")
    radiograph(source / "d/no_instance.dcm", 6, SOPInstanceUID=None)
    radiograph(source / "d/no_series.dcm", 7, SeriesInstanceUID=None)
    radiograph(source / "d/no_study.dcm", 8, StudyInstanceUID=None)
    radiograph(source / "d/odd_study", 9, StudyInstanceUID="1.02.QUORN")
    Image.fromarray(pixels(3)).save(source / "e.png")
    (source / "f.dcm").write_text("QUORN")
    (source / "notes.txt").write_text("QUORN")
    (source / "task.json").write_text("{}")
    (source / "1.2.3#4.5.6.tags").write_text("{}")
    radiograph(tmp_path / "other/x.dcm", 10, bright=4)
    process_folder(tmp_path / "other", tmp_path / "made", FakePipeline())
    for file in content(tmp_path / "made")["files"][0]["objects"]:
        shutil.copy(tmp_path / "made" / file["file"], source / f"own_{file['kind']}")
    return source


MIXED = {
    "a.dcm": ("done", True, 5),
    "b/b.dcm": ("done", False, 0),
    "b/copy": ("refused", "RefusedError: has the same SOP Instance UID as another file"),
    "b/other.dcm": ("refused", "RefusedError: has the same SOP Instance UID as another file"),
    "c.dcm": ("done", True, 7),
    "d/damaged.dcm": ("refused", "DamagedError: is cut short or contradicts itself"),
    "d/lateral.dcm": ("refused", "RefusedError: is a lateral view"),
    "d/no_instance.dcm": ("refused", "RefusedError: has no valid SOP Instance UID"),
    "d/no_series.dcm": ("refused", "RefusedError: has no valid Series Instance UID"),
    "d/no_study.dcm": ("refused", "RefusedError: has no valid Study Instance UID"),
    "d/odd_study": ("refused", "RefusedError: has no valid Study Instance UID"),
    "e.png": ("refused", "NotAnImageError: is not a DICOM image"),
    "f.dcm": ("refused", "NotAnImageError: is not a DICOM image"),
    "own_sc": ("refused", "OwnObjectError: was made by pneumoseg itself"),
}


def test_each_file_of_a_mixed_folder_has_a_result_or_a_stated_refusal(mixed, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    before = tree(mixed)
    result = process_folder(mixed, tmp_path / "out", FakePipeline())
    assert result.is_complete
    told = content(tmp_path / "out")
    assert [file["path"] for file in told["files"]] == list(MIXED)
    for file in told["files"]:
        state, *expected = MIXED[file["path"]]
        assert file["state"] == state
        if state == "done":
            assert [file["has_pneumothorax"], file["area_px"]] == expected
            assert [each["kind"] for each in file["objects"]] == (["seg", "sr", "sc"] if expected[0] else ["sr", "sc"])
        else:
            assert [file["reason"]] == expected
    assert told["counts"] == dict(zip(COUNTS, (14, 2, 1, 11, 0, 5, 0, 8), strict=True))
    assert {file["path"]: file["reason"] for file in told["skipped"]} == {
        "1.2.3#4.5.6.tags": "is not an image",
        "notes.txt": "is not an image",
        "own_seg": "is not an image (Segmentation)",
        "own_sr": "is not an image (Comprehensive 3D SR)",
        "task.json": "is not an image",
    }
    lines = [record.getMessage() for record in caplog.records if record.name == "pneumoseg.pacs.folder"]
    refused = [(number, *rest[1:]) for number, rest in enumerate(MIXED.values(), start=1) if rest[0] == "refused"]
    assert lines == [f"file {number} of 14 refused: {reason}" for number, reason in refused]
    require_no_secrets(caplog.text + "".join(capfd.readouterr()), mixed)
    assert tree(mixed) == before


def test_objects_belong_to_their_study_and_are_named_after_their_uids(source, tmp_path):
    process_folder(source, tmp_path / "out", FakePipeline())
    told = content(tmp_path / "out")
    modalities = {"seg": "SEG", "sr": "SR", "sc": "OT"}
    named = []
    for number, file in enumerate(told["files"], start=1):
        # b/b.dcm comes second in both orders.
        assert file["sop_instance_uid"] == f"1.2.840.99.3.{number}"
        for each in file["objects"]:
            dataset = pydicom.dcmread(tmp_path / "out" / each["file"])
            assert each["file"] == f"{dataset.SeriesInstanceUID}#{dataset.SOPInstanceUID}.dcm"
            assert (each["series_instance_uid"], each["sop_instance_uid"]) == (
                dataset.SeriesInstanceUID,
                dataset.SOPInstanceUID,
            )
            assert dataset.StudyInstanceUID == f"1.2.840.99.1.{number}"
            assert (str(dataset.PatientName), dataset.PatientID) == ("QUORN^ZACHARY", "PID-7654321")
            assert dataset.Modality == modalities[each["kind"]]
            named.append(each["file"])
    assert objects(tmp_path / "out") == sorted(named)
    assert len(set(named)) == 8


def test_the_json_has_one_layout_for_all_files(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(pneumoseg, "__version__", "7.8.9")
    process_folder(mixed, tmp_path / "out", FakePipeline(), ["sc", "sr"], strict=True)
    told = content(tmp_path / "out")
    assert list(told) == [
        "schema", "note", "version", "pipeline", "engine", "kinds", "strict", "complete", "counts", "hidden_warnings",
        "files", "skipped",
    ]  # fmt: skip
    assert (told["schema"], told["pipeline"], told["kinds"], told["strict"]) == (1, DIGEST, ["sr", "sc"], True)
    assert told["engine"] == {"name": "onnx", "precision": "int8", "sha256": "ab"}
    assert {pydicom.dcmread(path).SoftwareVersions for path in tmp_path.glob("out/*.dcm")} == {"7.8.9"}
    assert told["version"] == "7.8.9"
    assert "Research only" in told["note"]
    assert told["complete"] is True
    for file in told["files"]:
        assert list(file) == list(OUTCOME)
        assert all(isinstance(file[name], kinds) for name, kinds in OUTCOME.items())
        for each in file["objects"]:
            assert list(each) == ["kind", "file", "series_instance_uid", "sop_instance_uid"]


def test_facts_are_those_of_the_result(source, tmp_path):
    process_folder(source, tmp_path / "out", FakePipeline())
    first, _, third = content(tmp_path / "out")["files"]
    assert (first["probability"], first["area_px"], first["area_mm2"], first["stage"]) == (1.0, 5, None, "mask")
    assert first["spacing_source"] is None
    # 7 pixels of 10 mm x 10 mm; the longer side of the image, 320 mm, can show a chest.
    assert (third["area_px"], third["area_mm2"], third["spacing_source"]) == (7, 700.0, "PixelSpacing")


def test_without_a_classifier_there_is_no_probability(source, tmp_path):
    process_folder(source, tmp_path / "out", FakePipeline(probability=math.nan))
    assert [file["probability"] for file in content(tmp_path / "out")["files"]] == [None] * 3


@pytest.mark.parametrize(("kinds", "count"), [(("seg",), 2), (("sr",), 3), (("sc", "seg"), 5), (KINDS, 8)])
def test_only_the_kinds_that_are_asked_for_are_written(kinds, count, source, tmp_path):
    result = process_folder(source, tmp_path / "out", FakePipeline(), kinds)
    assert result.counts["objects"] == len(objects(tmp_path / "out")) == count
    written = {each.kind for outcome in result.outcomes for each in outcome.objects}
    assert written == set(kinds)


def test_the_same_command_again_gives_the_same_names_and_leaves_nothing_else(source, tmp_path):
    process_folder(source, tmp_path / "out", FakePipeline())
    first, told = objects(tmp_path / "out"), content(tmp_path / "out")
    (tmp_path / "out" / f".{first[0]}.12345.0123abcd").write_bytes(b"left by a killed process")
    process_folder(source, tmp_path / "out", FakePipeline())
    assert objects(tmp_path / "out") == first
    assert content(tmp_path / "out") == told
    process_folder(source, tmp_path / "out", FakePipeline(), ["sr"])
    assert set(objects(tmp_path / "out")) < set(first)
    assert len(objects(tmp_path / "out")) == 3


def test_more_images_may_come_and_another_pipeline_gives_other_names(source, tmp_path):
    process_folder(source, tmp_path / "out", FakePipeline())
    first = objects(tmp_path / "out")
    radiograph(source / "b/a.dcm", 4)
    process_folder(source, tmp_path / "out", FakePipeline())
    assert set(first) < set(objects(tmp_path / "out"))
    assert len(objects(tmp_path / "out")) == 10
    process_folder(source, tmp_path / "other", FakePipeline("f" * 64))
    assert not set(objects(tmp_path / "other")) & set(objects(tmp_path / "out"))


def test_a_stopped_run_has_no_result_json_and_the_next_run_finishes(source, tmp_path, monkeypatch):
    process_folder(source, tmp_path / "whole", FakePipeline())
    process_folder(source, tmp_path / "out", FakePipeline())
    make, calls = Result.to_dicom, []

    def stop(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(self, *arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(Result, "to_dicom", stop)
        with pytest.raises(KeyboardInterrupt):
            process_folder(source, tmp_path / "out", FakePipeline())
    assert len(objects(tmp_path / "out")) == 5
    assert not (tmp_path / "out/result.json").exists()
    process_folder(source, tmp_path / "out", FakePipeline())
    assert objects(tmp_path / "out") == objects(tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", ["notes.txt", "1.2.3#4.5.6.dcm", "ward", "result.json"])
def test_other_content_of_the_output_folder_is_never_touched(name, source, tmp_path):
    target = tmp_path / "out"
    if name == "ward":
        radiograph(target / "ward/x.dcm", 11)
    elif name.endswith("dcm"):
        radiograph(target / name, 11)  # named as mercure names images
    else:
        target.mkdir()
        (target / name).write_text('{"files": []}')
    before = tree(target)
    with pytest.raises(FileExistsError, match="that this command did not write: name another") as caught:
        process_folder(source, target, FakePipeline())
    assert tree(target) == before
    assert str(tmp_path) not in str(caught.value)


def test_results_of_other_images_or_another_pipeline_are_never_replaced(source, tmp_path):
    process_folder(source, tmp_path / "out", FakePipeline())
    before = tree(tmp_path / "out")
    with pytest.raises(FileExistsError, match="holds results of another pipeline: name another folder"):
        process_folder(source, tmp_path / "out", FakePipeline("f" * 64))
    (source / "a.dcm").rename(source / "aa.dcm")
    with pytest.raises(FileExistsError, match="holds results of 1 files that are not in the input folder"):
        process_folder(source, tmp_path / "out", FakePipeline())
    assert tree(tmp_path / "out") == before


OTHER_RUNS = {"pipeline": ["a.dcm", "b/b.dcm", "c.dcm"], "paths": ["x.dcm"], "instances": ["a.dcm", "b/b.dcm", "c.dcm"]}


@pytest.mark.parametrize(
    ("difference", "left", "message"),
    [
        ("pipeline", "all", "results of another pipeline"),
        ("pipeline", "objects", "9 objects of another pipeline or of images"),
        ("pipeline", "one object", "1 objects of another pipeline or of images"),
        ("paths", "all", "results of 1 files that are not in the input folder"),
        ("paths", "objects", "3 objects of another pipeline or of images"),
        ("paths", "one object", "1 objects of another pipeline or of images"),
        ("instances", "all", "9 objects of another pipeline or of images"),
        ("instances", "objects", "9 objects of another pipeline or of images"),
        ("instances", "one object", "1 objects of another pipeline or of images"),
    ],
)
def test_objects_of_another_run_are_never_removed(difference, left, message, source, tmp_path):
    """All that is left of the other run, its objects alone, or one of them among the results of this run."""
    target = tmp_path / "out"
    for number, name in enumerate(OTHER_RUNS[difference], start=1 if difference == "pipeline" else 11):
        radiograph(tmp_path / "other" / name, number, bright=4)
    process_folder(tmp_path / "other", target, FakePipeline("f" * 64 if difference == "pipeline" else DIGEST))
    if left == "objects":
        (target / "result.json").unlink()
    if left == "one object":
        stray = target.rename(tmp_path / "elsewhere") / objects(tmp_path / "elsewhere")[0]
        process_folder(source, target, FakePipeline())
        shutil.copy(stray, target)
    before = tree(target)
    with pytest.raises(FileExistsError, match=f"the output folder holds {message}") as caught:
        process_folder(source, target, FakePipeline())
    assert tree(target) == before
    assert str(tmp_path) not in str(caught.value)
    assert "#" not in str(caught.value)


def test_objects_of_the_same_run_are_replaced_without_a_result_json(source, tmp_path):
    process_folder(source, tmp_path / "out", FakePipeline())
    names = objects(tmp_path / "out")
    (tmp_path / "out/result.json").unlink()
    assert process_folder(source, tmp_path / "out", FakePipeline(), ["sr"]).counts["objects"] == 3
    assert set(objects(tmp_path / "out")) < set(names)


def test_a_pipe_in_the_output_folder_is_not_waited_for(source, tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out/1.2.3#4.5.6.dcm")
    with pytest.raises(FileExistsError, match="holds 1 files or folders that this command did not write"):
        process_folder(source, tmp_path / "out", FakePipeline())


@pytest.mark.parametrize("target", ["in", "in/out", "link"])
def test_the_output_folder_must_lie_outside_the_input_folder(target, source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(ValueError, match="the output folder is the input folder or lies in it"):
        process_folder(source, tmp_path / target, FakePipeline())


def test_a_folder_around_the_input_folder_holds_other_content(source, tmp_path):
    with pytest.raises(FileExistsError, match="holds 1 files or folders that this command did not write"):
        process_folder(source, tmp_path, FakePipeline())


def test_an_unexpected_error_of_a_file_is_told_by_its_class_and_the_others_go_on(source, tmp_path, monkeypatch, caplog):
    for number in range(4, 12):
        radiograph(source / f"z{number:02}.dcm", number)
    make = Result.to_dicom

    def break_down(self, *arguments, **options):
        if Path(self.source).name == "c.dcm":
            raise KeyError("QUORN^ZACHARY")
        return make(self, *arguments, **options)

    monkeypatch.setattr(Result, "to_dicom", break_down)
    result = process_folder(source, tmp_path / "out", FakePipeline(fails_on={"z05.dcm"}))
    assert not result.is_complete
    assert content(tmp_path / "out")["complete"] is False
    states = {outcome.path: outcome.state for outcome in result.outcomes}
    assert list(states) == ["a.dcm", "b/b.dcm", "c.dcm", *(f"z{number:02}.dcm" for number in range(4, 12))]
    assert {path for path, state in states.items() if state != "done"} == {"c.dcm", "z05.dcm"}
    assert [line for line in caplog.messages if "failed" in line] == [
        "file 3 of 11 failed: KeyError",
        "file 5 of 11 failed: RuntimeError",
    ]
    # a: 3 objects; b and seven of the eight others: 2 each.
    assert result.counts["objects"] == len(objects(tmp_path / "out")) == 3 + 2 * 8


@pytest.mark.parametrize("chunk", [1, 4, 99])
def test_the_first_sound_file_of_an_image_gets_the_results(chunk, tmp_path, monkeypatch):
    """A damaged and an unlucky file come first, then a sound one and a spare; another image lies between them."""
    source = tmp_path / "in"
    for name in ("a.dcm", "c.dcm", "e.dcm", "f.dcm"):
        radiograph(source / name, 1, bright=5)
    (source / "a.dcm").write_bytes((source / "f.dcm").read_bytes()[:-200])
    radiograph(source / "b.dcm", 2)
    (source / "d.dcm").write_bytes((source / "b.dcm").read_bytes())
    monkeypatch.setattr(FakePipeline, "chunk_size", chunk)
    result = process_folder(source, tmp_path / "out", FakePipeline(fails_on={"c.dcm"}))
    twice = "RefusedError: has the same SOP Instance UID as another file"
    assert [(outcome.path, outcome.state, outcome.reason) for outcome in result.outcomes] == [
        ("a.dcm", "refused", "DamagedError: is cut short or contradicts itself"),
        ("b.dcm", "done", None),
        ("c.dcm", "failed", "RuntimeError"),
        ("d.dcm", "refused", twice),
        ("e.dcm", "done", None),
        ("f.dcm", "refused", twice),
    ]
    assert len(objects(tmp_path / "out")) == 5


def test_nothing_of_a_file_is_written_if_one_of_its_objects_cannot_be_encoded(source, tmp_path, monkeypatch):
    make = Result.to_dicom

    def spoil(self, *arguments, **options):
        made = make(self, *arguments, **options)
        if Path(self.source).name == "a.dcm":
            made["sc"].Rows = "QUORN"
        return made

    monkeypatch.setattr(Result, "to_dicom", spoil)
    result = process_folder(source, tmp_path / "out", FakePipeline())
    assert [outcome.state for outcome in result.outcomes] == ["failed", "done", "done"]
    assert len(objects(tmp_path / "out")) == 5


def test_a_file_that_cannot_be_opened_has_failed(source, tmp_path):
    (source / "dangling.dcm").symlink_to(tmp_path / "nowhere")
    result = process_folder(source, tmp_path / "out", FakePipeline())
    assert (result.outcomes[3].state, result.outcomes[3].reason) == (
        "failed",
        "ImageError: cannot be opened (No such file or directory)",
    )
    assert not result.is_complete


@pytest.mark.parametrize("name", ["pipe.dcm", "socket.png", "device.dcm"])
def test_a_pipe_a_socket_and_a_device_are_refused_whatever_their_names(name, source, tmp_path, monkeypatch):
    monkeypatch.chdir(source)  # the address of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        if name == "pipe.dcm":
            os.mkfifo(name)
        elif name == "socket.png":
            server.bind(name)
        else:
            os.symlink(os.devnull, name)
        result = process_folder(source, tmp_path / "out", FakePipeline())
    last = result.outcomes[3]
    assert (last.path, last.state, last.reason) == (name, "refused", "RefusedError: is not a regular file")
    assert result.is_complete


def test_a_folder_that_cannot_be_listed_makes_the_result_incomplete(source, tmp_path, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = process_folder(source, tmp_path / "out", FakePipeline())
    assert result.counts == dict(zip(COUNTS, (2, 2, 0, 0, 0, 1, 1, 6), strict=True))
    assert not result.is_complete
    assert content(tmp_path / "out")["skipped"] == [{"path": "b", "reason": "cannot be listed (Permission denied)"}]


@pytest.mark.parametrize("last", [2, 9])
def test_a_full_disk_stops_the_run_without_a_result_json(last, source, tmp_path, monkeypatch):
    """The third object is the first file's last, and the ninth file that is written is result.json."""
    write, calls = folder_module.atomic_write, []

    def fill(path):
        calls.append(path)
        if len(calls) == last:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path)

    with monkeypatch.context() as context:
        context.setattr(folder_module, "atomic_write", fill)
        done = {2: 0, 9: 3}[last]
        text = rf"cannot be written \(No space left on device\), stopped after {done} of 3 files"
        with pytest.raises(OSError, match=text) as caught:
            process_folder(source, tmp_path / "out", FakePipeline())
    assert str(tmp_path) not in str(caught.value)
    assert "#" not in str(caught.value)
    assert len(objects(tmp_path / "out")) == last - 1
    assert not (tmp_path / "out/result.json").exists()
    process_folder(source, tmp_path / "out", FakePipeline())
    assert len(objects(tmp_path / "out")) == 8


def test_files_are_read_as_they_are_needed(source, tmp_path, monkeypatch):
    for number in range(4, 10):
        radiograph(source / f"z{number:02}.dcm", number)
    read, write, events = folder_module.read_source, folder_module.atomic_write, []
    monkeypatch.setattr(folder_module, "read_source", lambda path: events.append("read") or read(path))
    monkeypatch.setattr(folder_module, "atomic_write", lambda path: events.append("write") or write(path))
    process_folder(source, tmp_path / "out", FakePipeline())
    assert events.index("write") == FakePipeline.chunk_size
    assert events.count("read") == 9


def test_a_folder_without_images_is_no_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/task.json").write_text("{}")
    result = process_folder(tmp_path / "in", tmp_path / "out", FakePipeline())
    assert result.is_complete
    assert content(tmp_path / "out")["counts"] == dict.fromkeys(COUNTS, 0) | {"skipped": 1}


def test_the_input_folder_may_be_read_only_and_the_output_folder_may_exist(source, tmp_path):
    (tmp_path / "out").mkdir()
    for path in (*source.rglob("*"), source):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree(source)
    assert process_folder(source, tmp_path / "out", FakePipeline()).counts["objects"] == 8
    assert tree(source) == before


def test_a_name_that_is_not_utf_8_is_escaped(source, tmp_path):
    os.rename(os.fsencode(source / "a.dcm"), os.fsencode(source) + b"/\xe9.dcm")
    process_folder(source, tmp_path / "out", FakePipeline())
    last = content(tmp_path / "out")["files"][2]
    assert (last["path"], last["state"]) == ("\\udce9.dcm", "done")


def test_warnings_are_counted_and_not_shown(source, tmp_path, capfd):
    radiograph(source / "elongated.dcm", 4, PixelSpacing=[1.0, 9.0])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = process_folder(source, tmp_path / "out", FakePipeline())
    assert result.hidden["UserWarning"] >= 1
    assert content(tmp_path / "out")["hidden_warnings"] == dict(result.hidden)
    assert capfd.readouterr() == ("", "")


def test_two_processes_never_write_one_folder(source, tmp_path):
    (tmp_path / "out").mkdir()
    text = "is being written by another process"
    with locked_folder(tmp_path / "out", "written"), pytest.raises(FileExistsError, match=text) as caught:
        process_folder(source, tmp_path / "out", FakePipeline())
    assert str(tmp_path) not in str(caught.value)


def test_a_pipeline_without_a_digest_and_unknown_kinds_are_mistakes(source, tmp_path):
    with pytest.raises(ValueError, match="the pipeline has no digest"):
        process_folder(source, tmp_path / "out", FakePipeline(""))
    with pytest.raises(ValueError, match="kinds are pdf, expected some of seg, sr, sc"):
        process_folder(source, tmp_path / "out", FakePipeline(), ["pdf"])
    with pytest.raises(FileNotFoundError, match="the input folder does not exist"):
        process_folder(source / "absent", tmp_path / "out", FakePipeline())
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="the output folder is a file"):
        process_folder(source, tmp_path / "file", FakePipeline())
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_not_named(source, tmp_path):
    (tmp_path / "file").write_text("")
    text = r"^the output folder cannot be written \(Not a directory\), stopped before the first file without"
    with pytest.raises(OSError, match=text):
        process_folder(source, tmp_path / "file/out", FakePipeline())


PAIRS = {
    "mercure": ("MERCURE_IN_DIR", "MERCURE_OUT_DIR"),
    "holoscan": ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"),
    "monai": ("MONAI_INPUTPATH", "MONAI_OUTPUTPATH"),
}


@pytest.fixture
def dicom(tmp_path, monkeypatch):
    """The command, with the fake pipeline, without variables of the environment."""
    for name in itertools.chain(*PAIRS.values(), ["KERAS_HOME", "MPLCONFIGDIR"]):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pneumoseg.inference.load_pipeline", lambda *_, **__: FakePipeline())
    (tmp_path / "p").mkdir()
    (tmp_path / "p/pipeline.json").write_text("{}")

    def run(*arguments, pipeline="p"):
        words = ["dicom", *map(str, arguments), "--pipeline", str(tmp_path / pipeline)]
        return CliRunner().invoke(app, words)

    return run


def test_the_command_counts(dicom, mixed, tmp_path):
    result = dicom(mixed, tmp_path / "out")
    assert result.exit_code == 0, result.exception
    assert result.stdout == (
        "14 files: 2 with a pneumothorax, 1 without, 11 refused, 0 failed; 5 others skipped; 8 objects written\n"
    )
    assert "Folders" not in result.stderr
    assert len(objects(tmp_path / "out")) == 8


def test_an_unexpected_failure_gives_status_one(dicom, source, tmp_path, monkeypatch):
    (source / "dangling.dcm").symlink_to(tmp_path / "nowhere")
    result = dicom(source, tmp_path / "out", "--objects", "sr")
    assert result.exit_code == 1
    assert "1 failed" in result.stdout
    assert len(objects(tmp_path / "out")) == 3


@pytest.mark.parametrize("first", range(3))
def test_the_environment_names_the_folders_in_a_fixed_order(first, dicom, source, tmp_path, monkeypatch):
    pairs = list(PAIRS.values())
    for number, (given, wanted) in enumerate(pairs[first:]):
        monkeypatch.setenv(given, str(tmp_path / "absent" if number else source))
        monkeypatch.setenv(wanted, str(tmp_path / f"out{number}"))
    for name in itertools.chain(*pairs[:first]):
        monkeypatch.setenv(name, "")
    result = dicom()
    assert result.exit_code == 0, result.exception
    assert f"Folders: {pairs[first][0]} and {pairs[first][1]}\n" in result.stderr
    assert len(objects(tmp_path / "out0")) == 8
    assert not (tmp_path / "out1").exists()


def test_arguments_come_before_the_environment(dicom, source, tmp_path, monkeypatch):
    for name in itertools.chain(*PAIRS.values()):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    assert dicom(source, tmp_path / "out").exit_code == 0
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ((), {}, "no folders to work on: name IN and OUT, or set MERCURE_IN_DIR and MERCURE_OUT_DIR, or HOLOSCAN"),
        (("{in}",), {}, "got one folder, expected two"),
        ((), {"MERCURE_IN_DIR": "x"}, "MERCURE_IN_DIR is set and MERCURE_OUT_DIR is not"),
        ((), {"MONAI_OUTPUTPATH": "x"}, "MONAI_OUTPUTPATH is set and MONAI_INPUTPATH is not"),
        (("{in}/absent", "{out}"), {}, "the input folder does not exist"),
        (("{in}", "{in}/out"), {}, "the output folder is the input folder or lies in it"),
        (("{in}", "{out}", "--objects", "seg,pdf"), {}, "--objects names 'pdf': expected some of seg,sr,sc"),
        (("{in}", "{out}", "--objects", ""), {}, "--objects names '': expected some of seg,sr,sc"),
    ],
)
def test_mistakes_are_told_in_one_line_without_a_path(
    arguments, environment, message, dicom, source, tmp_path, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    words = [word.replace("{in}", str(source)).replace("{out}", str(tmp_path / "out")) for word in arguments]
    result = dicom(*words)
    assert isinstance(result.exception, ValueError | OSError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert str(tmp_path) not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_missing_pipeline_and_a_missing_extra_are_told_first(dicom, source, tmp_path, monkeypatch):
    assert "no pipeline, it has no pipeline.json" in str(dicom(source, tmp_path / "out", pipeline="absent").exception)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    missing = dicom(source, tmp_path / "out", pipeline="absent")
    assert str(missing.exception) == "this command needs highdicom: pip install 'pneumoseg[dicom]'"


def test_a_real_process_may_be_killed_and_run_again(pipeline, source, tmp_path):
    """It leaves nothing in the home folder and in the folder of temporary files."""
    for number in range(4, 16):
        radiograph(source / f"z{number:02}.dcm", number)
    environment = empty_home(tmp_path)
    environment |= {"MERCURE_IN_DIR": str(source), "MERCURE_OUT_DIR": str(tmp_path / "out")}
    command = [sys.executable, "-m", "pneumoseg", "dicom", "--pipeline", str(pipeline)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob("out/*.dcm")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/result.json").exists()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    told = content(tmp_path / "out")
    assert told["counts"] == dict(zip(COUNTS, (15, 15, 0, 0, 0, 0, 0, 45), strict=True))
    names = {each["file"] for file in told["files"] for each in file["objects"]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"result.json"}
    assert left_behind(environment) == []
    require_no_secrets(finished.stdout + finished.stderr, source)
