"""Intervals against theory, and means against the same in the general way."""

import math

import numpy as np
import pandas as pd
import pytest

from pneumoseg.data.patients import patient_groups
from pneumoseg.evaluation.bootstrap import bootstrap_interval, bootstrap_means


def test_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = bootstrap_interval(lambda rows: values[rows].mean(), np.arange(400))
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_interval_is_wider_where_patients_repeat():
    values = np.repeat(np.random.default_rng(0).normal(size=100), 4)  # four equal images a patient
    narrow = np.subtract(*bootstrap_interval(lambda rows: values[rows].mean(), np.arange(400)))
    wide = np.subtract(*bootstrap_interval(lambda rows: values[rows].mean(), np.repeat(np.arange(100), 4)))
    assert wide / narrow == pytest.approx(2, abs=0.2)  # the square root of 4


def test_interval_draws_whole_groups():
    groups, drawn = np.array(["b", "a", "b", "c"]), []
    bootstrap_interval(lambda rows: drawn.append(rows) or 0.0, groups, resamples=50)
    for rows in drawn:
        counts = np.bincount(rows, minlength=4)
        assert counts[0] == counts[2]
        assert counts[0] + counts[1] + counts[3] == 3


@pytest.mark.parametrize("groups", [np.arange(60), np.arange(60) // 7, np.array(list("cab") * 20), np.zeros(60)])
def test_resamples_of_a_seed_are_those_of_earlier_versions(groups):
    drawn = []
    bootstrap_interval(lambda rows: drawn.append(rows) or 0.0, groups, resamples=20, seed=5)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    rng = np.random.default_rng(5)
    for rows in drawn:
        expected = [members[group] for group in rng.integers(len(members), size=len(members))]
        np.testing.assert_array_equal(rows, np.concatenate(expected))


def test_means_hold_one_resample_at_a_time(monkeypatch):
    repeats, bincount = [], np.bincount
    monkeypatch.setattr(
        np, "bincount", lambda *args, **kwargs: repeats.append(bincount(*args, **kwargs)) or repeats[-1]
    )
    bootstrap_means(np.zeros((40, 3)), np.arange(40), resamples=7)
    assert [each.shape for each in repeats] == [(40,)] * 7


def test_interval_leaves_out_what_has_no_score():
    scores = iter([math.nan, 1.0, 2.0, 3.0])
    assert bootstrap_interval(lambda rows: next(scores), np.arange(3), resamples=4, level=0.5) == (1.5, 2.5)
    assert all(np.isnan(bootstrap_interval(lambda rows: math.nan, np.arange(3), resamples=4)))


def test_interval_of_several_scores_at_once():
    values = np.random.default_rng(0).normal(size=(30, 3))
    low, high = bootstrap_interval(lambda rows: [*values[rows].mean(axis=0), math.nan], np.arange(30), resamples=50)
    for column in range(3):
        alone = bootstrap_interval(lambda rows, c=column: values[rows, c].mean(), np.arange(30), resamples=50)
        assert (low[column], high[column]) == pytest.approx(alone)
    assert np.isnan([low[3], high[3]]).all()


@pytest.mark.parametrize("groups", [np.arange(40), np.arange(40) // 3, np.array(["b", "a"] * 20), np.zeros(40)])
@pytest.mark.parametrize(("level", "seed"), [(0.95, 0), (0.5, 7)])
def test_means_are_the_intervals_of_means(groups, level, seed):
    values = np.random.default_rng(1).normal(size=(40, 4))
    values[::3, 1] = math.nan
    values[5:, 2] = math.nan
    settings = {"resamples": 60, "level": level, "seed": seed}

    def means(rows):
        drawn = values[rows]
        known = ~np.isnan(drawn)
        return [drawn[known[:, c], c].mean() if known[:, c].any() else math.nan for c in range(4)]

    expected = bootstrap_interval(means, groups, **settings)
    np.testing.assert_allclose(bootstrap_means(values, groups, **settings), expected, rtol=1e-12)


def test_means_are_those_of_theory():
    values = np.random.default_rng(0).normal(10, 2, (400, 1))
    (low,), (high,) = bootstrap_means(values, np.arange(400))
    error = values.std() / 20
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.1 * error)


def test_means_are_wider_where_patients_repeat():
    values = np.repeat(np.random.default_rng(0).normal(size=(100, 1)), 4, axis=0)
    narrow = np.subtract(*bootstrap_means(values, np.arange(400)))
    wide = np.subtract(*bootstrap_means(values, np.repeat(np.arange(100), 4)))
    assert wide / narrow == pytest.approx(2, abs=0.2)


def test_all_means_are_from_the_same_resamples():
    values = np.random.default_rng(0).normal(size=(50, 1))
    low, high = bootstrap_means(np.hstack([values, values, 3 - values]), np.arange(50))
    assert (low[0], high[0]) == (low[1], high[1])
    assert (3 - high[2], 3 - low[2]) == pytest.approx((low[0], high[0]))


def test_means_of_nothing_and_of_one():
    values = np.array([[math.nan, 0.25], [math.nan, math.nan]])
    low, high = bootstrap_means(values, np.array(["a", "b"]), resamples=20)
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == (0.25, 0.25)  # the resamples without it do not count


def test_same_seed_same_bounds():
    values = np.random.default_rng(0).normal(size=(50, 1))
    first, again, other = (bootstrap_means(values, np.arange(50), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_an_image_without_a_patient_is_one_of_its_own():
    manifest = pd.DataFrame({"image_id": ["a", "b", "c", "d", "e"], "patient_id": ["1", "", "1", "", "b"]})
    groups = patient_groups(manifest)
    assert groups[0] == groups[2]
    assert len(set(groups)) == 4
