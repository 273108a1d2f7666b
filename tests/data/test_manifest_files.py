"""Manifests as CSV and as Parquet give the same table."""

import importlib.util
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from pneumoseg.data.index import COLUMNS, load_manifest, save_manifest
from tests.commands import run_command
from tests.conftest import write_dicom

FORMATS = ("csv", "parquet")
ODD = {
    "image_id": ["NA", "001", "nan", "é e\u0301", "", "True", "1e5", "a,b", 'q"', " s ", "-1", "None"],
    "path": ["/a b", "/a\rb", "/a\nb", "/a\r\nb", "/a\tb", '/"a"', "/a,b", "/'", "/\u2028", "/\x1f", "/🫁", "/\\"],
    "rle": ["-1", "", "0 3", "-1", "", "0 3 5 1", "-1", "", "-1", "-1", "-1", "-1"],
    "age": [math.nan, 0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 40, math.nan, 7, 1, 2, 3],
    "pixel_aspect": [1.0, 1.0000000000000002, 0.5, 2, 1, 1, 1, 1, 1, 1, 1, 1],
    "file_modified": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 1732616255123456789, 1, 2, 3, 4, 5, 6],
    "has_pneumothorax": [True, False] * 6,
}


def table_of(count: int, **columns) -> pd.DataFrame:
    """Return a manifest with these columns; the others hold plain values."""
    plain = {
        name: {"str": "x", "bool": False, "int64": 7, "float64": math.nan if name == "pixel_spacing" else 1.5}[kind]
        for name, kind in COLUMNS.items()
    }
    return pd.DataFrame({**plain, **columns}, index=range(count)).astype(COLUMNS)


def round_trip(table: pd.DataFrame, path) -> pd.DataFrame:
    save_manifest(table, path)
    return load_manifest(path)


@pytest.fixture(scope="module")
def odd():
    return table_of(12, **ODD)


@pytest.mark.parametrize("suffix", [*FORMATS, "CSV", "Parquet"])
def test_odd_values_survive_a_round_trip(odd, suffix, tmp_path):
    path = tmp_path / f"new folder/manifest.{suffix}"
    pd.testing.assert_frame_equal(round_trip(odd, path), odd, check_exact=True)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("rows", [slice(0, 0), slice(3, 9), slice(None, None, -1)])
def test_csv_to_parquet_to_csv_gives_the_same_bytes_and_tables(odd, rows, tmp_path):
    first = round_trip(odd[rows], tmp_path / "1.csv")
    second = round_trip(first, tmp_path / "2.parquet")
    third = round_trip(second, tmp_path / "3.csv")
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    pd.testing.assert_frame_equal(second, third, check_exact=True)
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "3.csv").read_bytes()
    assert list(first.dtypes) == list(odd.dtypes)


@pytest.mark.parametrize("seed", range(20))
def test_random_tables_are_equal_from_both(seed, tmp_path):
    rng = np.random.default_rng(seed)
    letters = np.array([*list("aé0,;\"' \n\r\t\\#-."), "\u0301", "\U0001fac1"])
    texts = {
        name: ["".join(rng.choice(letters, rng.integers(0, 9))) for _ in range(30)]
        for name in ("image_id", "path", "patient_id", "rle", "note")
    }
    numbers = rng.integers(-(2**63), 2**63 - 1, 30)
    ages = np.where(rng.random(30) < 0.3, math.nan, rng.standard_normal(30) * 10.0 ** rng.integers(-300, 300, 30))
    table = table_of(30, **texts, file_modified=numbers, age=ages, has_pneumothorax=rng.random(30) < 0.5)
    table["note"] = texts["note"]
    for suffix in FORMATS:
        pd.testing.assert_frame_equal(round_trip(table, tmp_path / f"m.{suffix}"), table, check_exact=True)


def test_a_real_manifest_is_equal_from_both(manifest, tmp_path):
    for suffix in FORMATS:
        pd.testing.assert_frame_equal(round_trip(manifest, tmp_path / f"m.{suffix}"), manifest, check_exact=True)


def test_further_columns_are_the_same_text_from_both(odd, tmp_path):
    further = {
        "number": np.arange(12.0) / 3,
        "missing": [math.nan, *range(11)],
        "flag": [True, False] * 6,
        "day": pd.date_range("2026-01-01", periods=12),
        "kind": pd.Categorical(["a", "", "NA"] * 4),
        "none": [None, "b"] * 6,
    }
    csv, binary = (round_trip(odd.assign(**further), tmp_path / f"m.{suffix}") for suffix in FORMATS)
    pd.testing.assert_frame_equal(csv, binary, check_exact=True)
    assert csv["missing"].tolist()[:2] == ["", "0.0"]
    assert (csv["flag"][0], csv["kind"][2], csv["none"][0]) == ("True", "NA", "")


def test_whole_numbers_with_gaps_stay_whole(odd, tmp_path):
    visits = pd.array([None, *range(11)], "Int64")
    large = pd.array([2**64 - 1, *[None] * 11], "UInt64")
    table = odd.assign(visits=visits, large=large, age=visits)
    csv, binary = (round_trip(table, tmp_path / f"m.{suffix}") for suffix in FORMATS)
    pd.testing.assert_frame_equal(csv, binary, check_exact=True)
    assert csv["visits"].tolist() == ["", *map(str, range(11))]
    assert csv["large"][0] == "18446744073709551615"
    assert csv["age"].tolist()[1:] == list(range(11))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_gap_in_whole_numbers_is_reported_as_a_gap(odd, suffix, tmp_path):
    numbers = pd.array([1764190000123456789, *range(10), None], "Int64")
    save_manifest(odd.assign(file_modified=numbers), tmp_path / f"m.{suffix}")
    with pytest.raises(ValueError, match=r"file_modified must be int64 in every row: .* ''$"):
        load_manifest(tmp_path / f"m.{suffix}")


def test_parquet_of_other_writers_is_read_by_its_values(odd, tmp_path):
    types = {
        "image_id": pa.large_string(),
        "view": pa.dictionary(pa.int8(), pa.string()),
        "rows": pa.int32(),
        "columns": pa.uint16(),
        "pixel_aspect": pa.float32(),
        "file_bytes": pa.string(),
    }
    table = pa.Table.from_pandas(odd.assign(pixel_aspect=1.0), preserve_index=False)
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    sexes = pa.array([None, "F", *["M"] * 10])
    table = table.set_column(table.column_names.index("sex"), "sex", sexes)
    parquet.write_table(table, tmp_path / "m.parquet")
    expected = odd.assign(pixel_aspect=1.0, sex=["", "F", *["M"] * 10]).astype(COLUMNS)
    pd.testing.assert_frame_equal(load_manifest(tmp_path / "m.parquet"), expected)


def test_a_column_that_was_an_index_is_read(odd, tmp_path):
    odd.set_index("image_id").to_parquet(tmp_path / "m.parquet")
    assert load_manifest(tmp_path / "m.parquet")["image_id"].tolist() == ODD["image_id"]


def test_optional_columns_may_be_missing_in_both(odd, tmp_path):
    table = odd.drop(columns=["pixel_aspect", "file_bytes", "file_modified"])
    for suffix in FORMATS:
        loaded = round_trip(table, tmp_path / f"m.{suffix}")
        assert list(loaded) == [*table, "pixel_aspect"]
        assert loaded["pixel_aspect"].tolist() == [1.0] * 12


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("has_pneumothorax", "yes", "has_pneumothorax must be True or False"),
        ("rows", "12.5", "rows must be int64 in every row"),
        ("age", "old", "age must be float64 in every row"),
        ("pixel_aspect", math.nan, "pixel_aspect must be"),
        ("columns", math.nan, "columns must be int64 in every row"),
    ],
)
def test_wrong_values_are_refused_with_the_column_and_the_file(odd, suffix, column, value, message, tmp_path):
    save_manifest(odd.assign(**{column: value}), tmp_path / f"m.{suffix}")
    with pytest.raises(ValueError, match=message) as caught:
        load_manifest(tmp_path / f"m.{suffix}")
    assert str(tmp_path / f"m.{suffix}") in str(caught.value)


def test_a_missing_column_is_refused(odd, tmp_path):
    save_manifest(odd.drop(columns=["rle"]), tmp_path / "m.parquet")
    with pytest.raises(ValueError, match="it has no column rle: index the data set again"):
        load_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("content", [b"", b"image_id,path\n", b"PAR1"])
def test_damaged_parquet_is_refused(content, tmp_path):
    (tmp_path / "m.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.parquet: not a Parquet file, or a damaged one"):
        load_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("name", ["manifest.xlsx", "manifest", "manifest.parquet.gz"])
def test_other_suffixes_are_refused(odd, name, tmp_path):
    with pytest.raises(ValueError, match=r"a manifest is a \.csv or \.parquet file"):
        save_manifest(odd, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).write_text("image_id\n")
    with pytest.raises(ValueError, match=r"a manifest is a \.csv or \.parquet file"):
        load_manifest(tmp_path / name)


def test_parquet_without_pyarrow_is_one_clear_error(odd, tmp_path, monkeypatch):
    save_manifest(odd, tmp_path / "m.parquet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for act in (lambda: load_manifest(tmp_path / "m.parquet"), lambda: save_manifest(odd, tmp_path / "n.parquet")):
        with pytest.raises(ValueError, match=r"pip install 'pneumoseg\[parquet\]'"):
            act()


def test_a_failed_write_leaves_the_old_manifest(odd, tmp_path):
    save_manifest(odd, tmp_path / "m.parquet")
    before = (tmp_path / "m.parquet").read_bytes()
    with pytest.raises(UnicodeEncodeError):
        save_manifest(odd.assign(path="/\udce9"), tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_command_writes_parquet(tmp_path):
    for name in ("i0", "i1"):
        write_dicom(tmp_path / f"in/{name}.dcm", np.zeros((32, 32), np.uint8))
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\ni0,-1\ni1,3 4\n")
    finished, _ = run_command("index", "in", "rle.csv", "--out", "m.parquet", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "m.parquet: 2 images, 1 positive" in finished.stdout
    table = load_manifest(tmp_path / "m.parquet")
    assert table[["image_id", "rle"]].to_numpy().tolist() == [["i0", "-1"], ["i1", "3 4"]]
    pd.testing.assert_frame_equal(round_trip(table, tmp_path / "m.csv"), table, check_exact=True)


def test_command_refuses_another_suffix_before_it_reads_an_image(tmp_path):
    finished, _ = run_command("index", "absent", "absent.csv", "--out", "m.xlsx", cwd=tmp_path)
    assert finished.returncode == 2
    assert "m.xlsx: a manifest is a .csv or .parquet file" in finished.stderr
