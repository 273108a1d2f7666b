"""Tests of the maps from image ids to patients."""

import pytest

from pneumoseg.data.id_map import read_id_map


def test_id_map(tmp_path):
    path = tmp_path / "nih_id.csv"
    path.write_text("Kaggle_ID,NIH_ID\n1.2,00002563_000.png\n1.3,00002563_001.png\n")
    assert read_id_map(path).to_dict() == {"1.2": "00002563", "1.3": "00002563"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,name\n1.2,patient7.png\n", "patient7"),
        ("id,name\n1.2,001_000.png\n1.2,001_001.png\n", "twice"),
        ("id\n1.2\n", "found 1"),
    ],
)
def test_other_maps_are_refused(tmp_path, content, message):
    path = tmp_path / "map.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_id_map(path)
