"""Tests of writing and checking submissions."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pneumoseg.submission import files_of_ids, read_ids, validate_submission, write_submission


def prediction(image_id, code, stage="mask", error=None):
    return SimpleNamespace(image_id=image_id, rle=code, stage=stage, error=error)


def test_written_as_the_competition_wants_it(tmp_path):
    path = tmp_path / "out/submission.csv"
    stages = write_submission([prediction("ID_a", "-1", "classifier"), prediction("ID_b", "3 4 5 6")], path)
    assert path.read_bytes() == b"ImageId,EncodedPixels\nID_a,-1\nID_b,3 4 5 6\n"
    assert stages == {"classifier": 1, "mask": 1}
    assert [file.name for file in path.parent.iterdir()] == ["submission.csv"]
    assert validate_submission(path, ["ID_a", "ID_b"]) == []


def test_unreadable_image_is_empty_counted_and_listed(tmp_path):
    path = tmp_path / "submission.csv"
    bad = prediction("ID_b", "-1", "error", ValueError("damaged, copy it again"))
    stages = write_submission([prediction("ID_a", "0 9"), bad], path)
    assert stages["error"] == 1
    assert path.read_text().splitlines()[2] == "ID_b,-1"
    assert (tmp_path / "submission.errors.csv").read_text() == 'ImageId,error\nID_b,"damaged, copy it again"\n'
    write_submission([prediction("ID_a", "0 9")], path)
    assert not (tmp_path / "submission.errors.csv").exists()


def test_no_id_is_written_twice(tmp_path):
    results = [prediction("ID_a", "-1"), prediction("ID_b", "-1"), prediction("ID_a", "0 9")]
    with pytest.raises(ValueError, match="two images are named ID_a"):
        write_submission(results, tmp_path / "submission.csv")
    assert list(tmp_path.iterdir()) == []


def test_files_that_were_left_out_are_listed(tmp_path):
    write_submission([prediction("ID_a", "0 9")], tmp_path / "s.csv", left_out=[("ID_a", "b/ID_a.dcm: same name")])
    assert (tmp_path / "s.csv").read_text() == "ImageId,EncodedPixels\nID_a,0 9\n"
    assert (tmp_path / "s.errors.csv").read_text() == "ImageId,error\nID_a,b/ID_a.dcm: same name\n"


def test_ids_without_a_result_are_empty_come_last_and_are_named(tmp_path):
    """Ids repeat as in the sample of stage 1, which has a row per region."""
    path, ids = tmp_path / "s.csv", ["c", "b", "e\u0301", "a", "c", "b"]
    results = [prediction("a", "0 9"), prediction("b", "-1", "error", ValueError("damaged"))]
    stages = write_submission(results, path, ids=ids, left_out=[("a", "x/a.dcm: same name")])
    assert path.read_text() == "ImageId,EncodedPixels\na,0 9\nb,-1\nc,-1\n\u00e9,-1\n"
    assert stages == {"mask": 1, "error": 1, "missing": 2}
    assert (tmp_path / "s.errors.csv").read_text().splitlines()[1:] == [
        "a,x/a.dcm: same name",
        "b,damaged",
        "c,no file has this name",
        "\u00e9,no file has this name",
    ]
    assert validate_submission(path, ids, (3, 3)) == []


def test_results_that_are_not_asked_for_are_refused(tmp_path):
    with pytest.raises(ValueError, match="b is not among the ids to submit"):
        write_submission([prediction("a", "-1"), prediction("b", "-1")], tmp_path / "s.csv", ids=["a"])
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_asked_for_are_chosen():
    paths = [Path(f"{name}.dcm") for name in ("x/b", "e\u0301", "c", "y/b", "a")]
    assert files_of_ids(paths, ["b", "a", "d", "\u00e9", "b"]) == [paths[0], paths[1], paths[3], paths[4]]


def test_ids_without_any_file_are_an_error_that_shows_both_kinds_of_names():
    with pytest.raises(ValueError, match=r"none of 2 ids has a file: the files are named like 'b', .* like 'x'"):
        files_of_ids([Path("c.dcm"), Path("b.dcm")], ["x", "y", "x"])


def test_ids_are_read_once_each_in_order(tmp_path):
    path = tmp_path / "sample.csv"
    path.write_text("ImageId,EncodedPixels\nb,0 3\na,-1\nb,7 1\n")
    assert read_ids(path) == ["b", "a"]
    path.write_text("ImageId\n c\na\nc\n")
    assert read_ids(path) == ["c", "a"]
    path.write_text("ImageId,EncodedPixels\n")
    with pytest.raises(ValueError, match="lists no id"):
        read_ids(path)


def test_nothing_half_written_is_left(tmp_path):
    def interrupted():
        yield prediction("ID_a", "-1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_submission(interrupted(), tmp_path / "submission.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("a,-1", "b: missing"),
        ("a,-1\nb,-1\nc,-1", "c: unknown id"),
        ("a,-1\nb,-1\nb,0 3", "b: 2 rows, expected one"),
        ("a,-1\nb,0 3 2", "b: pair 2: a gap without a length, the text holds 3 numbers"),
        ("a,-1\nb,15 2", "b: pair 1 (15 2) ends beyond the last of 4 x 4 pixels"),
        ("a,-1\nb,0 0", "b: pair 1 (0 0) has a length below 1"),
        ("a,-1\nb,", "b: no runs: write -1 for an empty mask"),
        ("a,-1\nb,0 -3", "b: pair 1: '-3' is not a whole number of pixels"),
    ],
)
def test_problems_are_found_one_by_one(tmp_path, rows, problem):
    path = tmp_path / "submission.csv"
    path.write_text(f"ImageId,EncodedPixels\n{rows}\n")
    assert validate_submission(path, ["a", "b"], (4, 4)) == [problem]


def test_header_must_be_exact(tmp_path):
    path = tmp_path / "submission.csv"
    for first in ("ImageId, EncodedPixels\n", ""):
        path.write_text(f"{first}a,-1\n")
        (problem,) = validate_submission(path, ["a"])
        assert problem.startswith("the first line is")


def test_ids_named_twice_in_the_sample_count_once(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("ImageId,EncodedPixels\na,-1\n")
    assert validate_submission(path, ["a", "a"]) == []
