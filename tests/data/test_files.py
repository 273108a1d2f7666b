"""Tests of finding the image files of a folder and choosing one per id."""

import logging
import os
import unicodedata

import numpy as np
import pydicom
import pytest
from PIL import Image

from pneumoseg.data.files import absolute, choose_one_per_id, find_images
from pneumoseg.data.index import index_dataset
from tests.conftest import write_dicom

IMAGE = np.arange(24, dtype=np.uint8).reshape(4, 6)


def names(folder):
    return [str(path.relative_to(absolute(folder))) for path in find_images(folder).paths]


def test_a_link_to_its_own_folder_shows_nothing_twice(tmp_path):
    write_dicom(tmp_path / "study/a.dcm", IMAGE)
    (tmp_path / "study/again").symlink_to(tmp_path / "study")
    (tmp_path / "up").symlink_to(tmp_path)
    assert names(tmp_path) == ["study/a.dcm"]


def test_two_links_into_each_other_end(tmp_path):
    write_dicom(tmp_path / "one/a.dcm", IMAGE)
    write_dicom(tmp_path / "two/b.dcm", IMAGE)
    (tmp_path / "one/other").symlink_to(tmp_path / "two")
    (tmp_path / "two/other").symlink_to(tmp_path / "one")
    assert names(tmp_path) == ["one/a.dcm", "two/b.dcm"]


def test_a_folder_outside_is_followed_once_and_a_real_path_comes_before_a_link(tmp_path):
    write_dicom(tmp_path / "outside/deep/a.dcm", IMAGE)
    write_dicom(tmp_path / "data/z/b.dcm", IMAGE)
    (tmp_path / "data/a").symlink_to(tmp_path / "data/z")
    for link in ("one", "two"):
        (tmp_path / "data" / link).symlink_to(tmp_path / "outside")
    assert names(tmp_path / "data") == ["one/deep/a.dcm", "z/b.dcm"]


def test_a_linked_folder_may_itself_be_given(tmp_path):
    write_dicom(tmp_path / "real/a.dcm", IMAGE)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert find_images(tmp_path / "link").paths == [tmp_path / "link/a.dcm"]


def test_hidden_files_are_skipped_and_counted(tmp_path, caplog):
    write_dicom(tmp_path / "s/a.dcm", IMAGE)
    for junk in ("s/._a.dcm", "__MACOSX/s/b.dcm", ".trash/c.dcm", "@eaDir/d.dcm"):
        write_dicom(tmp_path / junk, IMAGE)
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    with caplog.at_level(logging.INFO, "pneumoseg"):
        assert names(tmp_path) == ["s/a.dcm"]
    assert "5 files and folders skipped ('is a hidden folder': 3, 'is hidden': 2)" in caplog.text


def test_the_given_folder_may_lie_in_a_hidden_folder(tmp_path):
    write_dicom(tmp_path / ".cache/__MACOSX/data/a.dcm", IMAGE)
    assert names(tmp_path / ".cache/__MACOSX/data") == ["a.dcm"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write_dicom(tmp_path / "a.dcm", IMAGE)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"1 folders cannot be read, the first: .*closed \(Permission denied\)"):
        found = find_images(tmp_path)
    assert found.paths == [tmp_path / "a.dcm"]
    assert found.skipped == found.unlisted == [(tmp_path / "closed", "cannot be listed (Permission denied)")]


def test_links_to_files_keep_their_names(tmp_path):
    """Follow the layout of git-annex and DVC: the content is named after its hash, and a link has the real name."""
    write_dicom(tmp_path / "data/.git/annex/objects/SHA256E-0123.dcm", IMAGE)
    (tmp_path / "data/s").mkdir()
    (tmp_path / "data/s/1.2.3.dcm").symlink_to("../.git/annex/objects/SHA256E-0123.dcm")
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\n1.2.3,0 3\n")
    manifest = index_dataset(tmp_path / "data", tmp_path / "rle.csv")
    assert manifest["image_id"].tolist() == ["1.2.3"]
    assert manifest["path"].tolist() == [str(tmp_path / "data/s/1.2.3.dcm")]


def test_absolute_resolves_only_links_before_dots(tmp_path, monkeypatch):
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "far/link").symlink_to(tmp_path / "far/away")
    (tmp_path / "near").symlink_to(tmp_path / "far/away")
    monkeypatch.chdir(tmp_path)
    assert absolute("near/a.dcm") == tmp_path / "near/a.dcm"
    # The parent of the target of a link is not the parent of the link.
    assert absolute("near/../link/a.dcm") == tmp_path / "far/link/a.dcm"
    assert absolute(tmp_path / "far/../far/link/b.dcm") == tmp_path / "far/link/b.dcm"


def test_one_file_for_each_id(tmp_path):
    good = write_dicom(tmp_path / "b/x.dcm", IMAGE)
    bad = tmp_path / "a/x.dcm"
    bad.parent.mkdir()
    bad.write_bytes(b"damaged")
    third, other = write_dicom(tmp_path / "c/x.dcm", IMAGE), write_dicom(tmp_path / "a/y.dcm", IMAGE)
    chosen, left_out = choose_one_per_id(find_images(tmp_path).paths)
    assert chosen == [good, other]
    assert left_out == [("x", f"{path}: same name as {good}") for path in (bad, third)]


def test_composed_and_decomposed_names_are_one(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    assert composed != decomposed
    first = write_dicom(tmp_path / f"1/{decomposed}.dcm", IMAGE)
    second = write_dicom(tmp_path / f"2/{composed}.dcm", IMAGE)
    assert choose_one_per_id([first, second]) == ([first], [(composed, f"{second}: same name as {first}")])
    second.unlink()
    (tmp_path / "rle.csv").write_text(f"ImageId,EncodedPixels\n{composed},0 3\n")
    (tmp_path / "map.csv").write_text(f"image,nih\n{decomposed},00000007_000.png\n")
    manifest = index_dataset(tmp_path, tmp_path / "rle.csv", id_map=tmp_path / "map.csv")
    assert manifest["image_id"].tolist() == [composed]
    assert manifest["patient_id"].tolist() == ["00000007"]
    assert manifest["path"].tolist() == [str(first)]


@pytest.mark.parametrize("place", [b"caf\xe9/a.dcm", b"caf\xe9.dcm"])
def test_names_that_are_not_utf8_are_listed_and_stop_nothing(tmp_path, place):
    odd = os.path.join(os.fsencode(tmp_path), place)
    good = write_dicom(tmp_path / "good.dcm", IMAGE)
    try:
        os.makedirs(os.path.dirname(odd), exist_ok=True)
        with open(odd, "wb") as file:
            file.write(good.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\ngood,-1\na,-1\n")
    with pytest.warns(UserWarning, match="left out"):
        manifest = index_dataset(tmp_path, tmp_path / "rle.csv", rejected=tmp_path / "rejected.csv")
    assert manifest["image_id"].tolist() == ["good"]
    rejected = (tmp_path / "rejected.csv").read_text(encoding="utf-8")
    assert "caf\\udce9" in rejected
    assert "path is not UTF-8: rename the file or its folder" in rejected


def test_the_content_decides_whatever_the_name(tmp_path):
    for name in ("1.2.840.5", "x.dicom", "y.DCM", "z.bin"):
        write_dicom(tmp_path / name, IMAGE)
    for name, kind in (("p.png", "PNG"), ("q", "JPEG"), ("r.tmp", "TIFF")):
        Image.fromarray(IMAGE).save(tmp_path / name, kind)
    (tmp_path / "bare").write_bytes((tmp_path / "z.bin").read_bytes()[132:])
    bare_data_set = pydicom.dcmread(tmp_path / "z.bin")
    del bare_data_set.file_meta
    bare_data_set.save_as(tmp_path / "barer", implicit_vr=True, little_endian=True)
    assert names(tmp_path) == sorted(["1.2.840.5", "bare", "barer", "p.png", "q", "r.tmp", "x.dicom", "y.DCM", "z.bin"])


def test_broken_files_with_the_suffix_of_an_image_are_listed_and_others_are_skipped(tmp_path):
    write_dicom(tmp_path / "good.dcm", IMAGE)
    for name in ("empty.dcm", "empty.PNG", "text.tiff", "notes.txt", "empty"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"image_id,label\n")
    Image.fromarray(IMAGE).save(tmp_path / "logo.gif")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == ["empty.PNG", "empty.dcm", "gone", "gone.jpg", "good.dcm", "text.tiff"]
    assert find_images(tmp_path).skipped == [
        (tmp_path / "empty", "is not an image"),
        (tmp_path / "logo.gif", "is a GIF file"),
        (tmp_path / "notes.txt", "is not an image"),
        (tmp_path / "pipe", "is not a regular file"),
    ]


def test_files_that_cannot_be_opened_are_listed_whatever_their_names(tmp_path, monkeypatch):
    for name in ("1.2.840.5", "IM1", "IM2.dcm"):
        write_dicom(tmp_path / name, IMAGE)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    assert names(tmp_path) == ["1.2.840.5", "IM1", "IM2.dcm", "loop"]


def test_directories_of_media_are_skipped_by_name_and_by_content(tmp_path):
    write_dicom(tmp_path / "IM00001", IMAGE)
    (tmp_path / "DICOMDIR").write_bytes(b"anything")
    directory = write_dicom(tmp_path / "index.dcm", IMAGE)
    data = pydicom.dcmread(directory)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.save_as(directory, enforce_file_format=True)
    assert names(tmp_path) == ["IM00001"]
    assert [reason for _, reason in find_images(tmp_path).skipped] == ["is a DICOMDIR"] * 2


def as_class(path, uid):
    data = pydicom.dcmread(path)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{uid}"
    data.save_as(path, enforce_file_format=True)
    return path


# UIDs of PS3.6 annex A, table A-1, after 1.2.840.10008.5.1.4.1.1.
@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("88.59", "Key Object Selection Document"),
        ("88.33", "Comprehensive SR"),
        ("88.67", "X-Ray Radiation Dose SR"),
        ("11.1", "Grayscale Softcopy Presentation State"),
        ("66", "Raw Data"),
        ("66.4", "Segmentation"),
        ("66.7", ""),
        ("481.2", "RT Dose"),
        ("481.3", "RT Structure Set"),
        ("104.1", "Encapsulated PDF"),
        ("9.1.1", "12-lead ECG Waveform"),
    ],
)
def test_dicom_objects_that_are_not_images_are_skipped(tmp_path, uid, name):
    write_dicom(tmp_path / "IM1", IMAGE)
    other = as_class(write_dicom(tmp_path / "b.dcm", IMAGE), uid)
    found = find_images(tmp_path)
    assert found.paths == [tmp_path / "IM1"]
    ((path, reason),) = found.skipped
    assert path == other
    assert reason == f"is not an image ({name})" or not name
    assert find_images([tmp_path / "IM1", other]).paths == [tmp_path / "IM1", other]


# X-rays, CT, secondary captures, RT images, and classes that begin with the digits of one that is not an image.
@pytest.mark.parametrize(
    "uid", ["1", "1.1", "1.1.1", "2", "7", "7.2", "12.1", "20", "481.1", "481.23", "6.1", "4", "30"]
)
def test_dicom_images_are_listed(tmp_path, uid):
    as_class(write_dicom(tmp_path / "a", IMAGE), uid)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("implicit", [False, True])
def test_the_class_is_found_without_a_preamble(tmp_path, implicit):
    write_dicom(tmp_path / "a.dcm", IMAGE)
    data = pydicom.dcmread(as_class(write_dicom(tmp_path / "b", IMAGE), "88.59"))
    del data.file_meta
    data.InstanceCreationDate = "20200101"
    data.SpecificCharacterSet = "ISO_IR 100"
    data.save_as(tmp_path / "b", implicit_vr=implicit, little_endian=True)
    assert find_images(tmp_path).skipped == [(tmp_path / "b", "is not an image (Key Object Selection Document)")]


def test_a_file_that_is_named_is_never_skipped(tmp_path):
    write_dicom(tmp_path / "a/x.dcm", IMAGE)
    (tmp_path / "a/notes.txt").write_text("text")
    (tmp_path / "a/.hidden.dcm").write_text("text")
    found = find_images([tmp_path / "a", tmp_path / "a/notes.txt", str(tmp_path / "a/.hidden.dcm")])
    assert found.paths == [tmp_path / f"a/{name}" for name in (".hidden.dcm", "notes.txt", "x.dcm")]
    assert found.skipped == []
    assert find_images(str(tmp_path / "a/notes.txt")).paths == [tmp_path / "a/notes.txt"]


def test_inputs_that_overlap_give_no_file_twice(tmp_path, monkeypatch):
    write_dicom(tmp_path / "a/b/x.dcm", IMAGE)
    write_dicom(tmp_path / "a/y.dcm", IMAGE)
    (tmp_path / "link").symlink_to(tmp_path / "a/b")
    expected = [tmp_path / "a/b/x.dcm", tmp_path / "a/y.dcm"]
    monkeypatch.chdir(tmp_path)
    for inputs in (["a", "a/b"], ["a/b", "a"], ["a", "a"], ["a", "a/b/x.dcm", "a/../a/b/x.dcm"], [".", "a"]):
        assert find_images(inputs).paths == expected
    assert find_images(["a/b/x.dcm", "link"]).paths == [tmp_path / "a/b/x.dcm"]
    assert find_images(["link", "a/y.dcm"]).paths == [tmp_path / "a/y.dcm", tmp_path / "link/x.dcm"]


def write_results_folder(folder):
    """Write what a folder of results holds: its journal and a mask named like an image."""
    (folder / "masks").mkdir(parents=True)
    (folder / ".progress.jsonl").write_text("{}\n")
    Image.fromarray(IMAGE).save(folder / "masks/a.png")
    return folder


def test_folders_of_results_are_skipped(tmp_path):
    image = write_dicom(tmp_path / "in/study/a.dcm", IMAGE)
    inside = write_results_folder(tmp_path / "in/results")
    outside = write_results_folder(tmp_path / "out")
    (tmp_path / "in/link").symlink_to(outside)
    (tmp_path / "in/masks").symlink_to(outside / "masks")
    (tmp_path / "in/own").symlink_to(inside / "masks")
    (tmp_path / "in/b.png").symlink_to(outside / "masks/a.png")
    found = find_images(tmp_path / "in")
    assert found.paths == [image]
    assert found.skipped == [
        (tmp_path / f"in/{name}", "is in a folder of results") for name in ("b.png", "link", "masks", "own", "results")
    ]
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\na,0 3\n")
    assert index_dataset(tmp_path / "in", tmp_path / "rle.csv")["path"].tolist() == [str(image)]


def test_inputs_in_a_folder_of_results_are_skipped_and_counted(tmp_path):
    image = write_dicom(tmp_path / "in/a.dcm", IMAGE)
    mask = write_results_folder(tmp_path / "out") / "masks/a.png"
    (tmp_path / "b.png").symlink_to(mask)
    found = find_images([image, mask, tmp_path / "b.png"])
    assert found.paths == [image]
    assert found.skipped == [(tmp_path / "b.png", "is in a folder of results"), (mask, "is in a folder of results")]
    for inputs in (tmp_path / "out", tmp_path / "out/masks", mask):
        with pytest.raises(FileNotFoundError, match=r"1 files and folders skipped \('is in a folder of results': 1\)"):
            find_images(inputs)


def test_inputs_without_an_image_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such folder or file"):
        find_images([tmp_path, tmp_path / "absent"])
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(FileNotFoundError, match=r"no DICOM, PNG, JPEG or TIFF file in it.*'is not an image': 1"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="no input"):
        find_images([])
