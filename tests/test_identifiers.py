"""Image ids from file names and from tables."""

from pathlib import Path

import pytest

from pneumoseg.identifiers import image_id_of


@pytest.mark.parametrize(
    ("path", "image_id"),
    [
        ("a/b/1.2.840.10008.dcm", "1.2.840.10008"),
        ("1.2.840.10008", "1.2.840.10008"),
        ("0001.png", "0001"),
        ("0001.PNG", "0001"),
        ("x.dicom", "x"),
        ("x.DICOM", "x"),
        ("x.Dcm", "x"),
        ("x.jpg", "x"),
        ("x.JPEG", "x"),
        ("x.tif", "x"),
        ("x.TIFF", "x"),
        ("train/0001.png", "0001"),
        ("train\\sub\\0001.png", "0001"),
        ("C:\\data\\0001", "0001"),
        ("study.1/series/0001", "0001"),
        # Only one suffix is cut, and only that of an image.
        ("a.dcm.png", "a.dcm"),
        ("a.csv", "a.csv"),
        ("a.b", "a.b"),
        ("scan v1.2", "scan v1.2"),
        # A name that is nothing but a suffix is a hidden file.
        (".png", ".png"),
        ("", ""),
    ],
)
def test_only_folders_and_the_suffix_of_an_image_are_cut(path, image_id):
    assert image_id_of(path) == image_id


def test_paths_are_taken_as_text_is():
    assert image_id_of(Path("a/1.2.dcm")) == "1.2"
