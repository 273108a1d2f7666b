"""Tests of DICOM SEG objects."""

import logging
import os
import sys

import numpy as np
import pydicom
import pytest

from pneumoseg.annotations import read_annotations
from pneumoseg.annotations.dicom_seg import is_segmentation
from pneumoseg.data.index import index_dataset
from tests.annotations.writers import LUNG, PNEUMOTHORAX, write_images, write_seg
from tests.conftest import write_dicom

pytest.importorskip("highdicom")
SHAPE = (5, 7)
RNG = np.random.default_rng(1)
MASKS = {name: RNG.random(SHAPE) > 0.5 for name in "abc"}


@pytest.fixture
def uids(tmp_path):
    """Write three images and return their UIDs."""
    (tmp_path / "segs").mkdir()
    return write_images(tmp_path / "images", MASKS)


def masks_in(path, uids, **options):
    annotations = read_annotations(path, "seg", **options)
    entries = annotations.find(set()).entries
    return {name: annotations.read(entries[uid], SHAPE) for name, uid in uids.items() if uid in entries}


def change(path, **elements):
    """Write a SEG object again with other elements, or without those whose value is None."""
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)
    return dataset


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_images_and_segmentations_in_one_folder(tmp_path, uids, kind):
    stack = np.stack(list(MASKS.values()))[..., None]
    write_seg(tmp_path / "images/s.dcm", list(uids.values()), stack, kind=kind)
    manifest = index_dataset(tmp_path / "images", read_annotations(tmp_path / "images", "seg"))
    assert manifest["image_id"].tolist() == ["a", "b", "c"]
    assert manifest["area_px"].tolist() == [MASKS[name].sum() for name in "abc"]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_of_several_images(tmp_path, uids, kind):
    """Frames of 35 pixels do not begin at whole bytes."""
    stack = np.stack(list(MASKS.values()))[..., None]
    path = write_seg(tmp_path / "segs/one.dcm", list(uids.values()), stack, kind=kind)
    found = masks_in(path, uids)
    assert set(found) == set(MASKS)
    assert all(np.array_equal(found[name], mask) for name, mask in MASKS.items())


def test_the_segment_is_found_by_code_by_label_and_by_type(tmp_path, uids):
    both = np.stack([MASKS["a"], MASKS["b"]], axis=-1)[None]
    path = write_seg(
        tmp_path / "segs/x", [uids["a"]], both, segments=(("Segment 1", LUNG), ("Segment 2", PNEUMOTHORAX))
    )
    assert np.array_equal(masks_in(path, uids)["a"], MASKS["b"])
    assert np.array_equal(masks_in(path, uids, category="lung")["a"], MASKS["a"])
    assert np.array_equal(masks_in(path, uids, category="SEGMENT 1")["a"], MASKS["a"])


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_and_files_of_one_image_are_joined(tmp_path, uids, kind):
    left = MASKS["a"] & (np.arange(7) < 3)
    right = MASKS["a"] & (np.arange(7) > 4)
    middle = MASKS["a"] & ~left & ~right
    pair = np.stack([left, right], axis=-1)[None]
    write_seg(
        tmp_path / "segs/x", [uids["a"]], pair, kind=kind, segments=(("left", PNEUMOTHORAX), ("right", PNEUMOTHORAX))
    )
    write_seg(tmp_path / "segs/y", [uids["a"]], middle[None, ..., None])
    assert np.array_equal(masks_in(tmp_path / "segs", uids)["a"], MASKS["a"])


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_single_segment_is_taken_and_logged(tmp_path, uids, caplog, kind):
    """A label map may name its background as a segment, number 0."""
    mask = MASKS["a"][None, ..., None]
    path = write_seg(tmp_path / "segs/x", [uids["a"]], mask, kind=kind, segments=(("lesion", LUNG),))
    with caplog.at_level(logging.INFO, "pneumoseg"):
        assert np.array_equal(masks_in(path, uids)["a"], MASKS["a"])
    assert "no segment pneumothorax, taking the only one, 'lesion', 'lung'" in caplog.text


def test_a_single_segment_is_not_taken_if_another_file_has_the_category(tmp_path, uids):
    write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None])
    write_seg(tmp_path / "segs/y", [uids["b"]], MASKS["b"][None, ..., None], segments=(("lungs", LUNG),))
    assert set(masks_in(tmp_path / "segs", uids)) == {"a"}
    [stray] = read_annotations(tmp_path / "segs").find(set()).strays
    assert stray.path.endswith("segs/y")
    assert stray.reason == "no segment of the category: pneumothorax, only 'lung', 'lungs'"


def test_objects_of_other_segments_alone_are_refused(tmp_path, uids):
    both = np.stack([MASKS["a"], MASKS["b"]], axis=-1)[None]
    write_seg(tmp_path / "segs/x", [uids["a"]], both, segments=(("Lung", LUNG), ("Rib", LUNG)))
    with pytest.raises(ValueError, match=r"none of its 1 SEG objects .*: pneumothorax, only 'lung', 'rib'"):
        read_annotations(tmp_path / "segs")


def test_the_only_reference_of_an_object_serves_frames_without_one(tmp_path, uids):
    path = write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None])
    dataset = pydicom.dcmread(path)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    dataset.save_as(path)
    assert np.array_equal(masks_in(path, uids)["a"], MASKS["a"])


def test_groups_that_all_frames_share_are_read(tmp_path, uids):
    path = write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None])
    dataset = pydicom.dcmread(path)
    [group], [shared] = dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence
    assert "SegmentIdentificationSequence" in shared
    shared.DerivationImageSequence = group.DerivationImageSequence
    del group.DerivationImageSequence
    del dataset.ReferencedSeriesSequence
    dataset.save_as(path)
    assert np.array_equal(masks_in(path, uids)["a"], MASKS["a"])


def test_frames_that_name_no_image_are_refused(tmp_path, uids):
    stack = np.stack(list(MASKS.values()))[..., None]
    path = write_seg(tmp_path / "segs/x", list(uids.values()), stack)
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence
    dataset.save_as(path)
    with pytest.raises(ValueError, match="frame 2 does not name its image, and the object refers to 3"):
        read_annotations(path)


def test_images_without_a_frame_have_an_empty_mask(tmp_path, uids):
    """Frames without a pixel of the segment are left out by highdicom, but the object names their images."""
    stack = np.stack([MASKS["a"], np.zeros(SHAPE, bool), MASKS["c"]])[..., None]
    path = write_seg(tmp_path / "segs/x", list(uids.values()), stack)
    assert pydicom.dcmread(path).NumberOfFrames == 2
    found = masks_in(path, uids)
    assert np.array_equal(found["c"], MASKS["c"])
    assert not found["b"].any()


def test_files_that_highdicom_itself_refuses_are_read(tmp_path, uids):
    """`segread` refuses the Pixel Measures that highdicom writes for an image with a spacing."""
    import highdicom

    path = write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None], PixelSpacing=[0.2, 0.2])
    with pytest.raises(AttributeError, match="Pixel Measures"):
        highdicom.seg.segread(path)
    assert np.array_equal(masks_in(path, uids)["a"], MASKS["a"])


def test_fractional_objects_and_broken_files_are_listed(tmp_path, uids):
    write_seg(tmp_path / "segs/good", [uids["a"]], MASKS["a"][None, ..., None])
    other = write_seg(tmp_path / "segs/fractional", [uids["b"]], MASKS["b"][None, ..., None], kind="FRACTIONAL")
    (tmp_path / "segs/cut").write_bytes(other.read_bytes()[:1000])
    change(write_seg(tmp_path / "segs/bare", [uids["c"]], MASKS["c"][None, ..., None]), SegmentSequence=None)
    (tmp_path / "segs/notes.txt").write_text("not a SEG object")
    with pytest.warns(UserWarning, match="3 unusable segmentation"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "segs", rejected=tmp_path / "rejected.csv")
    assert manifest["image_id"].tolist() == ["a"]
    rejected = (tmp_path / "rejected.csv").read_text()
    assert "unusable segmentation: SegmentationType is FRACTIONAL, expected BINARY or LABELMAP" in rejected
    assert "segs/cut,unusable segmentation" in rejected
    assert "segs/bare,unusable segmentation" in rejected
    assert f"malformed annotation: {tmp_path}/segs/bare unusable segmentation" in rejected
    assert "notes.txt" not in rejected


@pytest.mark.parametrize("fault", ["fractional", "bare", "cut"])
def test_images_of_unusable_objects_are_not_negative(tmp_path, uids, fault):
    kind = "FRACTIONAL" if fault == "fractional" else "BINARY"
    path = write_seg(tmp_path / "segs/x", [uids["b"]], MASKS["b"][None, ..., None], kind=kind)
    if fault == "bare":
        change(path, SegmentSequence=None)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    write_seg(tmp_path / "segs/good", [uids["a"], uids["b"]], np.stack([MASKS["a"], MASKS["b"]])[..., None])
    with pytest.warns(UserWarning, match="1 unusable segmentation"):
        manifest = index_dataset(
            tmp_path / "images", tmp_path / "segs", unannotated_negative=True, rejected=tmp_path / "rejected.csv"
        )
    assert manifest["image_id"].tolist() == ["a", "c"]
    assert manifest["has_pneumothorax"].tolist() == [True, False]
    assert f"malformed annotation: {path} unusable segmentation" in (tmp_path / "rejected.csv").read_text()


def test_files_that_cannot_be_read_are_listed(tmp_path, uids):
    write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None])
    (tmp_path / "segs/nowhere").symlink_to(tmp_path / "absent")
    os.mkfifo(tmp_path / "segs/pipe")
    with pytest.warns(UserWarning, match="2 cannot be opened"):
        index_dataset(tmp_path / "images", tmp_path / "segs", rejected=tmp_path / "rejected.csv")
    assert "segs/nowhere,cannot be opened: No such file" in (tmp_path / "rejected.csv").read_text()
    (tmp_path / "segs/x").unlink()
    with pytest.raises(FileNotFoundError, match=r"among 2 files, the first of 2 unreadable ones: .*segs/nowhere"):
        read_annotations(tmp_path / "segs", "seg")


def test_one_segment_of_a_label_map_of_two(tmp_path, uids):
    left, right = MASKS["a"] & (np.arange(7) < 3), MASKS["a"] & (np.arange(7) > 3)
    pair = np.stack([left, right], axis=-1)[None]
    segments = (("left", LUNG), ("right", PNEUMOTHORAX))
    path = write_seg(tmp_path / "segs/x", [uids["a"]], pair, kind="LABELMAP", segments=segments)
    assert left.any()
    assert np.array_equal(masks_in(path, uids)["a"], right)
    assert np.array_equal(masks_in(path, uids, category="left")["a"], left)


def test_a_segment_that_is_asked_for_must_exist(tmp_path, uids):
    path = write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None], segments=(("lesion", LUNG),))
    with pytest.raises(ValueError, match="no segment of the category: pneumothorax, only 'lesion', 'lung'"):
        read_annotations(path, category="pneumothorax")


def test_pixels_that_are_cut_short_are_listed(tmp_path, uids):
    path = write_seg(tmp_path / "segs/a", [uids["a"]], MASKS["a"][None, ..., None])
    write_seg(tmp_path / "segs/b", [uids["b"]], MASKS["b"][None, ..., None])
    change(path, PixelData=b"\0\0")
    with pytest.warns(UserWarning, match="1 malformed annotation"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "segs", rejected=tmp_path / "rejected.csv")
    assert manifest["image_id"].tolist() == ["b"]
    assert "segs/a cannot be read" in (tmp_path / "rejected.csv").read_text()


def test_another_size_is_an_error_with_both_sizes(tmp_path, uids):
    write_seg(tmp_path / "segs/a", [uids["a"]], MASKS["a"].T[None, ..., None])
    write_seg(tmp_path / "segs/b", [uids["b"]], MASKS["b"][None, ..., None])
    with pytest.warns(UserWarning, match="1 malformed annotation"):
        index_dataset(tmp_path / "images", tmp_path / "segs", rejected=tmp_path / "rejected.csv")
    assert "segs/a is 7 x 5 pixels and its image 5 x 7" in (tmp_path / "rejected.csv").read_text()


def test_positives_alone_and_segmentations_next_to_images(tmp_path, uids):
    """A study's folder often holds the image and its SEG object."""
    (tmp_path / "segs").rmdir()
    write_seg(tmp_path / "images/z.dcm", [uids["b"]], MASKS["b"][None, ..., None])
    manifest = index_dataset(tmp_path / "images", tmp_path / "images", unannotated_negative=True)
    assert manifest["image_id"].tolist() == ["a", "b", "c"]
    assert manifest["has_pneumothorax"].tolist() == [False, True, False]


def test_a_second_file_of_one_image_is_left_out(tmp_path, uids):
    write_dicom(tmp_path / "images/copy.dcm", np.zeros(SHAPE, np.uint8), SOPInstanceUID=uids["a"])
    write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None])
    with pytest.warns(UserWarning, match="1 same SOP Instance UID as"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "segs")
    assert manifest["image_id"].tolist() == ["a"]


def test_segmentations_of_other_images_match_nothing(tmp_path, uids):
    write_seg(tmp_path / "segs/x", ["1.2.999"], MASKS["a"][None, ..., None])
    for unannotated_negative in (False, True):
        with (
            pytest.warns(UserWarning, match="left out"),
            pytest.raises(ValueError, match=r"'a', .* like '1.2.999'"),
        ):
            index_dataset(tmp_path / "images", tmp_path / "segs", unannotated_negative=unannotated_negative)


def test_segmentations_are_recognized_by_content(tmp_path, uids):
    assert is_segmentation(write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None]))
    assert not is_segmentation(tmp_path / "images/a.dcm")
    (tmp_path / "empty").write_bytes(b"")
    assert not is_segmentation(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no DICOM SEG object among 3 files"):
        read_annotations(tmp_path / "images", "seg")


def test_a_missing_library_is_named_with_the_command(tmp_path, uids, monkeypatch):
    write_seg(tmp_path / "segs/x", [uids["a"]], MASKS["a"][None, ..., None])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ValueError, match=r"pip install 'pneumoseg\[dicom\]'"):
        read_annotations(tmp_path / "segs")
