"""Tests of COCO JSON files."""

import json
import logging
import sys

import numpy as np
import pytest

from pneumoseg.annotations import read_annotations
from pneumoseg.data.index import index_dataset
from tests.annotations.writers import coco_counts, write_coco, write_images

pycocotools = pytest.importorskip("pycocotools.mask")
from pneumoseg.annotations.coco import _lengths_in, segmentation_mask  # noqa: E402

MASK = np.zeros((6, 9), bool)
MASK[1:4, 2:5] = True


def counts(mask):
    return {"size": list(mask.shape), "counts": coco_counts(mask)}


def test_a_polygon_by_hand():
    assert np.array_equal(segmentation_mask([[2, 1, 5, 1, 5, 4, 2, 4]], (6, 9)), MASK)


def test_polygons_of_one_annotation_are_joined():
    mask = segmentation_mask([[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 4, 1, 4, 3, 1, 3]], (4, 5))
    expected = np.zeros((4, 5), bool)
    expected[:2, :2] = expected[1:3, 1:4] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("seed", range(5))
def test_compressed_runs_are_measured_before_they_are_decoded(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 50)) > rng.random()
    text = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert _lengths_in(text) == coco_counts(mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ("polygon", "segmentation is 'polygon', expected polygons or runs"),
        ([[1, 1, 5, 1]], "not a list of three or more pairs"),
        ([[1, 1, 5, 1, 5, 5, 1]], "not a list of three or more pairs"),
        ([[1, 1, 5, 1, "5", 5]], "not numbers"),
        ([[1, 1, 5, 1, float("nan"), 5]], "outside the 6 x 9 pixels"),
        ([[1, 1, 5, 1, 1e9, 5]], r"polygon with the point x 1e\+09, y 5 outside"),
        ([{"counts": [54]}], "not a list of three or more pairs"),
        ({"size": [6, 9], "counts": [10, 5]}, "the runs cover 15 pixels, the image has 6 x 9"),
        ({"size": [6, 9], "counts": [10, 50]}, "the runs cover 60 pixels"),
        ({"size": [6, 9], "counts": [60, -6]}, "run of length '-6'"),
        ({"size": [6, 9], "counts": [53.5, 0.5]}, "run of length '53.5'"),
        ({"size": [6, 9], "counts": [53, True]}, "run of length 'True'"),
        ({"size": [9, 6], "counts": [54]}, r"the runs are of size \[9, 6\], the image has 6 x 9"),
        ({"size": [6, 9]}, "counts is 'None'"),
        ({"counts": [54]}, "the runs are of size None"),
        ({"size": [6, 9], "counts": "zzz"}, "in compressed runs"),
        ({"size": [6, 9], "counts": ""}, "the runs cover 0 pixels"),
        ({"size": [6, 9], "counts": "f"}, "cut short"),
        ({"size": [6, 9], "counts": "f1é"}, "character 'é'"),
    ],
)
def test_malformed_segmentations_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        segmentation_mask(segmentation, (6, 9))


def test_points_slightly_outside_are_cut_off():
    assert segmentation_mask([[-0.4, -0.4, 9.4, -0.4, 9.4, 6.4, -0.4, 6.4]], (6, 9)).all()


@pytest.mark.parametrize("segmentation", [[[1, 1, 5, 1, 10**400, 5]], {"size": [6, 9], "counts": "\ud800"}])
def test_odd_values_stop_nothing(tmp_path, segmentation):
    path = write_coco(tmp_path / "coco.json", {"a": MASK}, lambda mask: segmentation)
    annotations = read_annotations(path)
    with pytest.raises(ValueError, match="annotation 0: "):
        annotations.read(annotations.find({"a"}).entries["a"], (6, 9))


def test_images_without_an_annotation_of_the_category_are_negative(tmp_path):
    masks = {"a": MASK, "b": np.zeros((6, 9), bool), "c": MASK}
    path = write_coco(tmp_path / "coco.json", masks, counts, ("Pneumothorax", "Effusion"))
    content = json.loads(path.read_text())
    content["annotations"][1]["category_id"] = 2
    path.write_text(json.dumps(content))
    write_images(tmp_path / "images", masks)
    assert index_dataset(tmp_path / "images", path)["has_pneumothorax"].tolist() == [True, False, False]
    effusion = read_annotations(path, category="EFFUSION")
    assert index_dataset(tmp_path / "images", effusion)["has_pneumothorax"].tolist() == [False, False, True]


def test_annotations_of_one_image_are_joined(tmp_path):
    path = write_coco(tmp_path / "coco.json", {"a": MASK}, counts)
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 7, "image_id": 10, "category_id": 1, "segmentation": counts(~MASK)})
    path.write_text(json.dumps(content))
    annotations = read_annotations(path)
    assert annotations.read(annotations.find({"a"}).entries["a"], (6, 9)).all()


def test_a_single_category_is_taken_and_logged(tmp_path, caplog):
    path = write_coco(tmp_path / "coco.json", {"a": MASK}, counts, ("PTX",))
    with caplog.at_level(logging.INFO, "pneumoseg"):
        annotations = read_annotations(path)
    assert "no category pneumothorax, taking the only one, PTX" in caplog.text
    assert np.array_equal(annotations.read(annotations.find({"a"}).entries["a"], (6, 9)), MASK)


def test_a_category_that_is_asked_for_must_exist(tmp_path):
    path = write_coco(tmp_path / "coco.json", {"a": MASK}, counts, ("PTX",))
    with pytest.raises(ValueError, match="no category 'Pneumothorax', only 'PTX': name one with --category"):
        read_annotations(path, category="Pneumothorax")


def changed(tmp_path, change, categories=("Pneumothorax",)):
    """Return the area of each mask, or the reason why there is none, and the strays, of a file that was changed."""
    path = write_coco(tmp_path / "coco.json", {"a": MASK, "b": MASK}, counts, categories)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    annotations = read_annotations(path)
    found = annotations.find(set())
    areas = {}
    for image_id, entry in found.entries.items():
        try:
            areas[image_id] = int(annotations.read(entry, (6, 9)).sum())
        except ValueError as error:
            areas[image_id] = str(error)
    return areas, [stray.reason for stray in found.strays]


@pytest.mark.parametrize("value", ["1", 1.0, " 1"])
def test_ids_may_be_numbers_or_texts(tmp_path, value):
    def change(content):
        content["annotations"][0]["category_id"] = value
        content["annotations"][1]["image_id"] = "11"

    assert changed(tmp_path, change) == ({"a": 9, "b": 9}, [])


@pytest.mark.parametrize("second", ["Pneumothorax", "PNEUMOTHORAX"])
def test_all_categories_of_a_name_are_taken(tmp_path, second):
    def change(content):
        content["annotations"][1]["category_id"] = 2

    assert changed(tmp_path, change, ("Pneumothorax", second)) == ({"a": 9, "b": 9}, [])


@pytest.mark.parametrize("value", [7, None])
def test_images_with_annotations_of_unknown_categories_are_refused(tmp_path, value):
    """They may show a pneumothorax, so they do not count as negative."""

    def change(content):
        content["annotations"][1]["category_id"] = value

    areas, strays = changed(tmp_path, change)
    assert areas["a"] == 9
    assert areas["b"].endswith(f"annotation 1 has the category_id {value}, which is not among the categories")
    assert strays == []


def test_annotations_without_image_or_category_are_listed(tmp_path):
    def change(content):
        content["annotations"][0]["image_id"] = 99
        content["annotations"][1].update(image_id=None, category_id=7)

    areas, strays = changed(tmp_path, change)
    assert areas == {"a": 0, "b": 0}
    expected = "annotation of an image that is not listed: image_id {}, 1 annotations"
    assert strays == [expected.format(99), expected.format(None)]


@pytest.mark.parametrize("value", [10, None])
def test_images_without_an_id_of_their_own_are_refused(tmp_path, value):
    def change(content):
        for image in content["images"]:
            image["id"] = value

    areas, _ = changed(tmp_path, change)
    assert [text.split(" lists ")[1] for text in areas.values()] == [
        f"2 images with the id {value}: give each its own"
    ] * 2


def test_other_categories_are_listed(tmp_path):
    path = write_coco(tmp_path / "coco.json", {"a": MASK}, counts, ("PTX", "Effusion"))
    with pytest.raises(ValueError, match="no category 'pneumothorax', only 'Effusion', 'PTX': name one with"):
        read_annotations(path)


def test_what_cannot_be_used_is_listed_with_the_reason(tmp_path):
    masks = dict.fromkeys(("good", "box", "size", "twice", "unlisted"), MASK)
    path = write_coco(tmp_path / "coco.json", masks, counts)
    content = json.loads(path.read_text())
    size, twice, unlisted = content["images"][2:]
    del content["annotations"][1]["segmentation"]
    content["annotations"][1]["bbox"] = [1, 2, 3, 3]
    size["height"] = 7
    unlisted["file_name"] = "elsewhere.png"
    content["images"].append({**twice, "id": 99, "file_name": "other/twice.png"})
    content["annotations"].append({"id": 50, "image_id": 77, "category_id": 1, "segmentation": counts(MASK)})
    path.write_text(json.dumps(content))
    write_images(tmp_path / "images", masks)
    with pytest.warns(UserWarning, match="4 images and 2 annotations left out"):
        manifest = index_dataset(tmp_path / "images", path, rejected=tmp_path / "rejected.csv")
    assert manifest["image_id"].tolist() == ["good"]
    rejected = (tmp_path / "rejected.csv").read_text()
    for text in (
        "annotation 1: no segmentation (a box alone gives no mask)",
        f"{path} says 7 x 9 pixels, the image has 6 x 9",
        f"{path} lists several images named twice",
        "elsewhere,,annotated without a file",
        "unlisted.dcm,not listed in the COCO file",
        "annotation of an image that is not listed: image_id 77, 1 annotations",
    ):
        assert text in rejected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "holds a list instead of an object"),
        ("{}", "no list 'images' of objects"),
        ('{"images": [1], "annotations": [], "categories": []}', "no list 'images' of objects"),
        ('{"images": [], "annotations": {}, "categories": []}', "no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "no category 'pneumothorax', only none"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "coco.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_a_missing_library_is_named_with_the_command(tmp_path, monkeypatch):
    path = write_coco(tmp_path / "coco.json", {"a": MASK}, counts)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match=r"pip install 'pneumoseg\[coco\]'"):
        read_annotations(path)
