"""Tests of the reader of the competition's CSV files, in every spelling."""

import pytest

from pneumoseg.annotations.competition import read_runs


@pytest.mark.parametrize(
    "content",
    [
        b"ImageId, EncodedPixels\na, -1\nb, 3 4 5 6\n",  # stage 1
        b"ImageId,EncodedPixels\na,-1\nb,3 4 5 6\n",  # stage 2
        b"\xef\xbb\xbfa,-1\nb,3 4 5 6\n",  # byte-order mark, no header
        b"ImageId,EncodedPixels\r\na,-1\r\nb, 3 4 5 6 \r\n",
    ],
)
def test_spellings(tmp_path, content):
    path = tmp_path / "rle.csv"
    path.write_bytes(content)
    table = read_runs(path)
    assert table.to_dict("list") == {"image_id": ["a", "b"], "rle": ["-1", "3 4 5 6"]}


def test_rows_of_one_image_are_kept_apart(tmp_path):
    path = tmp_path / "rle.csv"
    path.write_text("ImageId,EncodedPixels\na,0 1\na,5 1\nNA,-1\n")
    assert read_runs(path)["image_id"].tolist() == ["a", "a", "NA"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a CSV"),
        ("a\nb\n", "found 1"),
        ("a,b,c\n", "found 3"),
        ("ImageId,Target\na,-1\n", "the header is 'ImageId,Target'"),
        ("EncodedPixels,ImageId\n-1,a\n", "the header is"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "other.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_runs(path)
    assert str(path) in str(caught.value)


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"other\.csv"):
        read_runs(path)
