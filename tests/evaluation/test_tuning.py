"""The chosen rule against slow loops over the whole grid."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pneumoseg.data.patients import patient_groups
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation import tuning
from pneumoseg.evaluation.cases import score_cases
from pneumoseg.evaluation.pixel_counts import count_pixels
from pneumoseg.evaluation.tuning import tune, without_tuning_images
from pneumoseg.inference import Tuning
from tests.conftest import predictions_of

SIZE = 32  # an area counts 1024 times as many pixels
RULE = DecisionRule(0.5, 0.45, 4096, 0.62, 0)


def random_predictions(folder, seed, count=8, **columns):
    """Small images with blobs that the maps show roughly, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for _ in range(count):
        noise = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 2)
        noise = (noise - noise.min()) / np.ptp(noise)
        masks.append(noise > rng.choice([0.7, 0.85, 2]))
        blurred = ndimage.gaussian_filter(noise + rng.normal(scale=0.3, size=noise.shape), 1)
        maps.append((255 * np.clip(blurred * rng.uniform(0.5, 1.2), 0, 1)).astype(np.uint8))
    masks[0][10:20, 10:20] = True
    masks[1][:] = False
    probability = np.round(np.clip([0.35 + 0.3 * mask.any() + rng.normal(scale=0.2) for mask in masks], 0, 1), 1)
    return predictions_of(folder, maps, masks, probability, **columns)


def mean_dice(predictions, rule):
    counts = count_pixels(predictions, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
    return score_cases(predictions, counts, rule)["dice"].mean()


def triplets(thresholds, top_areas, rule):
    yield rule.mask_threshold, rule.top_threshold, rule.top_area
    for mask_threshold, top_threshold in itertools.product(thresholds, thresholds):
        yield mask_threshold, top_threshold, 0.0
        if top_threshold > mask_threshold:
            yield from ((mask_threshold, top_threshold, area) for area in top_areas)


def best_of_all(predictions, rule, thresholds, areas, top_areas):
    """Mean Dice of the best rule: each one of the grid decided, each cut of the probabilities tried."""
    thresholds = sorted({*thresholds, rule.mask_threshold, rule.top_threshold})
    areas = sorted({*areas, rule.minimum_area})
    counts = count_pixels(predictions, thresholds, areas)
    cuts = [-1.0, *sorted(set(predictions.probability[~np.isnan(predictions.probability)]))]
    best = 0.0
    for mask_threshold, top_threshold, top_area in triplets(thresholds, top_areas, rule):
        for area in areas:
            candidate = DecisionRule(0.5, mask_threshold, area, top_threshold, top_area)
            cases = score_cases(predictions, counts, candidate, use_classifier=False)
            for cut in cuts:
                gated_in = (predictions.probability > cut) & (predictions.probability > 0)  # no threshold is below 0
                best = max(best, np.where(gated_in, cases["dice"], ~cases["positive"]).mean())
    return best


SMALL = {"THRESHOLDS": (0.3, 0.5, 0.7), "AREAS": (0.0, 8192.0), "TOP_AREAS": (2048.0, 16384.0)}


@pytest.fixture
def small_grid(monkeypatch):
    for name, values in SMALL.items():
        monkeypatch.setattr(tuning, name, values)


@pytest.mark.usefixtures("small_grid")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", [RULE, DecisionRule(0.7, 0.55, 1000, 0.6, 3000)])
def test_the_chosen_rule_is_the_best_of_all(tmp_path, seed, rule):
    predictions = random_predictions(tmp_path, seed)
    if seed == 3:
        predictions.probability[4] = 0  # which no threshold lets pass
    chosen = tune(predictions, rule)
    assert chosen.scores["mean_dice"] == pytest.approx(best_of_all(predictions, rule, *SMALL.values()), abs=1e-12)
    assert mean_dice(predictions, chosen.rule) == pytest.approx(chosen.scores["mean_dice"])
    assert mean_dice(predictions, rule) == pytest.approx(chosen.scores["mean_dice_before"])


def test_no_rule_of_the_whole_grid_is_better(tmp_path):
    predictions, rng = random_predictions(tmp_path, 0), np.random.default_rng(0)
    chosen = tune(predictions, RULE)
    assert mean_dice(predictions, chosen.rule) == pytest.approx(chosen.scores["mean_dice"])
    thresholds = np.arange(1, 20) * 5 / 100
    counts = count_pixels(predictions, [*thresholds, 0.45, 0.62], tuning.AREAS)
    for _ in range(300):
        mask_threshold, top_threshold = rng.choice(thresholds, 2)
        top_area = rng.choice([0, *tuning.TOP_AREAS]) if top_threshold > mask_threshold else 0
        rule = DecisionRule(rng.random(), mask_threshold, rng.choice(tuning.AREAS), top_threshold, top_area)
        assert score_cases(predictions, counts, rule)["dice"].mean() <= chosen.scores["mean_dice"] + 1e-12


def test_the_grid_is_the_one_that_is_documented():
    assert pytest.approx([number / 20 for number in range(1, 20)]) == tuning.THRESHOLDS
    assert (min(tuning.AREAS), max(tuning.AREAS), max(tuning.TOP_AREAS)) == (0, 8000, 3500)
    assert 3500 in tuning.AREAS


@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_before_and_scores_by_hand(tmp_path, seed):
    predictions = random_predictions(tmp_path, seed, 12)
    rng = np.random.default_rng(seed)
    rule = DecisionRule(rng.random(), rng.random(), rng.random() * 9000, rng.random(), rng.random() * 5000)
    chosen = tune(predictions, rule)
    positive = predictions.manifest["has_pneumothorax"]
    assert chosen.scores["mean_dice"] >= chosen.scores["mean_dice_before"]
    assert chosen.scores["mean_dice_before"] == pytest.approx(mean_dice(predictions, rule))
    assert chosen.scores["mean_dice"] == pytest.approx(mean_dice(predictions, chosen.rule))
    assert chosen.scores["mean_dice"] >= chosen.scores["baseline"] == pytest.approx((~positive).mean())
    assert (chosen.scores["images"], chosen.scores["positives"]) == (12, positive.sum())
    assert chosen.image_ids == tuple(predictions.manifest["image_id"])
    assert chosen.patient_ids == tuple(sorted(predictions.manifest["patient_id"]))


def square(level, side=10, at=4):
    prob_map_u8 = np.zeros((SIZE, SIZE), np.uint8)
    prob_map_u8[at : at + side, at : at + side] = level
    return prob_map_u8


def test_a_perfect_rule_stays_as_it_is(tmp_path):
    maps = [square(255), square(255), square(0)]
    predictions = predictions_of(tmp_path, maps, [maps[0] > 0, maps[1] > 0, maps[2] > 0], [0.9, 0.8, 0.1])
    for rule in (DecisionRule(0.123, 0.321, 77, 0.9, 13), DecisionRule(0.79, 0.99, 0, 0.01, 0)):
        chosen = tune(predictions, rule)
        assert chosen.rule == rule
        assert chosen.scores["mean_dice"] == chosen.scores["mean_dice_before"] == 1


def test_of_equal_rules_the_nearest_to_the_one_before(tmp_path):
    # A false alarm of .6 must go, a find of .8 stay; on which side .65 and .7 are does not matter.
    maps = [square(255), square(255), square(0), square(0)]
    masks = [maps[0] > 0, *np.zeros((3, SIZE, SIZE), bool)]
    predictions = predictions_of(tmp_path, maps, masks, [0.8, 0.6, 0.7, 0.65])
    for threshold, chosen in ((0.5, 0.625), (0.9, 0.75)):
        before = DecisionRule(threshold, 0.33, 77, 0.9, 13)
        rule = tune(predictions, before).rule
        assert rule.classifier_threshold == pytest.approx(chosen)
        assert replace(rule, classifier_threshold=threshold) == before


def test_no_threshold_lets_a_probability_of_0_pass(tmp_path):
    maps = [square(255), square(0)]
    chosen = tune(predictions_of(tmp_path, maps, [maps[0] > 0, maps[1] > 0], [0.0, 0.5]), RULE)
    assert chosen.scores["mean_dice"] == 0.5
    assert chosen.rule == RULE


def test_where_nothing_is_right_nothing_is_segmented(tmp_path):
    maps = [square(255), square(255), square(255)]
    masks = [square(1, at=18) > 0, *np.zeros((2, SIZE, SIZE), bool)]
    chosen = tune(predictions_of(tmp_path, maps, masks, [0.4, 0.9, 0.8]), DecisionRule(0.85))
    assert chosen.scores["mean_dice"] == pytest.approx(2 / 3)
    assert chosen.scores["mean_dice_before"] == pytest.approx(1 / 3)
    assert chosen.rule.classifier_threshold == pytest.approx(0.9)  # the nearest of those that let none pass


def test_each_number_is_found_where_it_alone_helps(tmp_path):
    def chosen(maps, truth, name):
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        negatives = [np.zeros((SIZE, SIZE), bool)] * (len(maps) - 1)
        return tune(predictions_of(folder, maps, [truth, *negatives], [0.9] * len(maps)), DecisionRule())

    faint = square(77)  # .302: only thresholds below it draw it
    found = chosen([faint, square(0)], faint > 0, "mask")
    assert found.rule.mask_threshold in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    assert found.scores["mean_dice"] == 1
    small = square(255, side=1)  # 1024 px at 1024 x 1024
    found = chosen([small, square(0)], small > 0, "area")
    assert found.rule.minimum_area <= 1024
    assert found.scores["mean_dice"] == 1
    # As large as the truth elsewhere, but not as sure: only the triplet rule tells them apart.
    sure, unsure = square(150), square(150)
    sure[6:9, 6:9] = 240
    found = chosen([sure, unsure, unsure], sure > 0, "triplet")
    assert found.rule.top_area > 0
    assert 150 / 255 < found.rule.top_threshold < 240 / 255
    assert found.scores["mean_dice"] == 1
    unsure[6, 6:9] = 240  # 3 px of 1024 each, of which none of the areas but the largest is more
    found = chosen([sure, unsure, unsure], sure > 0, "large triplet")
    assert found.rule.top_area == 3500
    assert found.scores["mean_dice"] == 1


def test_unreadable_images_count_and_change_nothing(tmp_path):
    predictions = random_predictions(tmp_path, 0)
    predictions.errors[0] = "damaged"
    predictions.probability[0] = math.nan
    chosen = tune(predictions, RULE)
    assert chosen.scores["images"] == 8
    assert chosen.scores["mean_dice"] == pytest.approx(mean_dice(predictions, chosen.rule))
    others = tune(predictions.select(np.arange(8) > 0), RULE)
    assert chosen.scores["mean_dice"] == pytest.approx(others.scores["mean_dice"] * 7 / 8)  # it is positive
    assert chosen.rule == others.rule


def test_no_readable_image_leaves_the_rule_as_it_is(tmp_path):
    masks = [square(1) > 0, square(0) > 0]
    chosen = tune(predictions_of(tmp_path, [None, None], masks, [math.nan, math.nan]), RULE)
    assert chosen.rule == RULE
    assert chosen.scores["mean_dice"] == chosen.scores["mean_dice_before"] == 0.5


PAIRS = [f"p{number // 2}" for number in range(24)]


def test_a_fraction_leaves_the_others_and_keeps_patients_apart(tmp_path):
    predictions = random_predictions(tmp_path, 0, 24, patient_id=PAIRS, patient_source="id map")
    chosen = tune(predictions, RULE, fraction=0.25, seed=3)
    used = predictions.manifest["image_id"].isin(chosen.image_ids)
    assert 3 <= used.sum() <= 9
    patients = predictions.manifest["patient_id"]
    assert set(chosen.patient_ids) == set(patients[used])
    assert not set(patients[used]) & set(patients[~used])
    alone = tune(predictions.select(used.to_numpy()), RULE)
    assert (chosen.rule, chosen.scores, chosen.image_ids) == (alone.rule, alone.scores, alone.image_ids)
    rest = without_tuning_images(predictions, chosen)
    assert set(rest.manifest["image_id"]) == set(predictions.manifest.loc[~used, "image_id"])
    assert tune(predictions, RULE, fraction=0.25, seed=3) == chosen
    assert tune(predictions, RULE, fraction=0.25, seed=4).image_ids != chosen.image_ids


def test_other_images_of_the_patients_are_left_out_too(tmp_path):
    predictions = random_predictions(tmp_path, 0, 24, patient_id=PAIRS)
    chosen = tune(predictions.select(np.arange(24) % 3 == 0), RULE)  # one image each of 8 of the 12 pairs
    rest = without_tuning_images(predictions, chosen)
    assert len(rest.manifest) == 8
    assert not set(rest.manifest["patient_id"]) & set(chosen.patient_ids)
    assert not set(patient_groups(rest.manifest)) & {PAIRS[int(image_id[1:])] for image_id in chosen.image_ids}
    kept_rows = predictions.manifest["image_id"].isin(rest.manifest["image_id"])
    np.testing.assert_array_equal(rest.probability, predictions.probability[kept_rows])


@pytest.mark.parametrize("placeholder", ["ANON", "p1"])
def test_a_placeholder_joins_no_images(tmp_path, placeholder):
    """One PatientID for all files: what was tuned on half of the images is scored on the other half."""
    predictions = random_predictions(tmp_path, 0, 24, patient_id=placeholder)
    chosen = tune(predictions, RULE, fraction=0.5)
    assert (len(chosen.image_ids), chosen.patient_ids) == (12, ())
    assert len(without_tuning_images(predictions, chosen).manifest) == 12


def test_images_without_a_patient_are_left_out_one_by_one(tmp_path):
    predictions = random_predictions(tmp_path, 0, 6, patient_id="")
    chosen = tune(predictions.select(np.arange(6) < 2), RULE)
    assert chosen.patient_ids == ()
    assert without_tuning_images(predictions, chosen).manifest["image_id"].tolist() == ["i2", "i3", "i4", "i5"]


def test_without_a_tuning_all_images_are_scored(tmp_path):
    predictions = random_predictions(tmp_path, 0)
    assert without_tuning_images(predictions, None) is predictions
    others = Tuning(RULE, ("x",), ("y",), {})
    assert len(without_tuning_images(predictions, others).manifest) == 8


def test_no_image_is_left(tmp_path):
    predictions = random_predictions(tmp_path, 0)
    with pytest.raises(ValueError, match="tuned on all 8 images"):
        without_tuning_images(predictions, tune(predictions, RULE))
    patients = tuple(predictions.manifest["patient_id"])
    with pytest.raises(ValueError, match="or on other images of their patients"):
        without_tuning_images(predictions, Tuning(RULE, (), patients, {}))


@pytest.mark.usefixtures("small_grid")
def test_labels_alone_choose_nothing(tmp_path, caplog):
    predictions = random_predictions(tmp_path, 2, count=12, patient_id=[f"p{number // 3}" for number in range(12)])
    known = np.arange(12) % 3 < 2
    rle = predictions.manifest["rle"].where(known, "")
    labels = replace(predictions, manifest=predictions.manifest.assign(rle=rle))
    with caplog.at_level("INFO", "pneumoseg"):
        chosen = tune(labels, RULE)
    assert chosen == tune(predictions.select(known), RULE)
    assert chosen.image_ids == tuple(predictions.manifest.loc[known, "image_id"])
    left_out = "4 of 12 images left out of the choice of the decision rule: they have a label and no mask"
    assert caplog.messages == [left_out]
    with pytest.raises(ValueError, match="tuned on all 12 images, or on other images of their patients"):
        without_tuning_images(labels, chosen)
    part = tune(labels, RULE, fraction=0.5)
    assert len(part.image_ids) == 4
    assert set(part.image_ids) < set(chosen.image_ids)
    nothing = replace(predictions, manifest=predictions.manifest.assign(rle=""))
    with pytest.raises(ValueError, match="no masks for the choice of the decision rule: all 12 images"):
        tune(nothing, RULE)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, math.nan])
def test_a_fraction_out_of_range(tmp_path, fraction):
    with pytest.raises(ValueError, match=f"fraction is {fraction}, expected above 0 and at most 1"):
        tune(random_predictions(tmp_path, 0), RULE, fraction=fraction)


def test_images_that_cannot_be_tuned_on(tmp_path):
    predictions = random_predictions(tmp_path, 0)
    positive = predictions.manifest["has_pneumothorax"].to_numpy()
    with pytest.raises(ValueError, match=r"none of the \d images is positive"):
        tune(predictions.select(~positive), RULE)
    with pytest.raises(ValueError, match="needs two images of each class"):
        tune(predictions.select(positive), RULE, fraction=0.5)
