"""Scores against hand values and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from pneumoseg.scores import best_threshold, classification_scores, matthews_correlation


def test_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    probabilities = np.array([0.9, 0.6, 0.5, 0.7, 0.4, 0.3, 0.2, 0.1])
    scores = classification_scores(labels, probabilities)  # .5 itself is negative: tp 2, fp 1, fn 1, tn 4
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["recall"] == pytest.approx(2 / 3)
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
        "accuracy": metrics.accuracy_score(labels, predicted),
        "f1": metrics.f1_score(labels, predicted),
        "auc": metrics.roc_auc_score(labels, probabilities),
    }
    assert classification_scores(labels, probabilities, threshold) == pytest.approx(expected)


def test_degenerate_cases():
    nobody = classification_scores(np.zeros(4, bool), np.full(4, 0.1))
    assert np.isnan(nobody.pop("auc"))
    assert nobody == {"mcc": 0, "precision": 0, "recall": 0, "accuracy": 1, "f1": 0}
    everybody = classification_scores(np.ones(3, bool), np.full(3, 0.9))
    assert (everybody["mcc"], everybody["f1"], everybody["recall"]) == (0, 1, 1)
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
