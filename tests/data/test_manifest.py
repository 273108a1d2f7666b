"""A manifest is a pandas table, and shows itself."""

import pandas as pd

from pneumoseg.data.index import load_manifest, save_manifest
from pneumoseg.data.manifest import Manifest


def test_shows_what_matters(manifest):
    shown = manifest._repr_html_()
    positives, patients = int(manifest["has_pneumothorax"].sum()), manifest["patient_id"].nunique()
    assert f"40 images, {positives} with a pneumothorax ({positives / 40:.0%}), {patients} patients" in shown
    assert manifest["image_id"].iloc[0] in shown
    assert manifest["rle"][manifest["has_pneumothorax"]].iloc[0][:10] not in shown
    assert "Not shown: path, rle" in shown


def test_stays_one_through_a_file_and_through_pandas(manifest, tmp_path):
    save_manifest(manifest, tmp_path / "manifest.csv")
    for table in (load_manifest(tmp_path / "manifest.csv"), manifest.head(3), manifest[manifest["has_pneumothorax"]]):
        assert isinstance(table, Manifest)
    assert type(manifest["rle"]) is pd.Series


def test_other_columns_are_shown_as_pandas_does(manifest):
    some = manifest[["image_id", "rle"]]
    assert some._repr_html_() == pd.DataFrame(some)._repr_html_()
    assert "0 images, 0 with a pneumothorax, patients not known" in manifest.head(0)._repr_html_()
