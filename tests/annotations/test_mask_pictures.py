"""Tests of folders of mask pictures."""

import logging

import numpy as np
import pytest
from PIL import Image

from pneumoseg.annotations import read_annotations
from pneumoseg.annotations.annotations import Unusable
from pneumoseg.annotations.mask_pictures import read_mask_picture
from pneumoseg.data.index import index_dataset
from tests.annotations.writers import write_images, write_mask

MASK = np.array([[0, 1, 1], [0, 0, 1]], bool)


def saved(tmp_path, picture, name="mask.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("pixels", "name"),
    [
        (MASK.astype(np.uint8), "0 and 1.png"),
        (MASK.astype(np.uint8) * np.uint8(255), "0 and 255.png"),
        (MASK.astype(np.uint8) * np.uint8(7), "0 and 7.tif"),
        (MASK, "one bit.png"),
        (MASK, "one bit.tif"),
        (MASK.astype(np.uint16) * np.uint16(65535), "16 bits.png"),
        (MASK.astype(np.uint16) * np.uint16(256), "low byte 0.png"),
        (MASK.astype(np.uint16) * np.uint16(256), "low byte 0.tif"),
        (MASK.astype(np.int32) * np.int32(70000), "32 bits.tif"),
        (MASK.astype(np.float32), "float.tif"),
        (np.repeat(MASK[..., None].astype(np.uint8) * np.uint8(255), 3, axis=2), "grey in colours.png"),
        (np.dstack([MASK * np.uint8(9)] * 3 + [np.full(MASK.shape, 255, np.uint8)]), "opaque.png"),
        (np.dstack([MASK * np.uint8(9), np.full(MASK.shape, 255, np.uint8)]), "opaque grey.png"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_depth(tmp_path, pixels, name):
    mask = read_mask_picture(saved(tmp_path, Image.fromarray(pixels), name), MASK.shape)
    assert mask.dtype == bool
    assert np.array_equal(mask, MASK)


def palette_picture(indices, colours):
    picture = Image.fromarray(np.asarray(indices, np.uint8), "P")
    picture.putpalette([value for colour in colours for value in colour])
    return picture


@pytest.mark.parametrize(
    ("foreground", "background", "colours"),
    [
        (1, 0, [(0, 0, 0), (128, 0, 0)]),
        (0, 1, [(255, 255, 255), (0, 0, 0)]),  # black is the background wherever it stands
        (1, 0, [(255, 255, 255), (200, 0, 0)]),  # without black, the first colour is
        (1, 0, [(255, 255, 255), (200, 0, 0), (0, 0, 0)]),  # black is not used
        (5, 9, [(1, 2, 3)] * 9 + [(0, 0, 0)]),
    ],
)
def test_palettes(tmp_path, foreground, background, colours):
    path = saved(tmp_path, palette_picture(np.where(MASK, foreground, background), colours))
    assert np.array_equal(read_mask_picture(path, MASK.shape), MASK)


@pytest.mark.parametrize(
    ("indices", "colours", "named"),
    [
        (MASK, [(0, 0, 0), (0, 0, 0)], "0, 1"),
        (MASK, [(255, 0, 0), (255, 0, 0)], "0, 1"),
        (MASK, [(0, 0, 0)], "0, 1"),
        (MASK * 30, [(255, 0, 0), *[(1, 1, 1)] * 19], "0, 30"),  # the palette ends before 30
        (np.array([[0, 1, 1], [0, 0, 2]]), [(0, 0, 0), (9, 9, 9), (9, 9, 9)], "0, 1, 2"),
        (np.ones_like(MASK), [(255, 0, 0), (255, 0, 0)], "0, 1"),
    ],
)
def test_palettes_that_do_not_tell_indices_apart_are_refused(tmp_path, indices, colours, named):
    path = saved(tmp_path, palette_picture(indices, colours))
    with pytest.raises(ValueError, match=f"too few colours for the indices {named}, expected one for each: save it in"):
        read_mask_picture(path, MASK.shape)


def test_empty_and_full_masks(tmp_path):
    for value in (0, 255):
        path = saved(tmp_path, Image.new("L", (3, 2), value))
        assert (read_mask_picture(path, (2, 3)) == bool(value)).all()
    black = [(9, 9, 9), (0, 0, 0)]
    assert not read_mask_picture(saved(tmp_path, palette_picture(np.full((2, 3), 1), black)), (2, 3)).any()
    assert not read_mask_picture(saved(tmp_path, palette_picture(np.full((2, 3), 0), black)), (2, 3)).any()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], np.uint8)), "has the values 0, 1, 2, 3, 4, 5, expected two"),
        (Image.fromarray(np.arange(8, dtype=np.uint8)[None]), "has the values 0, 1, 2, 3, 4, 5 and 2 more"),
        (Image.fromarray(np.array([[1, 1, 2], [2, 1, 1]], np.uint8)), "has the values 1, 2, expected two with 0"),
        (Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0], [0, 0, 0]]], np.uint8)), "is coloured"),
        (Image.fromarray(np.array([[[0, 0, 0, 0], [9, 9, 9, 255]]], np.uint8)), "is partly transparent"),
        (
            palette_picture([[0, 1, 2]], [(0, 0, 0), (1, 0, 0), (2, 0, 0)]),
            "has more than two colours, at the indices 0, 1",
        ),
        (
            palette_picture([[1, 2]], [(9, 9, 9), (1, 0, 0), (2, 0, 0)]),
            "neither black nor the first colour .* indices 1, 2",
        ),
    ],
    ids=["values", "many values", "no 0", "coloured", "transparent", "palette", "palette without background"],
)
def test_other_pictures_are_refused(tmp_path, picture, message):
    path = saved(tmp_path, picture)
    with pytest.raises(ValueError, match=message) as caught:
        read_mask_picture(path, (picture.height, picture.width))
    assert str(path) in str(caught.value)


def test_transparent_palettes_are_refused(tmp_path):
    path = saved(tmp_path, palette_picture(MASK, [(0, 0, 0), (1, 0, 0)]), transparency=0)
    with pytest.raises(ValueError, match="partly transparent"):
        read_mask_picture(path, MASK.shape)


def test_jpeg_is_named_as_the_cause(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[3:9, 5:11] = 255
    with pytest.raises(ValueError, match="JPEG changes values"):
        read_mask_picture(saved(tmp_path, Image.fromarray(pixels), "mask.jpg"), (16, 16))


def test_broken_files_and_several_pages_are_refused(tmp_path):
    good = write_mask(tmp_path / "good.png", MASK)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:40])
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("cut.png", "text.png", "absent.png"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            read_mask_picture(tmp_path / name, MASK.shape)
    page = Image.fromarray(MASK.astype(np.uint8))
    path = saved(tmp_path, page, "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(ValueError, match=r"pages.tif holds 2 pictures, expected one"):
        read_mask_picture(path, MASK.shape)


def test_another_size_is_an_error_with_both_sizes_and_files(tmp_path):
    write_images(tmp_path / "images", {"a": MASK, "b": MASK})
    write_mask(tmp_path / "masks/a.png", MASK)
    write_mask(tmp_path / "masks/b.png", MASK.T)
    with pytest.warns(UserWarning, match="1 malformed annotation"):
        index_dataset(tmp_path / "images", tmp_path / "masks", rejected=tmp_path / "rejected.csv")
    expected = (
        f"b,{tmp_path}/images/b.dcm,malformed annotation: mask {tmp_path}/masks/b.png is 3 x 2 pixels and its image"
    )
    assert f"{expected} is 2 x 3 pixels\n" in (tmp_path / "rejected.csv").read_text()


def found(tmp_path, names, image_ids, mask_name=None):
    """Return the names of the masks of each image, and of those that are not named by the pattern."""
    for name in names:
        write_mask(tmp_path / "masks" / name, MASK)
    annotations = read_annotations(tmp_path / "masks", mask_name=mask_name).find(image_ids)
    masks = {
        image_id: entry
        if isinstance(entry, Unusable)
        else [str(path.relative_to(tmp_path / "masks")) for path in entry]
        for image_id, entry in annotations.entries.items()
    }
    return masks, [path.rsplit("/", 1)[1] for _, path, _ in annotations.strays]


def test_masks_are_named_like_images_or_with_mask_behind(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "pneumoseg"):
        assert found(tmp_path / "1", ["a.png", "deep/b.tif"], {"a", "b"}) == ({"a": ["a.png"], "b": ["deep/b.tif"]}, [])
        assert "named by the pattern {}\n" in caplog.text
        assert found(tmp_path / "2", ["a_mask.png", "b_mask.png"], {"a", "b"})[1] == []
        assert "named by the pattern {}_mask\n" in caplog.text


def test_both_default_names_may_be_mixed(tmp_path, caplog):
    names = ["a_mask.png", "b.png", "c.png", "x.png", "y_mask.png"]
    with caplog.at_level(logging.INFO, "pneumoseg"):
        masks, strays = found(tmp_path, names, {"a", "b", "c"})
    expected = {"a": ["a_mask.png"], "b": ["b.png"], "c": ["c.png"], "x": ["x.png"], "y": ["y_mask.png"]}
    assert (masks, strays) == (expected, [])
    assert "named by the pattern {} (3) and {}_mask (2)\n" in caplog.text


def test_an_image_with_both_default_names_has_the_longer_one(tmp_path, caplog):
    masks, strays = found(tmp_path, ["a.png", "a_mask.png", "b.png"], {"a", "b"})
    assert (masks, strays) == ({"a": ["a_mask.png"], "b": ["b.png"]}, ["a.png"])
    assert "1 masks not used, because their images have masks named {}_mask" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{}-seg", "1.2.3-seg.png"),
        ("mask of {}", "mask of 1.2.3.png"),
        ("{}/lesion", "1.2.3/lesion.png"),
        ("{}", "1.2.3.png"),
    ],
)
def test_a_pattern_may_have_text_before_and_behind(tmp_path, pattern, name):
    assert found(tmp_path, [name, "other_.bmp"], {"1.2.3"}, pattern)[0]["1.2.3"] == [name]


def test_a_star_stands_for_any_text_and_allows_several_masks(tmp_path):
    names = ["a_1.png", "a_2.png", "a_b_1.png", "x.png"]
    masks, strays = found(tmp_path, names, {"a", "a_b"}, "{}_*")
    assert masks == {"a": ["a_1.png", "a_2.png"], "a_b": ["a_b_1.png"]}
    assert strays == ["x.png"]


def test_a_star_may_stand_before_the_id_and_in_paths(tmp_path):
    assert found(tmp_path / "1", ["l a.png", "r a.png"], {"a"}, "* {}")[0] == {"a": ["l a.png", "r a.png"]}
    assert found(tmp_path / "2", ["a/1.png", "a/2.png"], {"a"}, "{}/*")[0] == {"a": ["a/1.png", "a/2.png"]}


def test_several_masks_without_a_star_are_refused(tmp_path):
    masks, _ = found(tmp_path, ["a.png", "b.png", "deep/a.png"], {"a", "b"})
    assert masks["a"].reason.startswith("2 masks, ")
    assert "with a * in --mask-name" in masks["a"].reason
    assert masks["b"] == ["b.png"]


def test_several_masks_are_joined(tmp_path):
    write_images(tmp_path / "images", {"a": MASK})
    first = np.zeros_like(MASK)
    first[0] = MASK[0]
    write_mask(tmp_path / "masks/a_1.png", first)
    write_mask(tmp_path / "masks/a_2.png", MASK & ~first)
    manifest = index_dataset(tmp_path / "images", read_annotations(tmp_path / "masks", mask_name="{}_*"))
    assert manifest["rle"].tolist() == ["2 1 1 2"]


def test_linked_folders_are_followed_once_and_hidden_files_skipped(tmp_path):
    write_mask(tmp_path / "far/b.png", MASK)
    for link in ("one", "two"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / link).symlink_to(tmp_path / "far")
    (tmp_path / "masks/round").symlink_to(tmp_path / "masks")
    write_mask(tmp_path / "masks/._a.png", MASK)
    write_mask(tmp_path / "masks/__MACOSX/a.png", MASK)
    assert found(tmp_path, ["a.png"], {"a", "b"}) == ({"a": ["a.png"], "b": ["one/b.png"]}, [])


@pytest.mark.parametrize("pattern", ["mask", "{}{}", ""])
def test_patterns_without_one_id_are_refused(tmp_path, pattern):
    write_mask(tmp_path / "a.png", MASK)
    with pytest.raises(ValueError, match=r"expected \{\} once"):
        read_annotations(tmp_path, mask_name=pattern)


def test_images_and_masks_may_lie_in_one_folder(tmp_path):
    """The masks are not taken for images, even if images without a mask count as negative."""
    for number, name in enumerate("abc"):
        Image.fromarray(np.full(MASK.shape, number, np.uint8)).save(tmp_path / f"{name}.png")
    write_mask(tmp_path / "a_mask.png", MASK)
    write_mask(tmp_path / "z_mask.png", MASK)
    with pytest.warns(UserWarning, match="1 annotations left out"):
        manifest = index_dataset(tmp_path, tmp_path, unannotated_negative=True, rejected=tmp_path / "out/rejected.csv")
    assert manifest["image_id"].tolist() == ["a", "b", "c"]
    assert manifest["rle"].tolist() == ["2 1 1 2", "-1", "-1"]
    rejected = (tmp_path / "out/rejected.csv").read_text().splitlines()[1:]
    assert rejected == [f"z,{tmp_path}/z_mask.png,annotated without a file"]


@pytest.mark.parametrize("mask_name", [None, "{}_mask"])
def test_pictures_in_a_folder_of_masks_are_not_images(tmp_path, mask_name):
    """Misnamed masks below the images would otherwise become X-rays without a pneumothorax."""
    for number, name in enumerate("abc"):
        Image.fromarray(np.full(MASK.shape, number, np.uint8)).save(tmp_path / f"{name}.png")
    for name in ("a_mask", "b_mask", "c-seg"):
        write_mask(tmp_path / f"masks/{name}.png", MASK)
    annotations = read_annotations(tmp_path / "masks", mask_name=mask_name)
    with pytest.warns(UserWarning, match="left out"):
        manifest = index_dataset(tmp_path, annotations, unannotated_negative=True, rejected=tmp_path / "rejected.csv")
    assert manifest["image_id"].tolist() == ["a", "b", "c"]
    assert manifest["has_pneumothorax"].tolist() == [True, True, False]
    assert f"{tmp_path}/masks/c-seg.png," in (tmp_path / "rejected.csv").read_text()


def test_a_linked_folder_of_masks_below_the_images_holds_no_images(tmp_path):
    Image.fromarray(np.full(MASK.shape, 3, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(write_mask(tmp_path / "images/a.png", MASK))
    write_mask(tmp_path / "far/a_mask.png", MASK)
    write_mask(tmp_path / "far/b-seg.png", MASK)
    (tmp_path / "images/masks").symlink_to(tmp_path / "far")
    with pytest.warns(UserWarning, match="left out"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "images/masks", unannotated_negative=True)
    assert manifest["image_id"].tolist() == ["a"]


def test_images_may_lie_below_the_masks(tmp_path):
    Image.fromarray(np.full(MASK.shape, 3, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(write_mask(tmp_path / "masks/images/a.png", MASK))
    write_mask(tmp_path / "masks/a_mask.png", MASK)
    manifest = index_dataset(tmp_path / "masks/images", tmp_path / "masks")
    assert manifest["rle"].tolist() == ["2 1 1 2"]


def test_a_folder_without_masks_of_its_own_is_refused(tmp_path):
    for name in "ab":
        write_mask(tmp_path / f"{name}.png", MASK)
    with pytest.raises(ValueError, match=r"all of its 2 images are annotations of .*: give the pattern"):
        index_dataset(tmp_path, tmp_path)


def test_names_that_match_nothing_are_shown_of_both_sides(tmp_path):
    write_images(tmp_path / "images", {"a": MASK, "b": MASK})
    write_mask(tmp_path / "masks/a-seg.png", MASK)
    for options, example in (({}, "a-seg"), ({"mask_name": "{}+"}, "a-seg.png")):
        annotations = read_annotations(tmp_path / "masks", **options)
        for unannotated_negative in (False, True):
            with (
                pytest.warns(UserWarning, match="left out"),
                pytest.raises(ValueError, match=f"named like 'a', the annotations like '{example}'; give the pattern"),
            ):
                index_dataset(tmp_path / "images", annotations, unannotated_negative=unannotated_negative)


def test_an_image_named_like_a_mask_does_not_become_a_negative(tmp_path):
    write_images(tmp_path / "images", dict.fromkeys(["a", "b", "a_mask", "c_mask"], np.zeros((8, 8), bool)))
    write_mask(tmp_path / "masks/a.png", np.eye(8, dtype=bool))
    with pytest.warns(UserWarning, match="1 named like the mask of another image"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "masks", unannotated_negative=True)
    # No image is named c, so that c_mask may be an image.
    assert manifest["image_id"].tolist() == ["a", "b", "c_mask"]
