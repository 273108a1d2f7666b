"""Tests of labels alone."""

import pytest

from pneumoseg.annotations import read_annotations
from pneumoseg.data.index import index_dataset, load_manifest, save_manifest
from pneumoseg.data.masks import has_mask
from tests.annotations.writers import masks_of_all_kinds, write_images

SHAPE = (2, 3)


def labels(tmp_path, content, **options):
    """Return the label of each image, or the reason why there is none."""
    path = tmp_path / "labels.csv"
    path.write_text(content)
    annotations = read_annotations(path, **options)
    assert annotations.format == "labels"
    found = {}
    for image_id, entry in annotations.find(set()).entries.items():
        try:
            found[image_id] = annotations.read(entry, SHAPE)
        except ValueError as error:
            found[image_id] = str(error)
    return found


def test_every_spelling_of_0_and_1(tmp_path):
    content = "image_id,label\na.png,1\nb,0\nc,1.0\nd,0.0\ne,True\nf,false\ntrain/g.dcm, 1 \n"
    expected = {"a": True, "b": False, "c": True, "d": False, "e": True, "f": False, "g": True}
    assert labels(tmp_path, content) == expected


def test_other_values_are_refused_for_their_images(tmp_path):
    found = labels(tmp_path, "image_id,label\na,1\nb,\nc,-1\nd,2\ne,unknown\n")
    assert found["a"] is True
    assert [found[name] for name in "bcde"] == [
        f"label {value!r}, expected 0 or 1" for value in ("", "-1", "2", "unknown")
    ]


def test_rows_of_one_image_must_agree(tmp_path):
    found = labels(tmp_path, "id,target\na,1\na,1.0\nb,1\nb,0\n")
    assert found == {"a": True, "b": "2 rows contradict each other: ['1', '0']"}


def test_findings_of_nih(tmp_path):
    content = (
        "Image Index,Finding Labels,Patient ID\n"
        "00000001_000.png,Cardiomegaly|Pneumothorax,1\n00000001_001.png,No Finding,1\n00000002_000.png,Effusion,2\n"
    )
    assert labels(tmp_path, content) == {"00000001_000": True, "00000001_001": False, "00000002_000": False}
    assert labels(tmp_path, content, category="EFFUSION")["00000002_000"] is True
    with pytest.raises(ValueError, match="names Mass; the findings are cardiomegaly, effusion, no finding, pneumo"):
        labels(tmp_path, content, category="Mass")


@pytest.mark.parametrize("content", ["id,label\na,1\n", "id,answer\na,1\n", "id,has_pneumothorax\na,1\n"])
def test_a_column_that_is_asked_for_must_exist(tmp_path, content):
    assert labels(tmp_path, content) == {"a": True}
    with pytest.raises(ValueError, match=r"no column effusion, found 'id', '\w+': name one with --category, or leave"):
        labels(tmp_path, content, category="effusion")


def test_a_column_may_be_named_for_what_an_image_has(tmp_path):
    content = "id,label,has_effusion\na,1,0\n"
    assert labels(tmp_path, content, category="Effusion") == {"a": False}
    assert labels(tmp_path, content) == {"a": True}


def test_rows_of_different_paths_with_one_name_are_refused(tmp_path):
    found = labels(tmp_path, "path,label\nx/a.png,1\ny/a.png,1\nx/b.png,0\nx/b.png,0\n")
    assert "has rows of 'x/a.png', 'y/a.png', which may be different images of the id a" in found["a"]
    assert found["b"] is False


def test_a_finding_is_not_part_of_another(tmp_path):
    found = labels(tmp_path, "Image Index,Finding Labels\na,Hydropneumothorax\nb,Pneumothorax\nc,\n")
    assert (found["a"], found["b"]) == (False, True)
    assert found["c"].startswith("no finding is listed")


def test_wide_tables_have_a_column_of_the_category(tmp_path):
    content = "Path,Sex,Edema,Pneumothorax\nx/a.jpg,F,1.0,0.0\nx/b.jpg,M,,1.0\nx/c.jpg,M,1.0,-1.0\nx/d.jpg,M,1.0,\n"
    found = labels(tmp_path, content)
    assert (found["a"], found["b"]) == (False, True)
    assert found["c"] == "label '-1.0', expected 0 or 1"
    assert labels(tmp_path, content, category="edema")["a"] is True


def test_the_other_column_of_two_may_have_any_name(tmp_path):
    assert labels(tmp_path, "filename,answer\na.png,0\nb.png,1\n") == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("patient,label\n7,1\n", r"no column of image ids \(ImageId, id, filename\), found 'patient', 'label'"),
        ("id,age,sex\na,1,0\n", "no column of labels .*found 'id', 'age', 'sex'"),
        ("id,label\n,1\n", "line 2 has no image id"),
        ("id,label\na,1,5\n", "more values than the header"),
    ],
)
def test_other_tables_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_annotations(path, "labels")


def test_the_manifest_says_that_masks_are_not_known(tmp_path):
    masks = dict(list(masks_of_all_kinds().items())[:4])
    write_images(tmp_path / "images", masks)
    (tmp_path / "labels.csv").write_text("id,label\nempty,0\nfull,1\nrow,\n")
    with pytest.warns(UserWarning, match="2 images left out"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "labels.csv", rejected=tmp_path / "rejected.csv")
    assert manifest["image_id"].tolist() == ["empty", "full"]
    assert manifest["has_pneumothorax"].tolist() == [False, True]
    assert manifest["rle"].tolist() == ["", ""]
    assert manifest["area_px"].tolist() == [0, 0]
    assert not has_mask(manifest).any()
    save_manifest(manifest, tmp_path / "manifest.csv")
    assert load_manifest(tmp_path / "manifest.csv")["rle"].tolist() == ["", ""]
    rejected = (tmp_path / "rejected.csv").read_text()
    assert "malformed annotation: label ''" in rejected
    assert "no annotation row" in rejected


def test_images_without_a_label_may_count_as_negative(tmp_path):
    masks = dict(list(masks_of_all_kinds().items())[:3])
    write_images(tmp_path / "images", masks)
    (tmp_path / "labels.csv").write_text("id,label\nfull,1\n")
    manifest = index_dataset(tmp_path / "images", tmp_path / "labels.csv", unannotated_negative=True)
    assert manifest["has_pneumothorax"].tolist() == [False, True, False]
    assert not has_mask(manifest).any()
