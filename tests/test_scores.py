"""Scores against hand values and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from pneumoseg.scores import (
    best_threshold,
    calibration_error,
    classification_scores,
    dice,
    matthews_correlation,
    reliability,
    sensitivity_at_specificity,
)


def test_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    probabilities = np.array([0.9, 0.6, 0.5, 0.7, 0.4, 0.3, 0.2, 0.1])
    scores = classification_scores(labels, probabilities)  # .5 itself is negative: tp 2, fp 1, fn 1, tn 4
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["recall"] == pytest.approx(2 / 3)
    assert scores["specificity"] == pytest.approx(4 / 5)
    assert scores["accuracy"] == pytest.approx(6 / 8)
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["mcc"] == pytest.approx((2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5))
    assert scores["auc"] == pytest.approx(13 / 15)  # of 15 pairs, .7 beats two positives


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_as_scikit_learn(seed, threshold):
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.3
    probabilities = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 1)  # many ties
    predicted = probabilities > threshold
    expected = {
        "mcc": metrics.matthews_corrcoef(labels, predicted),
        "precision": metrics.precision_score(labels, predicted, zero_division=0),
        "recall": metrics.recall_score(labels, predicted),
        "specificity": metrics.recall_score(~labels, ~predicted),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "f1": metrics.f1_score(labels, predicted),
        "auc": metrics.roc_auc_score(labels, probabilities),
    }
    assert classification_scores(labels, probabilities, threshold) == pytest.approx(expected)


def test_degenerate_cases():
    nobody = classification_scores(np.zeros(4, bool), np.full(4, 0.1))
    assert np.isnan(nobody.pop("auc"))
    assert nobody == {"mcc": 0, "precision": 0, "recall": 0, "specificity": 1, "accuracy": 1, "f1": 0}
    everybody = classification_scores(np.ones(3, bool), np.full(3, 0.9))
    assert (everybody["mcc"], everybody["f1"], everybody["recall"], everybody["specificity"]) == (0, 1, 1, 0)
    assert all(np.isnan(value) for value in classification_scores([True, False], [0.5, np.nan]).values())
    with pytest.raises(ValueError, match="3 labels and 2 probabilities"):
        classification_scores(np.ones(3, bool), np.ones(2))
    with pytest.raises(ValueError, match="0 labels"):
        best_threshold(np.zeros(0, bool), np.zeros(0))


def test_correlation_of_large_counts_and_arrays():
    counts = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [2000, 500, 669, 9378], [10**12, 0, 0, 10**12]])
    labels = np.repeat([1, 0, 1, 0], [2000, 500, 669, 9378])
    predicted = np.repeat([1, 1, 0, 0], [2000, 500, 669, 9378])
    expected = [1, -1, metrics.matthews_corrcoef(labels, predicted), 1]
    np.testing.assert_allclose(matthews_correlation(*counts.T), expected)


@pytest.mark.parametrize("seed", range(20))
def test_best_threshold_against_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(30) < 0.4
    probabilities = np.round(np.clip(rng.normal(0.4 + 0.25 * labels, 0.2), 0, 1), 2).astype(np.float32)
    threshold, correlation = best_threshold(labels, probabilities)
    tried = [metrics.matthews_corrcoef(labels, probabilities > t) for t in np.linspace(-0.005, 1.005, 102)]
    assert correlation == pytest.approx(max(tried))
    assert metrics.matthews_corrcoef(labels, probabilities.astype(float) > threshold) == pytest.approx(correlation)
    assert np.abs(probabilities - threshold).min() > 1e-4  # between two probabilities, not on one


def test_best_threshold_divides_half_way_and_near_the_middle():
    assert best_threshold([False, False, True, True], [0.1, 0.2, 0.6, 0.9]) == (pytest.approx(0.4), 1)
    # Cutting off the first or all but the last gives the same correlation; .55 is nearer to the middle than .15.
    threshold, _ = best_threshold([False, True, False, True], [0.1, 0.2, 0.5, 0.6])
    assert threshold == pytest.approx(0.55)


def test_no_threshold_better_than_chance_is_the_middle():
    assert best_threshold([True, True, False, False], [0.1, 0.2, 0.8, 0.9]) == (0.5, -1)
    assert best_threshold([True, False], [0.7, 0.7]) == (0.5, 0)
    assert best_threshold([False, False], [0.2, 0.7]) == (0.5, 0)
    threshold, correlation = best_threshold([True, False], [np.nan, 0.7])
    assert threshold == 0.5
    assert np.isnan(correlation)


def test_sensitivity_at_specificity_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    probabilities = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.3, 0.2, 0.1])
    # Above .7 one positive and no negative, above .4 two and one, above .2 three and three.
    for specificity, expected in ((1, 1 / 3), (0.81, 1 / 3), (0.8, 2 / 3), (0.41, 2 / 3), (0.4, 1), (0, 1)):
        assert sensitivity_at_specificity(labels, probabilities, specificity) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(15))
def test_sensitivity_at_specificity_against_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(40) < 0.4
    probabilities = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0.1, 1), 1)  # many ties
    cuts = [probabilities > threshold for threshold in (0, *np.unique(probabilities))]
    reached = [((~cut)[~labels].mean(), cut[labels].mean()) for cut in cuts]
    # Among them are specificities that are just reached, whose fractions are rounded differently.
    for wanted in (0, 0.5, 0.9, 0.95, 1, *(specificity for specificity, _ in reached)):
        best = max(found for specificity, found in reached if specificity >= wanted)
        assert sensitivity_at_specificity(labels, probabilities, wanted) == pytest.approx(best)


def test_specificity_that_is_just_reached_counts_however_its_fraction_rounds():
    for negatives in range(1, 60):
        labels = np.arange(negatives + 1) == 0
        probabilities = np.concatenate([[0.5], np.linspace(0.9, 0.1, negatives)])
        false_alarms = int((probabilities[1:] >= 0.5).sum())
        reached = (negatives - false_alarms) / negatives
        assert sensitivity_at_specificity(labels, probabilities, reached) == 1
        assert sensitivity_at_specificity(labels, probabilities, reached + 0.5 / negatives) == 0


def test_sensitivity_at_specificity_without_an_answer():
    assert np.isnan(sensitivity_at_specificity([True, True], [0.1, 0.9], 0.9))
    assert np.isnan(sensitivity_at_specificity([False, False], [0.1, 0.9], 0.9))
    assert np.isnan(sensitivity_at_specificity([False, True], [0.1, np.nan], 0.9))
    assert sensitivity_at_specificity([False, True], [0.4, 0.4], 0.9) == 0
    with pytest.raises(ValueError, match="1 labels and 2"):
        sensitivity_at_specificity([True], [0.1, 0.9], 0.9)


def test_reliability_by_hand():
    probabilities = [0.0, 0.05, 0.05, 0.21, 0.29, 0.95, 1.0]
    table = reliability([False, False, True, True, True, True, False], probabilities)
    np.testing.assert_allclose(table["low"], [0, 0.2, 0.9])
    np.testing.assert_allclose(table["high"], [0.1, 0.3, 1])
    assert table["images"].tolist() == [3, 2, 2]
    np.testing.assert_allclose(table["probability"], [0.1 / 3, 0.25, 0.975])
    np.testing.assert_allclose(table["positive_fraction"], [1 / 3, 1, 0.5])
    # (3 * .3 + 2 * .75 + 2 * .475) / 7
    error = calibration_error([False, False, True, True, True, True, False], probabilities)
    assert error == pytest.approx((0.9 + 1.5 + 0.95) / 7)


@pytest.mark.parametrize("bins", [1, 3, 7, 10, 20, 100])
def test_a_probability_on_a_bound_belongs_to_the_bin_above(bins):
    for number in range(bins + 1):
        (row,) = reliability([True], [number / bins], bins).itertuples()
        assert row.low == pytest.approx(min(number, bins - 1) / bins)
        assert row.high == pytest.approx(row.low + 1 / bins)


@pytest.mark.parametrize("bins", [1, 4, 10, 15])
@pytest.mark.parametrize("seed", range(4))
def test_reliability_against_scikit_learn(seed, bins):
    rng = np.random.default_rng(seed)
    probabilities = np.concatenate([rng.random(200) ** 3, [0, 1]])  # none on a bound in between, where bins differ
    labels = rng.random(202) < probabilities
    share, mean = calibration_curve(labels, probabilities, n_bins=bins, strategy="uniform")
    table = reliability(labels, probabilities, bins)
    np.testing.assert_allclose(table["positive_fraction"], share)
    np.testing.assert_allclose(table["probability"], mean)
    assert table["images"].sum() == 202
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    of_bins = [np.flatnonzero(bin_of == number) for number in np.unique(bin_of)]
    gaps = [len(rows) * abs(labels[rows].mean() - probabilities[rows].mean()) for rows in of_bins]
    assert calibration_error(labels, probabilities, bins) == pytest.approx(sum(gaps) / 202)


def test_calibration_error_of_the_extremes():
    assert calibration_error([True, False, True], [1, 0, 1]) == 0
    assert calibration_error([True, False, True], [0, 1, 0]) == 1
    assert calibration_error([True] * 3, [0.75] * 3) == pytest.approx(0.25)
    assert calibration_error([False] * 3, [0.75] * 3) == pytest.approx(0.75)
    # Right in the mean of a bin, wrong in each of two halves of it.
    assert calibration_error([True, False], [0.4, 0.6], bins=1) == pytest.approx(0)
    assert calibration_error([True, False], [0.4, 0.6], bins=2) == pytest.approx(0.6)


@pytest.mark.parametrize("score", [reliability, calibration_error])
def test_calibration_refuses_what_is_no_probability(score):
    for wrong in (np.nan, -0.01, 1.01):
        with pytest.raises(ValueError, match=r"expected probabilities in \[0, 1\]"):
            score([True, False], [0.5, wrong])
    with pytest.raises(ValueError, match="2 labels and 1"):
        score([True, False], [0.5])
    with pytest.raises(ValueError, match="0 labels"):
        score([], [])


def test_dice_by_hand():
    mask = np.array([[True, True, True], [False, False, False]])
    other = np.array([[True, False, False], [True, False, False]])
    # One pixel in common, three and two in all.
    assert dice(mask, other) == pytest.approx(2 / 5)
    assert dice(other, mask) == dice(mask, other)
    assert dice(mask, mask) == 1
    assert dice(mask, ~mask) == 0


def test_dice_of_empty_masks():
    empty = np.zeros((3, 4), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, ~empty) == 0
    assert dice(~empty, empty) == 0


def test_dice_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(4, 3\)"):
        dice(np.zeros((3, 4), bool), np.zeros((4, 3), bool))
    with pytest.raises(ValueError, match="float32"):
        dice(np.zeros((3, 4), bool), np.full((3, 4), 0.2, np.float32))


@pytest.mark.parametrize("seed", range(20))
def test_sensitivity_at_specificity_is_the_best_point_of_the_roc_curve(seed):
    rng = np.random.default_rng(seed)
    labels = np.r_[True, False, rng.random(rng.integers(0, 200)) < 0.3]
    probabilities = rng.random(labels.size).round(rng.integers(1, 9))
    false_alarms, found, _ = metrics.roc_curve(labels, probabilities, drop_intermediate=False)
    for specificity in (0.0, 0.5, 0.9, 0.95, 1.0):
        expected = found[false_alarms <= 1 - specificity + 1e-9].max()
        assert sensitivity_at_specificity(labels, probabilities, specificity) == expected
