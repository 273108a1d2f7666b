"""Tests of the maps from image ids to patients."""

import pytest

from pneumoseg.data.id_map import read_id_map


def test_id_map(tmp_path):
    path = tmp_path / "nih_id.csv"
    path.write_text("Kaggle_ID,NIH_ID\n1.2,00002563_000.png\n1.3,00002563_001.png\n")
    assert read_id_map(path).to_dict() == {"1.2": "00002563", "1.3": "00002563"}


@pytest.mark.parametrize("heading", ["patient_id", "patient", " Patient_ID "])
def test_a_column_of_patients_is_taken_as_it_is(tmp_path, heading):
    path = tmp_path / "map.csv"
    path.write_text(f"image,{heading}\ntrain/0001.png,007\n0002.dcm, Müller_1 \n1.2.3,NA\n", encoding="utf-8")
    assert read_id_map(path).to_dict() == {"0001": "007", "0002": "Müller_1", "1.2.3": "NA"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,name\n1.2,patient7.png\n", "patient7"),
        ("id,name\n1.2,001_000.png\n1.2,001_001.png\n", "twice"),
        ("id\n1.2\n", "found 1"),
        ("id,patient\na/1.png,7\nb/1.png,8\n", "image 1 is listed twice"),
        ("id,patient\na,7\nb,\n", "image b has no patient"),
    ],
)
def test_other_maps_are_refused(tmp_path, content, message):
    path = tmp_path / "map.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_id_map(path)
