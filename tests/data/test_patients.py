"""What counts as a known patient."""

import pandas as pd
import pytest

from pneumoseg.data.patients import (
    count_patients,
    describe_patients,
    doubts_about_patients,
    has_known_patients,
    knows_all_patients,
    patient_groups,
    patient_ids,
    placeholders,
)


def table(ids, source="header", **columns):
    return pd.DataFrame(
        {"image_id": [f"i{n}" for n in range(len(ids))], "patient_id": ids, "patient_source": source, **columns}
    )


REAL = [f"p{n // 2}" for n in range(20)]


@pytest.mark.parametrize(
    "word",
    [
        "ANON",
        "anonymous",
        "Anonymized",
        "UNKNOWN",
        "N/A",
        "None",
        "0",
        "00000000",
        "-",
        "xxx",
        "de-identified",
        "REMOVED",
        "ANONYMOUS^PATIENT",
        "NO_ID",
        "UNKNOWN PATIENT",
        "MISSING",
        "PHI REMOVED",
        "11111111",
        "123456",
    ],
)
def test_a_word_for_no_one_among_real_ids(word):
    manifest = table([*REAL, word, word, word])
    assert placeholders(manifest) == {word: 3}
    assert patient_ids(manifest).tolist() == [*REAL, "", "", ""]
    assert len(set(patient_groups(manifest))) == 10 + 3
    (doubt,) = doubts_about_patients(manifest)
    assert f"{word!r} (3 images)" in doubt
    assert has_known_patients(manifest)
    assert not knows_all_patients(manifest)
    assert count_patients(manifest) is None
    assert describe_patients(manifest) == "10 patients of 20 images; the patients of the others are not known"


@pytest.mark.parametrize("ids", [["site7"] * 2, ["site7"] * 12, ["site7"] * 11 + [f"p{n}" for n in range(10)]])
def test_an_id_of_all_or_most_images(ids):
    manifest = table(ids)
    assert placeholders(manifest) == {"site7": ids.count("site7")}
    assert len(set(patient_groups(manifest))) == len(ids)
    assert not has_known_patients(manifest)
    assert describe_patients(manifest) == "patients not known"


@pytest.mark.parametrize(
    "ids", [["p1"], ["p1", "p1", "p2"], ["p1"] * 10 + [f"q{n}" for n in range(10)], REAL, ["ANON123"] * 3 + REAL]
)
def test_ids_that_may_be_patients(ids):
    manifest = table(ids)
    assert placeholders(manifest) == {}
    assert patient_ids(manifest).tolist() == ids
    assert doubts_about_patients(manifest) == []


@pytest.mark.parametrize(
    ("sexes", "found"),
    [
        ("FFFFFFMMMM", True),
        ("FFFFFFFFMM", True),
        ("FFFFFFFFFM", False),
        ("FFFMM", False),
        ("F" * 10, False),
        ("OO" + "M" * 8, False),
    ],
)
def test_an_id_of_both_sexes_is_no_patient_but_one_typing_error_is_let_pass(sexes, found):
    manifest = table([*REAL, *["both"] * len(sexes)], sex=["F"] * 20 + list(sexes))
    assert placeholders(manifest) == ({"both": len(sexes)} if found else {})


def test_ids_that_never_occur_again_tell_nothing():
    """As the competition's headers, which give every image a patient of its own."""
    manifest = table([f"p{n}" for n in range(20)])
    assert not has_known_patients(manifest)
    assert not knows_all_patients(manifest)
    assert len(set(patient_groups(manifest))) == 20


def test_an_id_map_is_believed():
    manifest = table(["00000001"] * 12, source="id map")
    assert placeholders(manifest) == {}
    assert knows_all_patients(manifest)
    assert count_patients(manifest) == 1
    assert set(patient_groups(manifest)) == {"00000001"}


def test_half_an_id_map():
    manifest = table(["7", "7", "ANON", ""], source=["id map", "id map", "header", "header"])
    assert patient_ids(manifest).tolist() == ["7", "7", "", ""]
    assert patient_groups(manifest).tolist() == ["7", "7", "image i2", "image i3"]
    assert [text.partition(":")[0] for text in doubts_about_patients(manifest)] == [
        "the id map names the patient of 2 of 4 images, and the DICOM headers of the others may not be reliable",
        "PatientIDs that look like placeholders are ignored",
    ]


def test_no_images():
    assert describe_patients(table([])) == "patients not known"
