"""Mean Dice by hand; intervals against theory."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pneumoseg.evaluation import bootstrap_interval, score_arms


def results(codes, errors=()):
    return [SimpleNamespace(rle=code, error=OSError() if n in errors else None) for n, code in enumerate(codes)]


def table(codes):
    return pd.DataFrame({"rle": codes, "rows": 4, "columns": 4, "has_pneumothorax": [code != "-1" for code in codes]})


def test_by_hand():
    truth = table(["0 4", "-1", "-1", "8 2"])
    # 2 * 2 / (4 + 2); both empty; a false alarm; missed.
    scores = score_arms({"model": results(["2 2", "-1", "0 1", "-1"])}, truth)
    model = scores.loc["model"]
    assert model["mean_dice"] == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)
    assert model["dice_positives"] == pytest.approx(1 / 3)
    assert model["dice_negatives"] == pytest.approx(0.5)
    assert model["predicted"] == 0.5


def test_floor_is_the_share_of_negatives():
    floor = score_arms({}, table(["0 4", "-1", "-1", "-1", "3 1"])).loc["all empty"]
    assert floor["mean_dice"] == pytest.approx(0.6)
    assert (floor["dice_positives"], floor["dice_negatives"], floor["predicted"]) == (0, 1, 0)


def test_one_class_alone_has_no_score_of_the_other():
    scores = score_arms({"perfect": results(["0 4"])}, table(["0 4"])).loc["perfect"]
    assert scores["mean_dice"] == scores["dice_positives"] == 1
    assert math.isnan(scores["dice_negatives"])


def test_unreadable_images_are_counted():
    scores = score_arms({"model": results(["-1", "-1", "-1"], errors=[0, 2])}, table(["0 4", "-1", "-1"]))
    assert scores["unreadable"].to_dict() == {"model": 2, "all empty": 0}
    assert scores.loc["model", "mean_dice"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("codes", [["-1"], ["-1", "-1", "-1"]])
def test_wrong_number_of_predictions(codes):
    with pytest.raises(ValueError, match=r"shorter|longer"):
        score_arms({"model": results(codes)}, table(["-1", "-1"]))


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


def test_interval_leaves_out_what_has_no_score():
    scores = iter([math.nan, 1.0, 2.0, 3.0])
    assert bootstrap_interval(lambda rows: next(scores), np.arange(3), resamples=4, level=0.5) == (1.5, 2.5)
    assert all(np.isnan(bootstrap_interval(lambda rows: math.nan, np.arange(3), resamples=4)))
