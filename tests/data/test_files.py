"""Tests of finding the image files of a folder and choosing one per id."""

import logging
import os
import unicodedata

import numpy as np
import pytest

from pneumoseg.data.files import absolute, choose_one_per_id, find_dicoms
from pneumoseg.data.index import index_dataset
from tests.conftest import write_dicom

IMAGE = np.arange(24, dtype=np.uint8).reshape(4, 6)


def names(folder):
    return [str(path.relative_to(absolute(folder))) for path in find_dicoms(folder)]


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
    assert find_dicoms(tmp_path / "link") == [tmp_path / "link/a.dcm"]


def test_hidden_files_are_skipped_and_counted(tmp_path, caplog):
    write_dicom(tmp_path / "s/a.dcm", IMAGE)
    for junk in ("s/._a.dcm", "__MACOSX/s/b.dcm", ".trash/c.dcm", "@eaDir/d.dcm"):
        write_dicom(tmp_path / junk, IMAGE)
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    with caplog.at_level(logging.INFO, "pneumoseg"):
        assert names(tmp_path) == ["s/a.dcm"]
    assert "4 hidden files and folders skipped" in caplog.text  # the file and three folders


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
        assert names(tmp_path) == ["a.dcm"]


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
    chosen, left_out = choose_one_per_id(find_dicoms(tmp_path))
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
