"""Tests of recognizing the format of annotations."""

import json

import numpy as np
import pytest

from pneumoseg.annotations import FORMATS, read_annotations
from pneumoseg.annotations.tables import id_column, ids_of, read_table
from tests.annotations.writers import write_mask


def test_names_of_the_formats():
    assert FORMATS == ("csv", "absolute-csv", "masks", "coco", "seg", "labels")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("ImageId, EncodedPixels\na, -1\n", "csv"),
        ("a,-1\nb,1 2\n", "csv"),
        ("\ufeffa,-1\n", "csv"),
        ("filename,RLE,age\na.png,1 2,50\n", "csv"),
        ("ImageId,EncodedPixels,Pneumothorax\na,1 2,1\n", "csv"),
        ("image_id,label\na,1\n", "labels"),
        ("Image Index,Finding Labels,Follow-up #\na.png,Pneumothorax,0\n", "labels"),
        ("Path,Edema,Pneumothorax\na.png,1.0,0.0\n", "labels"),
    ],
)
def test_tables(tmp_path, content, expected):
    path = tmp_path / "table"
    path.write_text(content, encoding="utf-8")
    assert read_annotations(path).format == expected


def test_json_and_pictures(tmp_path):
    pytest.importorskip("pycocotools")
    (tmp_path / "file").write_text(
        "\ufeff\n" + json.dumps({"images": [], "annotations": [], "categories": [{"name": "x"}]}), encoding="utf-8"
    )
    assert read_annotations(tmp_path / "file").format == "coco"
    write_mask(tmp_path / "masks/deep/a.png", np.ones((2, 2), bool))
    assert read_annotations(tmp_path / "masks").format == "masks"


def test_options_of_absolute_runs_name_the_format(tmp_path):
    (tmp_path / "runs.csv").write_text("ImageId,EncodedPixels\na,1 2\n")
    assert read_annotations(tmp_path / "runs.csv").format == "csv"
    assert read_annotations(tmp_path / "runs.csv", first_pixel=1).format == "absolute-csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a CSV"),
        (
            "id,age,sex\na,1,2\n",
            r"no column of run-length codes .* or labels .*, found 'id', 'age', 'sex'",
        ),
        ("ImageId,Other\na,x\n", "the header is 'ImageId,Other'"),
        ("code,EncodedPixels,age\na,1 2,3\n", "no column of image ids .*found 'code', 'EncodedPixels', 'age'"),
        ("ImageId,EncodedPixels\na,1 2\n,-1\n", "line 3 has no image id in column ImageId"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_files_and_folders_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("nothing")
    (tmp_path / "labels.csv").write_text("id,label\na,1\n")
    with pytest.raises(FileNotFoundError, match="no such file or folder of annotations"):
        read_annotations(tmp_path / "absent")
    with pytest.raises(ValueError, match="neither mask pictures nor DICOM SEG among its 1 files"):
        read_annotations(tmp_path / "folder")
    with pytest.raises(ValueError, match="is a folder: annotations of format csv are a file"):
        read_annotations(tmp_path / "folder", "csv")
    with pytest.raises(ValueError, match="is a file: annotations of format masks are a folder"):
        read_annotations(tmp_path / "labels.csv", "masks")
    with pytest.raises(FileNotFoundError, match="no mask picture in it or below it, of 1 files"):
        read_annotations(tmp_path / "folder", "masks")
    with pytest.raises(ValueError, match="format 'xml', expected one of csv, absolute-csv, masks, coco, seg, labels"):
        read_annotations(tmp_path / "labels.csv", "xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "rows"}, "order is an option of the format absolute-csv, not of labels"),
        ({"first_pixel": 0}, "first_pixel is an option of the format absolute-csv, not of labels"),
        ({"mask_name": "{}"}, "mask_name is an option of the format masks, not of labels"),
    ],
)
def test_options_of_other_formats_are_refused(tmp_path, options, message):
    (tmp_path / "labels.csv").write_text("id,label\na,1\n")
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "labels.csv", **options)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("ImageId,EncodedPixels", "ImageId"),
        ("Patient ID,Image Index", "Image Index"),
        ("id,SOPInstanceUID", "SOPInstanceUID"),
        ("name,image_id", "image_id"),
        ("patient,report", None),
    ],
)
def test_the_column_of_image_ids(tmp_path, header, expected):
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\na,b\n")
    assert id_column(read_table(path)) == expected


def test_ids_lose_folders_and_suffixes_of_images(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id\ntrain/0001.png\n1.2.276.0.878027\nx\\b.DCM\nNA\n")
    assert ids_of(read_table(path)["id"], path).tolist() == ["0001", "1.2.276.0.878027", "b", "NA"]
