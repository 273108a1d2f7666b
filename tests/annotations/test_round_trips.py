"""Masks of every size and kind, written in each format by independent code, come back pixel by pixel."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumoseg.annotations import read_annotations
from pneumoseg.data.index import index_dataset
from tests.annotations.writers import (
    absolute_text,
    coco_counts,
    masks_of_all_kinds,
    relative_text,
    write_coco,
    write_images,
    write_mask,
    write_seg,
)

MASKS = masks_of_all_kinds()


def write_runs(path, text_of):
    rows = [(name, text_of(mask)) for name, mask in MASKS.items()]
    pd.DataFrame(rows, columns=["ImageId", "EncodedPixels"]).to_csv(path, index=False)
    return path


def indexed(folder, annotations):
    """Return the manifest of an image for each of the masks, by image id."""
    write_images(folder / "images", MASKS)
    return index_dataset(folder / "images", annotations).set_index("image_id")


def check(manifest):
    assert set(manifest.index) == set(MASKS)
    assert manifest["rle"].to_dict() == {name: relative_text(mask) for name, mask in MASKS.items()}
    assert manifest["area_px"].to_dict() == {name: mask.sum() for name, mask in MASKS.items()}
    assert manifest["has_pneumothorax"].to_dict() == {name: mask.any() for name, mask in MASKS.items()}


def test_relative_runs(tmp_path):
    check(indexed(tmp_path, read_annotations(write_runs(tmp_path / "runs.csv", relative_text), "csv")))


@pytest.mark.parametrize("order", ["columns", "rows"])
@pytest.mark.parametrize("first_pixel", [0, 1])
def test_absolute_runs(tmp_path, order, first_pixel):
    path = write_runs(tmp_path / "runs.csv", lambda mask: absolute_text(mask, order, first_pixel))
    check(indexed(tmp_path, read_annotations(path, order=order, first_pixel=first_pixel)))


@pytest.mark.parametrize("name", ["{}", "{}_mask"])
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_mask_pictures(tmp_path, name, suffix):
    for image_id, mask in MASKS.items():
        write_mask(tmp_path / "masks" / f"{name.format(image_id)}.{suffix}", mask)
    check(indexed(tmp_path, tmp_path / "masks"))


def test_coco_lists(tmp_path):
    pytest.importorskip("pycocotools")
    path = write_coco(
        tmp_path / "coco.json", MASKS, lambda mask: {"size": list(mask.shape), "counts": coco_counts(mask)}
    )
    check(indexed(tmp_path, path))


def test_coco_compressed(tmp_path):
    library = pytest.importorskip("pycocotools.mask")

    def compressed(mask):
        code = library.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": code["size"], "counts": code["counts"].decode()}

    check(indexed(tmp_path, write_coco(tmp_path / "coco.json", MASKS, compressed)))


def test_coco_polygons(tmp_path):
    """A square of the pixels' borders around each pixel; several polygons of one annotation are joined by OR."""
    pytest.importorskip("pycocotools")

    def squares(mask):
        return [[x, y, x + 1, y, x + 1, y + 1, x, y + 1] for y, x in np.argwhere(mask).tolist()]

    check(indexed(tmp_path, write_coco(tmp_path / "coco.json", MASKS, squares)))


def test_dicom_seg(tmp_path):
    """The files have other names than the images and no suffix; the images are found by their UIDs."""
    uids = write_images(tmp_path / "images", MASKS)
    (tmp_path / "segs").mkdir()
    for number, (name, mask) in enumerate(MASKS.items()):
        write_seg(tmp_path / "segs" / f"object{number}", [uids[name]], mask[None, ..., None])
    check(indexed(tmp_path, tmp_path / "segs"))


def test_palettes(tmp_path):
    (tmp_path / "masks").mkdir()
    for name, mask in MASKS.items():
        picture = Image.fromarray(np.where(mask, 2, 5).astype(np.uint8), "P")
        picture.putpalette([9, 9, 9, 0, 0, 255, 128, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0])
        picture.save(tmp_path / "masks" / f"{name}.png")
    check(indexed(tmp_path, tmp_path / "masks"))
