"""Tests of the manifest: files that are listed, and files that are left out with a reason."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from pneumoseg import rle
from pneumoseg.data.files import find_images
from pneumoseg.data.index import COLUMNS, index_dataset, load_manifest, save_manifest, summarize
from tests.conftest import write_dicom


@pytest.fixture
def folder(tmp_path):
    """Write seven files: two good ones, four that are left out for different reasons, and one that is ignored."""
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    dicoms = tmp_path / "dicoms"
    write_dicom(dicoms / "s1/a.dcm", image, PatientID="p", PatientAge="38", PatientSex="F", ViewPosition="PA")
    write_dicom(dicoms / "s2/deep/er/b.dcm", image, PixelSpacing=[0.15, 0.15])
    write_dicom(dicoms / "s3/unannotated.dcm", image)
    write_dicom(dicoms / "s4/malformed.dcm", image)
    write_dicom(dicoms / "s5/a.dcm", image)
    (dicoms / "s6").mkdir()
    (dicoms / "s6/text.dcm").write_text("not an image")
    (dicoms / "readme.txt").write_text("ignored")
    (tmp_path / "rle.csv").write_text(
        "ImageId, EncodedPixels\na, 0 3\na, 2 3\nb, -1\nmalformed, 0 3\nmalformed, 20 9\ntext, -1\nabsent, -1\n"
    )
    return tmp_path


def index(folder, **options):
    with pytest.warns(UserWarning, match="4 images and 1 annotations left out"):
        return index_dataset(folder / "dicoms", folder / "rle.csv", rejected=folder / "rejected.csv", **options)


def test_masks_of_most_of_an_image_are_doubted(folder):
    """Swapped colours give such masks; 20 of 24 pixels are more than 80%, and 19 are not."""
    (folder / "rle.csv").write_text("ImageId,EncodedPixels\na,0 20\nb,0 19\nmalformed,-1\n")
    with pytest.warns(
        UserWarning, match="1 of 2 masks cover more than 80% of their images, the first: a: mask and back"
    ):
        index_dataset(folder / "dicoms", folder / "rle.csv")


def test_few_files_wait_for_a_thread_at_once(folder, monkeypatch):
    expected, waiting, map_of_pool = index(folder), [], ThreadPoolExecutor.map

    def counted(pool, function, paths):
        waiting.append(len(paths))
        return map_of_pool(pool, function, paths)

    monkeypatch.setattr("pneumoseg.data.index._AT_ONCE", 4)
    monkeypatch.setattr(ThreadPoolExecutor, "map", counted)
    pd.testing.assert_frame_equal(index(folder), expected)
    assert waiting == [4, 2]


def test_good_files_are_listed(folder):
    manifest = index(folder)
    assert list(manifest.columns) == list(COLUMNS)
    assert manifest["image_id"].tolist() == ["a", "b"]
    first, second = manifest.to_dict("records")
    # Two overlapping rows: pixels 0-2 and 2-4 make five, not six.
    assert first["rle"] == "0 5"
    assert first["area_px"] == 5
    assert first["has_pneumothorax"] is True
    assert (first["patient_id"], first["sex"], first["view"], first["age"]) == ("p", "F", "PA", 38)
    assert (first["rows"], first["columns"]) == (4, 6)
    assert first["frame_length"] == 0  # not a JPEG, so it needs transcoding
    assert second["rle"] == "-1"
    assert second["has_pneumothorax"] is False
    assert second["pixel_spacing"] == pytest.approx(0.15)
    assert np.isnan(second["age"])


def test_other_files_are_listed_with_the_reason(folder):
    index(folder)
    rejected = pd.read_csv(folder / "rejected.csv").set_index("image_id")["reason"]
    assert len(rejected) == 5
    assert rejected["absent"] == "annotated without a file"
    assert rejected["unannotated"] == "no annotation row"
    assert rejected["malformed"].startswith("malformed annotation: row 2 of 2: pair 1 (20 9) ends beyond")
    assert rejected["text"].startswith("NotAnImageError")
    assert rejected["a"].startswith("same name as: ")


def test_damaged_file_does_not_hide_a_good_one_of_the_same_name(folder):
    (folder / "dicoms/s1/a.dcm").write_bytes(b"")
    assert index(folder)["path"].str.endswith("s5/a.dcm").tolist() == [True, False]


def test_linked_folders_are_followed(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/study").symlink_to(folder / "dicoms/s1")
    assert [path.name for path in find_images(tmp_path / "linked").paths] == ["a.dcm"]


def test_id_map_overrides_the_header(folder):
    (folder / "map.csv").write_text("Kaggle_ID,NIH_ID\na,00000007_000.png\n")
    with pytest.warns(UserWarning, match="the id map names the patient of 1 of 2 images"):
        manifest = index(folder, id_map=folder / "map.csv")
    assert manifest["patient_id"].tolist() == ["00000007", ""]
    assert manifest["patient_source"].tolist() == ["id map", "header"]


@pytest.mark.parametrize("ids", ["c,00000007_000.png\nd,00000008_000.png\n", "", "other,00000007_000.png\n"])
def test_an_id_map_of_other_images_is_refused(folder, ids):
    (folder / "map.csv").write_text(f"Kaggle_ID,NIH_ID\n{ids}")
    with pytest.raises(
        ValueError, match=r"0 of 4 annotated images are in .*map\.csv, which lists \d: the images are named like 'a'"
    ):
        index_dataset(folder / "dicoms", folder / "rle.csv", id_map=folder / "map.csv")


def test_an_id_map_of_images_that_are_not_annotated_is_refused(folder):
    """Training and test images lie in one folder, and the map lists only images without annotations."""
    (folder / "map.csv").write_text("Kaggle_ID,NIH_ID\nunannotated,00000007_000.png\n")
    with pytest.raises(ValueError, match="0 of 4 annotated images"):
        index_dataset(folder / "dicoms", folder / "rle.csv", id_map=folder / "map.csv")


def test_both_sides_of_an_id_map_are_counted(folder, caplog):
    (folder / "map.csv").write_text("Kaggle_ID,NIH_ID\na,00000007_000.png\nx,00000007_001.png\ny,00000008_001.png\n")
    with pytest.warns(UserWarning, match="1 of 2"), caplog.at_level("INFO", "pneumoseg"):
        manifest = index(folder, id_map=folder / "map.csv")
    assert f"1 of 4 annotated images are in {folder / 'map.csv'}, which lists 3" in caplog.text
    assert "the id map names the patient of 1 of 2 images" in summarize(manifest)


def test_a_table_may_name_images_by_the_uid_in_their_headers(tmp_path):
    """The name of the file comes first; a UID that no file is named by is looked for in the headers."""
    image = np.zeros((2, 2), np.uint8)
    write_dicom(tmp_path / "images/a.dcm", image, SOPInstanceUID="1.2.3.4.5")
    write_dicom(tmp_path / "images/1.2.3.4.6.dcm", image, SOPInstanceUID="1.2.3.4.7")
    write_dicom(tmp_path / "images/c.dcm", image, SOPInstanceUID="1.2.3.4.8")
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\n1.2.3.4.5,0 1\n1.2.3.4.6,0 2\n1.2.3.4.9,0 3\n")
    with pytest.warns(UserWarning, match="1 images and 1 annotations left out"):
        manifest = index_dataset(tmp_path / "images", tmp_path / "rle.csv", rejected=tmp_path / "rejected.csv")
    assert manifest.set_index("image_id")["rle"].to_dict() == {"a": "0 1", "1.2.3.4.6": "0 2"}
    rejected = pd.read_csv(tmp_path / "rejected.csv").set_index("image_id")["reason"].to_dict()
    assert rejected == {"1.2.3.4.9": "annotated without a file", "c": "no annotation row"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [("a,0 1\n1.2.3.4.5,0 1\n", "no annotation row"), ("1.2.3.4.5,0 1\n1.2.3.4.6,0 1\n", "NotAnImageError: is empty")],
)
def test_a_broken_file_may_be_annotated_only_if_annotations_name_uids(tmp_path, rows, reason):
    image = np.zeros((2, 2), np.uint8)
    write_dicom(tmp_path / "images/a.dcm", image, SOPInstanceUID="1.2.3.4.6")
    (tmp_path / "images/b.dcm").write_bytes(b"")
    (tmp_path / "rle.csv").write_text(f"ImageId,EncodedPixels\n{rows}")
    with pytest.warns(UserWarning, match="left out"):
        index_dataset(tmp_path / "images", tmp_path / "rle.csv", rejected=tmp_path / "rejected.csv")
    rejected = pd.read_csv(tmp_path / "rejected.csv").set_index("image_id")["reason"]
    assert rejected["b"] == reason


def test_an_id_map_is_checked_after_images_were_found_by_their_uids(tmp_path):
    write_dicom(tmp_path / "images/a.dcm", np.zeros((2, 2), np.uint8), SOPInstanceUID="1.2.3.4.5")
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\n1.2.3.4.5,0 1\n")
    (tmp_path / "map.csv").write_text("image,patient\na.png,P 1\n")
    manifest = index_dataset(tmp_path / "images", tmp_path / "rle.csv", id_map=tmp_path / "map.csv")
    assert manifest["patient_id"].tolist() == ["P 1"]
    (tmp_path / "map.csv").write_text("image,patient\nb,P 1\n")
    with pytest.raises(ValueError, match="0 of 1 annotated images"):
        index_dataset(tmp_path / "images", tmp_path / "rle.csv", id_map=tmp_path / "map.csv")


def test_images_without_an_annotation_may_count_as_negative(folder, caplog):
    with pytest.warns(UserWarning, match="3 images and 1 annotations left out"), caplog.at_level("INFO", "pneumoseg"):
        manifest = index_dataset(folder / "dicoms", folder / "rle.csv", unannotated_negative=True)
    assert manifest.set_index("image_id")["rle"].to_dict() == {"a": "0 5", "b": "-1", "unannotated": "-1"}
    assert "1 of 6 images have no annotation and count as negative" in caplog.text


@pytest.mark.parametrize("unannotated_negative", [False, True])
def test_annotations_of_other_images_are_an_error_with_names_of_both_sides(folder, unannotated_negative):
    (folder / "rle.csv").write_text("ImageId,EncodedPixels\nx7,0 1\nx8,-1\n")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match=r"like 'a', .* like 'x7'"):
        index_dataset(
            folder / "dicoms",
            folder / "rle.csv",
            unannotated_negative=unannotated_negative,
            rejected=folder / "rejected.csv",
        )
    rejected = pd.read_csv(folder / "rejected.csv")
    assert rejected["reason"].value_counts().to_dict() == {"no annotation row": 6, "annotated without a file": 2}


def test_each_file_is_read_once(folder, monkeypatch):
    from pneumoseg.data import index as module

    paths = []
    read = module.read_with_header
    monkeypatch.setattr(module, "read_with_header", lambda path: paths.append(path) or read(path))
    index(folder)
    assert sorted(path.name for path in paths) == ["a.dcm", "a.dcm", "b.dcm", "malformed.dcm", "text.dcm"]


def test_the_state_of_each_file_is_recorded(folder):
    manifest = index(folder)
    for row in manifest.itertuples():
        status = os.stat(row.path)
        assert (row.file_bytes, row.file_modified) == (status.st_size, status.st_mtime_ns)


def test_a_manifest_made_by_hand_may_lack_the_states_of_its_files(folder):
    manifest = index(folder).drop(columns=["file_bytes", "file_modified"])
    save_manifest(manifest, folder / "manifest.csv")
    pd.testing.assert_frame_equal(load_manifest(folder / "manifest.csv"), manifest)


def test_manifest_survives_a_round_trip(folder):
    manifest = index(folder)
    save_manifest(manifest, folder / "out/manifest.csv")
    loaded = load_manifest(folder / "out/manifest.csv")
    pd.testing.assert_frame_equal(loaded, manifest)
    assert [path.name for path in (folder / "out").iterdir()] == ["manifest.csv"]


def test_summary_counts_images_positives_and_patients(manifest):
    positives, patients = int(manifest["has_pneumothorax"].sum()), manifest["patient_id"].nunique()
    assert summarize(manifest) == f"40 images, {positives} with a pneumothorax (22%), {patients} patients"
    assert summarize(manifest.head(0)) == "0 images, 0 with a pneumothorax, patients not known"


def test_other_files_are_refused_as_manifests(tmp_path):
    with pytest.raises(FileNotFoundError, match="pneumoseg index"):
        load_manifest(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("image_id,rle\na,-1\n")
    with pytest.raises(ValueError, match="no column path"):
        load_manifest(tmp_path / "other.csv")


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\na,-1\n")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        index_dataset(tmp_path / "absent", tmp_path / "rle.csv")
    with pytest.raises(FileNotFoundError, match="no DICOM, PNG, JPEG or TIFF file"):
        index_dataset(tmp_path, tmp_path / "rle.csv")
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="none of its 1 files can be used: 1 NotAnImageError"),
    ):
        index_dataset(tmp_path, tmp_path / "rle.csv")


def test_generated_data_set(generated, manifest):
    assert len(manifest) == 40
    assert manifest["has_pneumothorax"].sum() == 9  # 22% of 40
    assert (manifest["patient_source"] == "id map").all()
    assert (manifest["frame_length"] > 0).mean() > 0.5
    for row in manifest[manifest["has_pneumothorax"]].itertuples():
        assert rle.decode(row.rle, (128, 128)).sum() == row.area_px


def test_real_subset(mini):
    manifest = index_dataset(mini / "dicom-images-train", mini / "train-rle.csv", id_map=mini / "nih_id.csv")
    assert len(manifest) == 198
    assert manifest["has_pneumothorax"].sum() == 57
    assert manifest["patient_id"].nunique() == 170
    assert (manifest["frame_length"] > 0).all()
