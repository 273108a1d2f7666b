"""Tests of writing and checking submissions."""

from types import SimpleNamespace

import pytest

from pneumoseg.submission import validate_submission, write_submission


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
