"""Splits: shares, disjointness, patients, determinism."""

import pandas as pd
import pytest

from pneumoseg.data.splits import (
    count_shared_patients,
    positives_and_sampled_negatives,
    stratified_folds,
    stratified_split,
)


def table(images=200, positives=50, images_a_patient=2, source="header"):
    numbers = range(images)
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in numbers],
            "has_pneumothorax": [n < positives for n in numbers],
            "patient_id": [f"p{n // images_a_patient}" for n in numbers],
            "patient_source": source,
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_by_image(seed):
    manifest = table()
    training, validation = stratified_split(manifest, 0.2, seed=seed, group_by_patient=False)
    assert (len(training), len(validation)) == (160, 40)
    assert (training["has_pneumothorax"].sum(), validation["has_pneumothorax"].sum()) == (40, 10)
    pd.testing.assert_frame_equal(pd.concat([training, validation]).sort_index(), manifest)
    assert count_shared_patients(training, validation) > 10  # two images a patient: by chance most are divided


def test_same_seed_same_split_other_seed_another():
    first, again, other = (stratified_split(table(), seed=seed)[1]["image_id"].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("source", ["id map", "header"])
def test_grouped_where_the_patients_are_known(source):
    training, validation = stratified_split(table(images_a_patient=5, source=source))
    assert count_shared_patients(training, validation) == 0
    assert len(validation) == pytest.approx(40, abs=10)
    assert validation["has_pneumothorax"].sum() == pytest.approx(10, abs=5)


def test_grouping_can_be_chosen_either_way():
    assert count_shared_patients(*stratified_split(table(), group_by_patient=True)) == 0
    assert count_shared_patients(*stratified_split(table(source="id map"), group_by_patient=False)) > 0


def test_images_without_a_patient_are_no_shared_patient():
    manifest = table().assign(patient_id="")
    assert count_shared_patients(*stratified_split(manifest)) == 0


def test_a_placeholder_is_no_patient():
    manifest = table(images_a_patient=1).assign(patient_id="ANON")
    training, validation = stratified_split(manifest)
    assert (len(validation), validation["has_pneumothorax"].sum()) == (40, 10)  # by image
    assert count_shared_patients(training, validation) == 0
    with pytest.raises(ValueError, match="apart from placeholders, no two images have the same patient id"):
        stratified_split(manifest, group_by_patient=True)


@pytest.mark.parametrize("manifest", [table().assign(patient_id=""), table(images_a_patient=1)])
def test_patients_that_nobody_told_cannot_be_grouped(manifest):
    with pytest.raises(ValueError, match="another one for every image; index with an id map"):
        stratified_split(manifest, group_by_patient=True)
    with pytest.raises(ValueError, match="index with an id map"):
        stratified_folds(manifest, 5, group_by_patient=True)


def test_one_image_outside_the_id_map_does_not_turn_grouping_off():
    manifest = table(source="id map")
    manifest.loc[7, ["patient_id", "patient_source"]] = ["", "header"]
    training, validation = stratified_split(manifest)
    assert len(training) + len(validation) == 200
    assert count_shared_patients(training, validation) == 0


def test_grouped_fold_is_the_one_nearest_to_its_share():
    # One patient holds 60 of 200 images: the folds without that patient are nearer to a fifth than the one with.
    manifest = table(source="id map").assign(
        patient_id=[f"p{max(n - 139, 0)}" if n >= 50 else f"q{n}" for n in range(200)]
    )
    for seed in range(5):
        _, validation = stratified_split(manifest, seed=seed)
        assert len(validation) <= 50
    with pytest.raises(ValueError, match=r"at most 0\.5"):
        stratified_split(manifest, 0.8)


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 20])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(table(), fraction)


def test_too_few_of_a_class():
    with pytest.raises(ValueError, match="1 positive of 10"):
        stratified_split(table(10, 1))
    with pytest.raises(ValueError, match="5 folds need as many positive patients, got 1"):
        stratified_split(table(100, 5, images_a_patient=10), group_by_patient=True)


def test_sampled_negatives():
    chosen = positives_and_sampled_negatives(table(), 1.5, seed=3)
    assert chosen["has_pneumothorax"].sum() == 50
    assert (~chosen["has_pneumothorax"]).sum() == 75
    assert chosen.index.is_monotonic_increasing
    assert len(positives_and_sampled_negatives(table(), 99)) == 200
    assert len(positives_and_sampled_negatives(table(), 0)) == 50


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_keep_each_image_out_once(grouped):
    manifest = table(images_a_patient=5, source="id map")
    folds = stratified_folds(manifest, 5, seed=1, group_by_patient=grouped)
    assert len(folds) == 5
    assert sorted(image for _, validation in folds for image in validation["image_id"]) == sorted(manifest["image_id"])
    for training, validation in folds:
        assert len(training) + len(validation) == 200
        assert not set(training["image_id"]) & set(validation["image_id"])
        assert validation["has_pneumothorax"].sum() == pytest.approx(10, abs=0 if not grouped else 5)
        assert (count_shared_patients(training, validation) == 0) == grouped


def test_folds_follow_the_seed():
    first, again, other = ([v["image_id"].tolist() for _, v in stratified_folds(table(), 4, seed=n)] for n in (0, 0, 1))
    assert first == again
    assert first != other


def test_too_few_for_the_folds():
    with pytest.raises(ValueError, match="5 folds need as many images of each class, got 4 of 100"):
        stratified_folds(table(100, 4), 5)
    with pytest.raises(ValueError, match="5 folds need as many positive patients, got 2"):
        stratified_folds(table(100, 20, images_a_patient=10), 5, group_by_patient=True)
