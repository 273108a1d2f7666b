"""What a rule makes of each image: as the pipeline does, by hand, and as other libraries score it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import f1_score, fbeta_score, jaccard_score

from pneumoseg import rle
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation.cases import (
    ERROR_CAUSES,
    OUTCOMES,
    dice_of,
    f_beta_of,
    iou_of,
    passes_triplet_rule,
    score_cases,
)
from pneumoseg.evaluation.pixel_counts import PixelCounts, count_pixels
from pneumoseg.inference import Pipeline
from pneumoseg.metrics import FBeta, IoU
from pneumoseg.predictions import cache_predictions
from pneumoseg.scores import dice
from tests.conftest import manifest_of, predictions_of, write_dicom
from tests.networks import brightest, identity

SIZE = 32
SHAPES = [(32, 32), (32, 32), (48, 32), (20, 64)]


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline([brightest(SIZE)], [identity(SIZE)])


@pytest.fixture(scope="module")
def kept(pipeline, tmp_path_factory):
    """Predictions of 24 images, some without a lesion, one of them damaged."""
    folder, rng = tmp_path_factory.mktemp("cases"), np.random.default_rng(0)
    images, codes = [], []
    for number in range(24):
        noise = ndimage.gaussian_filter(rng.normal(size=SHAPES[number % 4]), 2)
        noise = (noise - noise.min()) / np.ptp(noise)
        images.append((noise * rng.integers(60, 256)).astype(np.uint8))
        mask = ndimage.shift(noise, rng.integers(-3, 4, 2), mode="nearest") > (0.75 if number % 3 else 2)
        codes.append(rle.encode(mask))
    paths = [write_dicom(folder / f"i{number}.dcm", image) for number, image in enumerate(images)]
    paths[7].write_bytes(paths[7].read_bytes()[:-50])
    return cache_predictions(pipeline, manifest_of(paths, images, codes), folder / "kept")


def rules(count):
    """Random ones, of which many images pass some of the stages only."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        thresholds, areas = rng.random(3) * 0.8, rng.random(2) * 1024 * np.array([60, 60])
        yield DecisionRule(thresholds[0], thresholds[1], areas[0], thresholds[2], rng.choice([0, areas[1]]))
    # One that stands on a probability and on sizes that occur.
    yield DecisionRule(0.5, 128 / 255, 10 * 1024, 128 / 255, 30 * 1024)


def true_masks(kept):
    manifest = kept.manifest
    return [rle.decode(row.rle, (row.rows, row.columns)) for row in manifest.itertuples()]


@pytest.mark.parametrize("use_classifier", [True, False])
def test_cases_are_what_the_pipeline_returns(pipeline, kept, use_classifier):
    stages = set()
    for rule in rules(15):
        counts = count_pixels(kept, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
        cases = score_cases(kept, counts, rule, use_classifier=use_classifier)
        deciding = replace(pipeline, rule=rule, classifiers=pipeline.classifiers if use_classifier else [])
        results = list(deciding.predict_many(kept.manifest["path"]))
        assert cases["image_id"].tolist() == [result.image_id for result in results]
        assert cases["stage"].tolist() == [result.stage for result in results]
        assert cases["predicted_px"].tolist() == [result.area_px for result in results]
        expected = [
            dice(truth, result.mask if result.error is None else np.zeros_like(truth))
            for truth, result in zip(true_masks(kept), results, strict=True)
        ]
        np.testing.assert_allclose(cases["dice"], expected, rtol=1e-12)
        if use_classifier:
            np.testing.assert_array_equal(cases["probability"], [result.probability for result in results])
        stages |= set(cases["stage"])
    expected = {"error", "segmenter", "triplet", "elimination", "mask"}
    assert stages == (expected | {"classifier"} if use_classifier else expected)


def test_missing_dice_adds_up_for_every_image(kept):
    seen = set()
    for rule in rules(40):
        counts = count_pixels(kept, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
        cases = score_cases(kept, counts, rule)
        missing = cases[[f"missing_dice {name}" for name in ERROR_CAUSES]]
        np.testing.assert_allclose(missing.sum(axis=1), 1 - cases["dice"], atol=1e-12)
        assert (missing.drop(columns="missing_dice elimination") >= 0).all(axis=None)
        seen |= {name for name in ERROR_CAUSES if (missing[f"missing_dice {name}"] != 0).any()}
    assert seen == set(ERROR_CAUSES)


# Smallest areas 0 and 10 px; the first threshold is the mask's, the second the top one; 1024 x 1024 pixels.
BY_HAND = [
    # probability, truth, drawn, true of them, left, true of them, confident
    (0.4, 50, 60, 40, 60, 40, 9, "missed by the classifier", "classifier", 0, {"classifier": 1}),
    (0.6, 50, 0, 0, 0, 0, 0, "missed by the segmenter", "segmenter", 0, {"segmenter": 1}),
    (0.6, 50, 60, 40, 60, 40, 4, "removed by the triplet rule", "triplet", 0, {"triplet": 1}),
    (0.6, 50, 9, 5, 0, 0, 5, "removed by elimination", "elimination", 0, {"elimination": 10 / 59, "outline": 49 / 59}),
    (0.6, 50, 70, 40, 50, 40, 5, "found", "mask", 0.8, {"elimination": 2 / 3 - 0.8, "outline": 1 / 3}),
    (0.6, 50, 60, 45, 50, 40, 5, "found", "mask", 0.8, {"elimination": 9 / 11 - 0.8, "outline": 2 / 11}),
    (0.6, 50, 50, 50, 50, 50, 5, "found", "mask", 1, {}),
    (0.6, 50, 20, 0, 20, 0, 5, "found", "mask", 0, {"outline": 1}),
    (0.6, 0, 70, 0, 50, 0, 5, "false alarm", "mask", 0, {"false alarm": 1}),
    (0.6, 0, 9, 0, 0, 0, 5, "correctly empty", "elimination", 1, {}),
    (0.6, 0, 60, 0, 60, 0, 4, "correctly empty", "triplet", 1, {}),
    (0.6, 0, 0, 0, 0, 0, 0, "correctly empty", "segmenter", 1, {}),
    (0.4, 0, 60, 0, 60, 0, 9, "correctly empty", "classifier", 1, {}),
    (0.5, 0, 60, 0, 60, 0, 9, "correctly empty", "classifier", 1, {}),  # the threshold itself is not above it
    (None, 50, 0, 0, 0, 0, 0, "unreadable", "error", 0, {"unreadable": 1}),
    (None, 0, 0, 0, 0, 0, 0, "unreadable", "error", 1, {}),
]
HAND_RULE = DecisionRule(0.5, 0.6, 10, 0.9, 5)


@pytest.fixture
def by_hand(tmp_path):
    columns = np.array([[np.nan if value is None else value for value in row[:7]] for row in BY_HAND], float).T
    probability, (truth, drawn, drawn_true, left, left_true, confident) = columns[0], columns[1:].astype(int)
    pixels, overlap = np.zeros((2, len(BY_HAND), 2, 2), int)
    pixels[:, 0, 0], pixels[:, 0, 1], pixels[:, 1, 0] = drawn, left, confident
    overlap[:, 0, 0], overlap[:, 0, 1] = drawn_true, left_true
    size, greatest = np.full(len(BY_HAND), 1024**2), np.full(len(BY_HAND), 0.75)
    counts = PixelCounts(np.array([0.6, 0.9]), np.array([0.0, 10.0]), pixels, overlap, truth, size, greatest)
    maps = [None if row[0] is None else np.zeros((2, 2), np.uint8) for row in BY_HAND]
    return predictions_of(tmp_path / "kept", maps, [np.zeros((2, 2), bool)] * len(maps), probability), counts


def test_each_outcome_by_hand(by_hand):
    cases = score_cases(*by_hand, HAND_RULE)
    assert cases["outcome"].tolist() == [row[7] for row in BY_HAND]
    assert cases["stage"].tolist() == [row[8] for row in BY_HAND]
    assert cases["dice"].tolist() == pytest.approx([row[9] for row in BY_HAND])
    for name in ERROR_CAUSES:
        expected = [row[10].get(name, 0) for row in BY_HAND]
        assert cases[f"missing_dice {name}"].tolist() == pytest.approx(expected), name
    assert set(cases["outcome"]) == set(OUTCOMES)
    assert cases["predicted_px"].tolist() == [row[4] if row[8] == "mask" else 0 for row in BY_HAND]
    gated_in = [row[0] is not None and row[0] > 0.5 for row in BY_HAND]
    assert cases["raw_px"].tolist() == [row[2] * chosen for row, chosen in zip(BY_HAND, gated_in, strict=True)]
    assert cases["positive"].tolist() == [row[1] > 0 for row in BY_HAND]
    found = cases.loc[4]
    assert (found["iou"], found["f2"]) == pytest.approx((40 / 60, 5 * 40 / (4 * 50 + 50)))
    assert found["raw_dice"] == pytest.approx(80 / 120)
    assert found["disagreement"] == pytest.approx(0.15)


def test_without_the_classifier_by_hand(by_hand):
    cases = score_cases(*by_hand, HAND_RULE, use_classifier=False)
    assert cases.loc[[0, 12, 13], "outcome"].tolist() == ["found", "false alarm", "false alarm"]
    assert cases.loc[0, "dice"] == pytest.approx(80 / 110)
    assert cases.loc[[14, 15], "outcome"].tolist() == ["unreadable"] * 2
    assert not cases["missing_dice classifier"].any()


def test_without_the_triplet_rule_by_hand(by_hand):
    cases = score_cases(*by_hand, replace(HAND_RULE, top_threshold=0.1, top_area=0))  # 0.1 was not counted
    assert cases.loc[[2, 10], "outcome"].tolist() == ["found", "false alarm"]


def test_triplet_rule_is_scaled_to_the_images_grid(by_hand):
    counts = by_hand[1]
    passed = counts.pixels[:, 1, 0] >= 5
    np.testing.assert_array_equal(passes_triplet_rule(counts, HAND_RULE), passed)
    quarter = replace(counts, size=counts.size // 4)
    np.testing.assert_array_equal(passes_triplet_rule(quarter, replace(HAND_RULE, top_area=20)), passed)
    assert passes_triplet_rule(counts, replace(HAND_RULE, top_area=0)).all()


def test_a_rule_that_was_not_counted(by_hand):
    for change in ({"mask_threshold": 0.5}, {"minimum_area": 11}, {"top_threshold": 0.5}):
        with pytest.raises(ValueError, match="was not counted"):
            score_cases(*by_hand, replace(HAND_RULE, **change))


def pairs():
    """Masks of 6 x 7, random, empty and full, each with each kind."""
    rng = np.random.default_rng(0)
    one = [rng.random((6, 7)) < 0.4, np.zeros((6, 7), bool), np.ones((6, 7), bool), rng.random((6, 7)) < 0.1]
    other = [rng.random((6, 7)) < 0.3, np.zeros((6, 7), bool), np.ones((6, 7), bool), ~one[0]]
    return [(true, predicted) for true in one for predicted in other]


def test_scores_from_counts_are_those_of_scikit_learn_and_of_the_metrics():
    true, predicted = (np.array(side).reshape(16, -1) for side in zip(*pairs(), strict=True))
    counts = predicted.sum(1), (true & predicted).sum(1), true.sum(1)
    for score, reference in (
        (dice_of(*counts), lambda t, p: f1_score(t, p, zero_division=1)),
        (f_beta_of(*counts, 2.0), lambda t, p: fbeta_score(t, p, beta=2, zero_division=1)),
        (f_beta_of(*counts, 0.5), lambda t, p: fbeta_score(t, p, beta=0.5, zero_division=1)),
        (iou_of(*counts), lambda t, p: jaccard_score(t, p, zero_division=1)),
    ):
        np.testing.assert_allclose(score, [reference(t, p) for t, p in zip(true, predicted, strict=True)])
    for score, metric in ((dice_of(*counts), FBeta(1)), (f_beta_of(*counts, 2.0), FBeta(2)), (iou_of(*counts), IoU())):
        metric.update_state(true[..., None, None], predicted.astype(np.float32)[..., None, None])
        assert score.mean() == pytest.approx(float(metric.result()), abs=1e-6)


def test_scores_of_empty_masks():
    for score in (dice_of, iou_of, lambda *counts: f_beta_of(*counts, 2.0)):
        found = score(np.array([0, 0, 5]), np.array([0, 0, 0]), np.array([0, 5, 0]))
        np.testing.assert_array_equal(found, [1, 0, 0])


def test_scores_of_cases_are_those_of_the_masks(pipeline, kept):
    rule = DecisionRule(0.3, 0.5, 1024 * 8)
    cases = score_cases(kept, count_pixels(kept, [0.5], [rule.minimum_area]), rule)
    results = list(replace(pipeline, rule=rule).predict_many(kept.manifest["path"]))
    readable = [n for n, result in enumerate(results) if result.error is None]
    pairs_of = [(true_masks(kept)[n].ravel(), results[n].mask.ravel()) for n in readable]
    for name, reference in (
        ("iou", lambda t, p: jaccard_score(t, p, zero_division=1)),
        ("f2", lambda t, p: fbeta_score(t, p, beta=2, zero_division=1)),
    ):
        np.testing.assert_allclose(cases.loc[readable, name], [reference(*pair) for pair in pairs_of])
    assert 0.2 < cases["iou"].mean() < 0.9
