"""Tests of tables of run-length codes, absolute ones above all."""

import numpy as np
import pytest

from pneumoseg.annotations import read_annotations
from pneumoseg.data.index import index_dataset
from tests.annotations.writers import write_images

SHAPE = (4, 6)


def read(tmp_path, text, **options):
    """Return the mask of one row of a CSV."""
    path = tmp_path / "runs.csv"
    path.write_text(f"ImageId,EncodedPixels\na,{text}\n")
    annotations = read_annotations(path, "absolute-csv", **options)
    return annotations.read(annotations.find({"a"}).entries["a"], SHAPE)


@pytest.mark.parametrize("text", ["", "-1", " -1", "nan", "NaN", "None"])
def test_empty_masks(tmp_path, text):
    mask = read(tmp_path, text)
    assert mask.shape == SHAPE
    assert not mask.any()


def test_pixels_are_numbered_by_columns_from_1_by_default(tmp_path):
    mask = read(tmp_path, "1 1 6 2 24 1")
    assert np.argwhere(mask).tolist() == [[0, 0], [1, 1], [2, 1], [3, 5]]
    assert mask.flags.c_contiguous


def test_pixels_may_be_numbered_by_rows_from_0(tmp_path):
    mask = read(tmp_path, "0 1 7 2 23 1", order="rows", first_pixel=0)
    assert np.argwhere(mask).tolist() == [[0, 0], [1, 1], [1, 2], [3, 5]]


def test_runs_may_touch(tmp_path):
    assert np.argwhere(read(tmp_path, "1 2 3 1")).tolist() == [[0, 0], [1, 0], [2, 0]]


def test_runs_need_not_be_sorted(tmp_path):
    assert np.array_equal(read(tmp_path, "6 2 1 1"), read(tmp_path, "1 1 6 2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 3", r"row 1 of 1: pair 1 \(0 3\) starts before the first pixel, 1: pass --first-pixel 0"),
        ("1 2 24 2", r"pair 2 \(24 2\) ends beyond the last of 4 x 6 pixels"),
        ("1 3 3 1", r"pair 2 \(3 1\) overlaps another run: .*--annotations-format csv"),
        ("9 3 1 2 8 2", r"pair 1 \(9 3\) overlaps another run"),
        ("1 0", r"pair 1 \(1 0\) has a length below 1"),
        ("1 2 5", r"pair 2: a start without a length, the text holds 3 numbers"),
        ("1 2 x 3", r"pair 2: 'x' is not a whole number"),
        ("1 2 -5 3", r"pair 2: '-5' is not a whole number"),
        ("1 2 1.5 3", r"pair 2: '1.5' is not a whole number"),
        ("1 9999999999999", "pair 1: '9999999999999' is not"),
    ],
)
def test_malformed_runs_are_refused_with_the_pair_and_the_reason(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_the_last_pixel_depends_on_the_first(tmp_path):
    assert np.argwhere(read(tmp_path, "23 1", first_pixel=0)).tolist() == [[3, 5]]
    with pytest.raises(ValueError, match="ends beyond"):
        read(tmp_path, "24 1", first_pixel=0)


@pytest.mark.parametrize("options", [{"order": "diagonal"}, {"first_pixel": 2}])
def test_other_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="order is 'columns' or 'rows' and first_pixel 0 or 1"):
        read(tmp_path, "1 1", **options)


def test_rows_of_one_image_are_joined_and_other_columns_ignored(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("report,rle,Image_Index\nno change,1 2,train/a.png\n,2 2,train/a.png\n,,b.png\n")
    annotations = read_annotations(path, "absolute-csv")
    entries = annotations.find({"a", "b"}).entries
    assert np.argwhere(annotations.read(entries["a"], SHAPE)).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert not annotations.read(entries["b"], SHAPE).any()


@pytest.mark.parametrize("format", ["csv", "absolute-csv", None])
def test_rows_of_different_paths_with_one_name_are_refused(tmp_path, format):
    path = tmp_path / "runs.csv"
    path.write_text("path,rle\nx/a.png,1 2\ny/a.png,5 2\nx/b.png,1 2\nx/b.png,5 2\n")
    annotations = read_annotations(path, format)
    entries = annotations.find(set()).entries
    with pytest.raises(
        ValueError, match=r"has rows of 'x/a.png', 'y/a.png', which may be different images of the id a"
    ):
        annotations.read(entries["a"], SHAPE)
    assert annotations.read(entries["b"], SHAPE).sum() == 4


def test_refused_rows_stop_no_indexing(tmp_path):
    write_images(tmp_path / "images", {"a": np.zeros(SHAPE, bool), "b": np.zeros(SHAPE, bool)})
    (tmp_path / "runs.csv").write_text("path,rle\nx/a.png,1 2\ny/a.png,5 2\nx/b.png,1 2\n")
    with pytest.warns(UserWarning, match="1 malformed annotation"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "runs.csv", unannotated_negative=True)
    assert manifest["image_id"].tolist() == ["b"]


def test_empty_cells_are_empty_masks_of_absolute_runs_alone(tmp_path):
    """In relative runs, an empty cell may be a lost one, so the message says what to write."""
    write_images(tmp_path / "images", {"a": np.zeros(SHAPE, bool), "b": np.zeros(SHAPE, bool)})
    (tmp_path / "runs.csv").write_text("ImageId,EncodedPixels\na,\nb,1 2\n")
    absolute = read_annotations(tmp_path / "runs.csv", "absolute-csv")
    assert index_dataset(tmp_path / "images", absolute)["area_px"].tolist() == [0, 2]
    with pytest.warns(UserWarning, match="1 malformed annotation"):
        index_dataset(tmp_path / "images", tmp_path / "runs.csv", rejected=tmp_path / "rejected.csv")
    assert "no runs: write -1 for an empty mask" in (tmp_path / "rejected.csv").read_text()
