"""Folders of results: what they hold, and that a stopped run goes on to the same folder."""

import csv
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pneumoseg
from pneumoseg.decision import DecisionRule
from pneumoseg.engines import Engine
from pneumoseg.folder_lock import locked_folder
from pneumoseg.inference import Pipeline
from pneumoseg.overlay import draw_over
from pneumoseg.results import write_results
from pneumoseg.results.names import unique_names
from pneumoseg.results.pictures import Pictures
from tests.conftest import write_dicom
from tests.networks import brightest, identity

SIZE = 64
RULE = DecisionRule(classifier_threshold=0.5, mask_threshold=0.75, minimum_area=0)
HEADER = "image_id,path,probability,has_pneumothorax,area_px,area_mm2,spacing_source,stage,rle,error"


@pytest.fixture(scope="module")
def pipeline():
    """Chunks of 8 images."""
    return Pipeline([brightest(SIZE)], [identity(SIZE)], RULE, batch_size=1)


def picture(value=0, height=0, width=0, shape=(SIZE, SIZE)):
    image = np.full(shape, 20, np.uint8)
    image[5 : 5 + height, 7 : 7 + width] = value
    return image


def write_images(folder, count, first=0):
    """Write images of which every third has a block of 9 x 5 pixels."""
    for number in range(first, first + count):
        write_dicom(folder / f"i{number:02}.dcm", picture(255 if number % 3 == 0 else 60, 9, 5))
    return folder


def content(folder):
    """Bytes of each file, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(folder, name):
    return [row[name] for row in table(folder)]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def spied(pipeline, monkeypatch):
    """Names of the files that a pipeline was run on."""
    seen, original = [], Pipeline.predict_many

    def predict_many(self, sources, **options):
        return original(self, (seen.append(Path(source).name) or source for source in sources), **options)

    monkeypatch.setattr(Pipeline, "predict_many", predict_many)
    return seen


def test_each_image_has_a_row_and_a_mask(pipeline, tmp_path):
    folder = tmp_path / "in"
    write_dicom(folder / "a.dcm", picture(255, 10, 6), PixelSpacing=[5.0, 5.0])  # 64 x 5 mm = 320 mm
    write_dicom(folder / "b.dcm", picture(255, 10, 6), ImagerPixelSpacing=[0.14, 0.14])  # 9 mm: not believed
    write_dicom(folder / "c.dcm", picture(100, 10, 6))
    write_dicom(folder / "d.dcm", picture(150, 10, 6), ImagerPixelSpacing=[4.0, 4.0])
    (folder / "e.dcm").write_bytes((folder / "a.dcm").read_bytes()[:-500])
    (folder / "notes.txt").write_text("hello")
    results = write_results(pipeline, folder, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.csv", "masks", "index.html", "skipped.csv", ".progress.jsonl",
    }  # fmt: skip
    text = (tmp_path / "out/results.csv").read_text()
    assert text.startswith(HEADER + "\n")
    a, b, c, d, e = table(tmp_path / "out")
    # Columns of 10 pixels, from row 5 of column 7 on: 7 * 64 + 5, then 54 pixels between them.
    code = "453 10" + " 54 10" * 5
    assert a == {
        "image_id": "a", "path": str(folder / "a.dcm"), "probability": "1.0", "has_pneumothorax": "True",
        "area_px": "60", "area_mm2": "1500.0", "spacing_source": "PixelSpacing", "stage": "mask", "rle": code,
        "error": "",
    }  # fmt: skip
    assert (b["area_px"], b["area_mm2"], b["spacing_source"]) == ("60", "", "ImagerPixelSpacing")
    assert (c["has_pneumothorax"], c["area_px"], c["area_mm2"], c["stage"], c["rle"]) == (
        "False", "0", "", "classifier", "-1",
    )  # fmt: skip
    assert float(c["probability"]) == pytest.approx(100 / 255)
    assert (d["area_px"], d["area_mm2"], d["spacing_source"], d["stage"]) == (
        "0", "0.0", "ImagerPixelSpacing", "segmenter",
    )  # fmt: skip
    assert {name for name, value in e.items() if value} == {"image_id", "path", "stage", "error"}
    assert (e["image_id"], e["stage"]) == ("e", "error")
    assert "\n" not in e["error"]
    assert [(row.path, row.error) for row in results.errors] == [(e["path"], e["error"])]
    for name, expected in (("a", picture(255, 10, 6) == 255), ("c", np.zeros((SIZE, SIZE), bool))):
        mask = pixels(tmp_path / f"out/masks/{name}.png")
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, 255 * expected)
    assert sorted(path.stem for path in (tmp_path / "out/masks").iterdir()) == ["a", "b", "c", "d"]
    skipped = (tmp_path / "out/skipped.csv").read_text()
    assert skipped.startswith(f"path,reason\n{folder / 'notes.txt'},")


def test_images_of_every_kind_in_one_folder(pipeline, tmp_path):
    image, folder = picture(255, 10, 6), tmp_path / "in"
    write_dicom(folder / "suffix.dcm", image)
    write_dicom(folder / "deep/no_suffix", image)
    Image.fromarray(image).save(folder / "grey.png")
    Image.fromarray(image.astype(np.uint16) * 257).save(folder / "deep/sixteen.tiff")
    secondary = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    colours = np.repeat(image[..., None], 3, axis=2).tobytes()
    write_dicom(folder / "screenshot.DCM", image, **secondary, PixelData=colours)
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.png").write_bytes((folder / "grey.png").read_bytes()[:100])
    results = write_results(pipeline, [folder], tmp_path / "out")
    assert [row.image_id for row in results.errors] == ["broken"]
    assert [path.name for path, _ in results.skipped] == ["notes.txt"]
    readable = [row for row in results.rows if row.error is None]
    assert {row.image_id for row in readable} == {"suffix", "no_suffix", "grey", "sixteen", "screenshot"}
    for row in readable:
        np.testing.assert_array_equal(pixels(tmp_path / f"out/masks/{row.image_id}.png") == 255, image == 255)


def test_overlays_and_probabilities_are_on_the_images_own_grid(pipeline, tmp_path):
    images = {"a": picture(255, 10, 6), "b": picture(100, 10, 6, (32, 16))}
    for name, image in images.items():
        write_dicom(tmp_path / f"in/{name}.dcm", image)
    write_results(pipeline, tmp_path / "in", tmp_path / "plain")
    write_results(pipeline, tmp_path / "in", tmp_path / "out", overlays=True, probabilities=True)
    assert (tmp_path / "plain/results.csv").read_bytes() == (tmp_path / "out/results.csv").read_bytes()
    np.testing.assert_array_equal(pixels(tmp_path / "out/probabilities/a.png"), images["a"])
    # Also for an image that the classifier does not pass on; enlarged and made small again, it keeps its flat parts.
    prob_map = pixels(tmp_path / "out/probabilities/b.png")
    assert prob_map.shape == (32, 16)
    assert (prob_map[7:13, 9:11] == 100).all()
    assert (prob_map[20:] == 20).all()
    np.testing.assert_array_equal(pixels(tmp_path / "out/overlays/b.png"), images["b"])  # grey without an outline
    overlay = pixels(tmp_path / "out/overlays/a.png")
    rim = (overlay == (230, 159, 0)).all(axis=2)
    # One pixel around a block of 10 x 6, without the corners.
    expected = np.zeros((SIZE, SIZE), bool)
    expected[4:16, 7:13] = expected[5:15, 6:14] = True
    expected[5:15, 7:13] = False
    np.testing.assert_array_equal(rim, expected)
    np.testing.assert_array_equal(overlay[~rim], np.repeat(images["a"][~rim][:, None], 3, axis=1))


def test_outline_of_a_mask_that_fills_the_image():
    image = np.full((8, 8), 50, np.uint8)
    np.testing.assert_array_equal(draw_over(image, np.ones((8, 8), bool)), np.full((8, 8, 3), 50))


def test_pixels_that_are_not_square(pipeline, tmp_path):
    """An image of 64 x 32 pixels, twice as wide as high, is a square of 320 x 320 mm."""
    image = np.full((64, 32), 20, np.uint8)
    image[10:30, 8:16] = 255
    write_dicom(tmp_path / "in/a.dcm", image, PixelSpacing=[5.0, 10.0])
    results = write_results(pipeline, tmp_path / "in", tmp_path / "out", overlays=True, probabilities=True)
    mask = pixels(tmp_path / "out/masks/a.png")
    # The rows fit the network's grid. The columns are doubled and halved, and 255 next to 20 gives 3/4 * 255 + 1/4 * 20
    # and the reverse on the fine grid; their means with 255 and 20 are above and below the threshold of 191.
    np.testing.assert_array_equal(mask, np.where(image == 255, 255, 0))
    assert results.rows[0].area_px == 160
    assert results.rows[0].area_mm2 == 160 * 50
    assert pixels(tmp_path / "out/overlays/a.png").shape == (64, 32, 3)
    assert pixels(tmp_path / "out/probabilities/a.png").shape == (64, 32)
    assert 'viewBox="0 0 208 208"' in (tmp_path / "out/index.html").read_text()


@pytest.mark.parametrize(
    ("paths", "kept", "names"),
    [
        (["a/x.png", "b/x.dcm"], {}, ["x", "x_2"]),
        (["a/x.png", "b/X.dcm", "c/x.dcm"], {}, ["x", "X_2", "x_3"]),
        (["a/x.png", "b/x.dcm", "c/x_2.dcm"], {}, ["x", "x_3", "x_2"]),
        (["a/x.png", "b/x.dcm", "c/X_2.dcm"], {}, ["x", "x_3", "X_2"]),
        (["a/x.png", "b/x.dcm"], {"b/x.dcm": "x"}, ["x_2", "x"]),
        (["a/x_2.png", "b/x.dcm", "c/x.dcm"], {"b/x.dcm": "x", "c/x.dcm": "x_2"}, ["x_2_2", "x", "x_2"]),
        (["a/caf\u00e9.png", "b/cafe\u0301.png"], {}, ["caf\u00e9", "caf\u00e9_2"]),
        ([f"a/{'é' * 150}.png", f"b/{'é' * 101}.png"], {}, ["é" * 100, "é" * 100 + "_2"]),
    ],
)
def test_no_two_images_have_the_same_name(paths, kept, names):
    assert list(unique_names(paths, kept).items()) == list(zip(paths, names, strict=True))


def test_names_are_those_of_the_first_free_numbers():
    """As if each number from 2 on were tried for each image."""
    stems = ["1-1", "1-1_2", "1-1", "1-1_3", "1-1_2", "1-1_2_2", "A", "a", "a_2", "A_2", "1-1"] * 4
    paths = [f"{number}/{stem}.dcm" for number, stem in enumerate(stems)]
    kept = {paths[0]: "1-1_5", paths[6]: "a_4", "gone/1-1.dcm": "1-1"}
    reserved, taken, expected = {stem.casefold() for stem in stems}, {name.casefold() for name in kept.values()}, []
    for path, stem in zip(paths, stems, strict=True):
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        free = (name for name in numbered if name.casefold() not in taken | reserved)
        expected.append(kept.get(path) or (stem if stem.casefold() not in taken else next(free)))
        taken.add(expected[-1].casefold())
    assert list(unique_names(paths, kept).values()) == expected


def test_images_of_one_id_do_not_overwrite_each_other(pipeline, tmp_path):
    for name, width in (("a/x", 3), ("b/X", 4), ("c/x_2", 5)):
        write_dicom(tmp_path / f"in/{name}.dcm", picture(255, 10, width))
    write_results(pipeline, tmp_path / "in", tmp_path / "out")
    assert column(tmp_path / "out", "image_id") == ["x", "X_3", "x_2"]
    assert [int(pixels(tmp_path / f"out/masks/{name}.png").sum()) // 255 for name in ("x", "X_3", "x_2")] == [
        30,
        40,
        50,
    ]


def test_names_are_kept_when_inputs_are_added(pipeline, tmp_path):
    write_dicom(tmp_path / "in/b/x.dcm", picture(255, 10, 3))
    write_results(pipeline, tmp_path / "in", tmp_path / "out")
    write_dicom(tmp_path / "in/a/x.dcm", picture(255, 10, 4))
    write_results(pipeline, tmp_path / "in", tmp_path / "out")
    assert column(tmp_path / "out", "image_id") == ["x_2", "x"]
    assert column(tmp_path / "out", "area_px") == ["40", "30"]


def test_a_name_that_is_not_utf8_is_a_row_with_its_error(pipeline, tmp_path):
    write_images(tmp_path / "in", 1)
    bad = os.path.join(os.fsencode(tmp_path / "in"), b"caf\xe9.dcm")
    Path(os.fsdecode(bad)).write_bytes((tmp_path / "in/i00.dcm").read_bytes())
    for _ in range(2):
        results = write_results(pipeline, tmp_path / "in", tmp_path / "out")
        assert [(row.image_id, row.stage) for row in results.rows] == [("caf\\udce9", "error"), ("i00", "mask")]
        assert results.errors[0].error.startswith("has a name that is not UTF-8. Rename")
        assert column(tmp_path / "out", "path")[0] == f"{tmp_path}/in/caf\\udce9.dcm"


@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("torn", [False, True])
def test_a_stopped_run_goes_on_and_does_nothing_twice(pipeline, tmp_path, spied, monkeypatch, chunks, torn):
    folder = write_images(tmp_path / "in", 20)
    (folder / "i03.dcm").write_bytes(b"DICM, but broken")
    write_results(pipeline, folder, tmp_path / "whole")
    out, append, count = tmp_path / "out", pneumoseg.results.journal.Journal.append, []

    def stop(self, entries):
        if len(count) == chunks:
            raise KeyboardInterrupt
        count.append(append(self, entries))

    monkeypatch.setattr(pneumoseg.results.journal.Journal, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        write_results(pipeline, folder, out)
    monkeypatch.setattr(pneumoseg.results.journal.Journal, "append", append)
    assert not (out / "results.csv").exists()
    if torn:
        with open(out / ".progress.jsonl", "ab") as file:
            file.write(b'[{"image_id": "i0')
        (out / "masks/.i09.png.17.0123abcd").write_bytes(b"half")  # as a process that is killed leaves it
    spied.clear()
    write_results(pipeline, folder, out)
    expected = [f"i{number:02}.dcm" for number in range(8 * chunks, 20)]
    assert spied == expected + (["i03.dcm"] if chunks else [])  # after the rest, what could not be read
    assert content(out) == content(tmp_path / "whole")


def test_a_second_run_changes_nothing(pipeline, tmp_path, spied):
    folder = write_images(tmp_path / "in", 10)
    (folder / "i03.dcm").write_bytes(b"broken")
    write_results(pipeline, folder, tmp_path / "out", overlays=True)
    before, times = content(tmp_path / "out"), [path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")]
    spied.clear()
    write_results(pipeline, folder, tmp_path / "out", overlays=True)
    assert spied == ["i03.dcm"]
    assert content(tmp_path / "out") == before
    assert [path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")] == times


def test_only_new_changed_and_lost_images_are_run(pipeline, tmp_path, spied, caplog):
    folder, out = write_images(tmp_path / "in", 10), tmp_path / "out"
    write_results(pipeline, folder, out)
    write_images(folder, 3, first=10)
    write_dicom(folder / "i04.dcm", picture(255, 9, 8, (SIZE, SIZE)))
    os.utime(folder / "i06.dcm", (1, 1))
    (out / "masks/i02.png").unlink()
    spied.clear()
    with caplog.at_level("INFO", "pneumoseg"):
        write_results(pipeline, folder, out)
    assert f"{out}: 7 of 13 images are done, 3 are run again" in caplog.text
    assert spied == [f"i{number}.dcm" for number in (10, 11, 12, "02", "04", "06")]
    assert column(out, "area_px")[4] == "72"
    write_results(pipeline, folder, tmp_path / "fresh")
    # The journal knows the same, but for nothing else.
    assert content(out) == content(tmp_path / "fresh")
    (folder / "i04.dcm").write_bytes(b"broken")
    write_results(pipeline, folder, out)
    assert column(out, "stage")[4] == "error"
    assert not (out / "masks/i04.png").exists()
    write_dicom(folder / "i04.dcm", picture(255, 9, 2))
    spied.clear()
    write_results(pipeline, folder, out)
    assert spied == ["i04.dcm"]
    assert column(out, "area_px")[4] == "18"


def test_results_of_something_else_are_refused(pipeline, tmp_path):
    folder, out = write_images(tmp_path / "in", 2), tmp_path / "out"
    write_results(pipeline, folder, out)
    before = content(out)
    other = replace(pipeline, networks={"segmenter_1": "ab"}, rule=replace(RULE, minimum_area=3))
    with pytest.raises(FileExistsError, match=r"another pipeline or other options \(networks, rule\): choose another"):
        write_results(other, folder, out)
    with pytest.raises(FileExistsError, match=r"options \(flip\)"):
        write_results(replace(pipeline, flip=True), folder, out)
    with pytest.raises(FileExistsError, match=r"options \(engine\)"):
        write_results(replace(pipeline, engine=Engine("openvino", "int8")), folder, out)
    with pytest.raises(FileExistsError, match=r"options \(overlays, probabilities\)"):
        write_results(pipeline, folder, out, overlays=True, probabilities=True)
    with pytest.raises(FileExistsError, match=r"results of 1 files that are not among the inputs, .*i00\.dcm: name"):
        write_results(pipeline, folder / "i01.dcm", out)
    with pytest.raises(FileExistsError, match=r"something other than results, such as i00\.dcm: choose another"):
        write_results(pipeline, folder, folder)
    with locked_folder(out, "written"), pytest.raises(FileExistsError, match="written by another process"):
        write_results(pipeline, folder, out)
    assert content(out) == before
    (out / ".progress.jsonl").write_text('{"networks"\n')
    with pytest.raises(ValueError, match=r"progress\.jsonl: damaged .*; remove .*out and start again"):
        write_results(pipeline, folder, out)


def test_results_of_files_that_are_gone_are_removed(pipeline, tmp_path, spied, caplog):
    folder, out = write_images(tmp_path / "in", 4), tmp_path / "out"
    write_results(pipeline, folder, out, overlays=True)
    (folder / "i00.dcm").unlink()
    (folder / "i02.dcm").rename(folder / ".i02.dcm")
    (folder / "i03.dcm").rename(tmp_path / "i03.dcm")
    shutil.copy(folder / "i01.dcm", folder / "i04.dcm")
    (out / "masks/notes.txt").write_text("kept")
    (out / "probabilities").mkdir()  # not asked for, so not ours
    (out / "probabilities/a.png").write_text("kept")
    before = content(out)
    with pytest.raises(FileExistsError, match=r"results of 1 files that are not among the inputs, .*i01\.dcm"):
        write_results(pipeline, folder / "i04.dcm", out, overlays=True)
    assert content(out) == before
    spied.clear()
    write_results(pipeline, folder, out, overlays=True)
    assert spied == ["i04.dcm"]
    assert f"{out}: the results of 3 files that no longer exist" in caplog.text
    write_results(pipeline, folder, tmp_path / "fresh", overlays=True)
    expected = content(tmp_path / "fresh")
    assert content(out) == expected | {"masks/notes.txt": b"kept", "probabilities/a.png": b"kept"}


def test_the_name_of_a_file_that_is_gone_is_given_once(pipeline, tmp_path, monkeypatch):
    """Stop the run that gives the name to another image, and bring the first one back."""
    first, second = write_dicom(tmp_path / "in/a/x.dcm", picture(255, 9, 5)), tmp_path / "in/b/x.dcm"
    write_results(pipeline, tmp_path / "in", tmp_path / "out")
    second.parent.mkdir()
    first.rename(second)
    with monkeypatch.context() as context:
        context.setattr("pneumoseg.results.folder.write_results_page", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_results(pipeline, tmp_path / "in", tmp_path / "out")
    write_dicom(first, picture(255, 9, 5))
    write_results(pipeline, tmp_path / "in", tmp_path / "out")
    assert column(tmp_path / "out", "image_id") == ["x_2", "x"]


def test_a_file_that_cannot_be_reached_is_not_gone(pipeline, tmp_path, monkeypatch):
    folder, out = write_images(tmp_path / "in", 2), tmp_path / "out"
    write_results(pipeline, folder, out)

    status = os.lstat

    def refuse(path, **options):
        if str(path).endswith("i00.dcm"):
            raise PermissionError(13, "Permission denied", path)
        return status(path, **options)

    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(FileExistsError, match=r"results of 1 files that are not among the inputs, .*i00\.dcm"):
        write_results(pipeline, folder / "i01.dcm", out)


@pytest.mark.parametrize("finished_before", [False, True])
def test_no_picture_without_a_row_is_left(pipeline, tmp_path, monkeypatch, finished_before):
    """Stop a run before its first chunk is in the journal, then remove an input."""
    folder, out = write_images(tmp_path / "in", 2), tmp_path / "out"
    options = {"overlays": True, "probabilities": True}
    if finished_before:
        write_results(pipeline, folder, out, **options)
    write_images(folder, 2, first=2)
    with monkeypatch.context() as context:
        context.setattr("pneumoseg.results.journal.Journal.append", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_results(pipeline, folder, out, **options)
    assert (out / "probabilities/i03.png").exists()
    (folder / "i02.dcm").unlink()
    (folder / "i03.dcm").unlink()
    write_results(pipeline, folder, out, **options)
    write_results(pipeline, folder, tmp_path / "fresh", **options)
    assert content(out) == content(tmp_path / "fresh")


def test_a_picture_that_is_listed_in_another_case_is_kept(tmp_path):
    """Imitate a file system that ignores case with a second name of the same file."""
    (tmp_path / "masks").mkdir()
    for name in ("x", "y"):
        (tmp_path / f"masks/{name}.png").write_text(name)
    os.link(tmp_path / "masks/x.png", tmp_path / "masks/X.png")
    Pictures(tmp_path).remove_others(["x"])
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {"x.png", "X.png"}


def test_results_below_the_inputs_are_not_inputs(pipeline, tmp_path):
    folder = write_images(tmp_path / "in", 2)
    before = {}
    for _ in range(2):
        write_results(pipeline, folder, folder / "results", overlays=True)
        before = before or content(folder / "results")
        assert content(folder / "results") == before
        assert column(folder / "results", "image_id") == ["i00", "i01"]
        assert not (folder / "results/skipped.csv").exists()
    results = write_results(pipeline, folder, folder / "others")
    assert [row.image_id for row in results.rows] == ["i00", "i01"]
    assert {reason for _, reason in results.skipped} == {"is in a folder of results"}
    with pytest.raises(FileNotFoundError, match="'is in a folder of results': 1"):
        write_results(pipeline, folder / "results/masks", tmp_path / "out")


@pytest.mark.parametrize("target", ["", "masks"])
def test_a_link_to_its_own_results_changes_nothing(pipeline, tmp_path, target):
    folder, out = write_images(tmp_path / "in", 2), tmp_path / "out"
    write_results(pipeline, folder, out)
    before = content(out)
    (folder / "link").symlink_to(out / target)
    assert write_results(pipeline, folder, out).skipped == []
    assert content(out) == before


def test_an_image_replaced_while_it_is_read_is_an_error(pipeline, tmp_path, monkeypatch):
    write_images(tmp_path / "in", 1)
    monkeypatch.setattr("pneumoseg.results.pictures.read_image", lambda path: picture(shape=(9, 9)))
    results = write_results(pipeline, tmp_path / "in", tmp_path / "out", overlays=True)
    assert results.errors[0].error == "was replaced while it was read. Run the command again"
    monkeypatch.undo()
    assert write_results(pipeline, tmp_path / "in", tmp_path / "out", overlays=True).errors == []


def test_without_a_classifier_there_is_no_probability(pipeline, tmp_path):
    write_images(tmp_path / "in", 2)
    write_results(replace(pipeline, classifiers=[]), tmp_path / "in", tmp_path / "out")
    assert column(tmp_path / "out", "probability") == ["", ""]
    assert column(tmp_path / "out", "area_px") == ["45", "0"]


def test_memory_does_not_grow_with_the_number_of_images(pipeline, tmp_path):
    image = picture(255, 10, 10, (512, 512))
    for number in range(112):  # 48 and 64: up to three chunks of 8 are in flight, whatever the number of images
        write_dicom(tmp_path / f"{int(number >= 48)}/i{number}.dcm", image)

    def peak(*inputs):
        out = tmp_path / f"out{len(inputs)}"
        shutil.rmtree(out, ignore_errors=True)
        tracemalloc.start()
        write_results(pipeline, inputs, out, overlays=True, max_images=0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(tmp_path / "0")
    # The 64 further images would be 17 MB if they were kept, their overlays 50 MB.
    assert peak(tmp_path / "0", tmp_path / "1") - peak(tmp_path / "0") < 4e6


CHILD = """
import os, random, signal, sys, time
from pathlib import Path

import keras, tensorflow  # before the process divides, so that each run starts at once
from pneumoseg.results import write_results
from pneumoseg.inference import Pipeline
from tests.networks import brightest, identity
from tests.test_results import RULE

source, out, whole = map(Path, sys.argv[1:])

def start(folder):
    child = os.fork()
    if child == 0:
        pipeline = Pipeline([brightest(64)], [identity(64)], RULE, batch_size=1)
        write_results(pipeline, source, folder, overlays=True, probabilities=True)
        os._exit(0)
    return child

def files():
    return sum(len(names) for _, _, names in os.walk(out))

assert os.waitpid(start(whole), 0)[1] == 0
chance, kills = random.Random(int(source.name)), []
for target in (1, 30, 60, 92):
    target += chance.randrange(20)
    child = start(out)
    while files() < target and os.waitpid(child, os.WNOHANG) == (0, 0):
        pass
    time.sleep(chance.random() * 0.01)
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    kills.append(files())
assert os.waitpid(start(out), 0)[1] == 0
print(kills)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_folder(tmp_path):
    source = write_images(tmp_path / "1", 36)
    (source / "i05.dcm").write_bytes(b"broken")
    write_dicom(source / "deep/i00.dcm", picture(255, 3, 3))
    finished = subprocess.run(
        [sys.executable, "-c", CHILD, source, tmp_path / "out", tmp_path / "whole"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    kills = json.loads(finished.stdout.splitlines()[-1])
    whole = content(tmp_path / "whole")
    assert kills == sorted(kills)
    assert sum(count < len(whole) for count in kills) >= 3  # they were killed before the end
    assert content(tmp_path / "out") == whole
    assert len(whole) == 3 * 36 + 3


def test_numbers_that_json_cannot_hold_are_null(pipeline, tmp_path):
    row = write_results(pipeline, write_images(tmp_path / "in", 1), tmp_path / "out").rows[0]
    assert row.area_mm2 is None
    assert math.isnan(pipeline.predict(tmp_path / "in/i00.dcm").area_mm2)
    assert list(row.as_dict()) == HEADER.split(",")
