"""Tables against hand values and brute force."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, matthews_corrcoef

from pneumoseg.evaluation import Estimate, table_columns, tables
from pneumoseg.evaluation.bootstrap import bootstrap_interval
from pneumoseg.evaluation.cases import ERROR_CAUSES
from pneumoseg.evaluation.pixel_counts import PixelCounts
from pneumoseg.scores import calibration_error, classification_scores, sensitivity_at_specificity


def flat(function):
    """The function's table with its estimates split into columns."""
    return lambda *arguments: table_columns(function(*arguments))


score_variants, paired_differences = flat(tables.score_variants), flat(tables.paired_differences)
score_classifier, subgroups, area_sweep = flat(tables.score_classifier), flat(tables.subgroups), flat(tables.area_sweep)


def cases_of(positive, dice, probability=0.5, **columns):
    """Cases with what the tables look at; a positive with a Dice above 0, or a negative with 0, has a mask."""
    positive, dice = np.array(positive, bool), np.array(dice, float)
    shown = {"positive": positive, "dice": dice, "iou": dice / (2 - dice), "f2": dice, "probability": probability}
    return pd.DataFrame(shown | {"predicted_px": 9 * ((dice > 0) == positive), "outcome": "found"} | columns)


CASES = cases_of([1, 1, 0, 0, 0], [0.5, 0, 1, 0, 1])
PATIENTS = np.arange(5)


def test_variants_by_hand():
    scores = score_variants({"ours": CASES}, PATIENTS).loc["ours"]
    assert scores["mean_dice"] == pytest.approx(2.5 / 5)
    assert scores["gain"] == pytest.approx(2.5 / 5 - 3 / 5)
    assert scores["dice_positives"] == pytest.approx(0.25)
    assert scores["dice_negatives"] == pytest.approx(2 / 3)
    assert scores["iou"] == pytest.approx((1 / 3 + 2) / 5)
    assert scores["f2"] == pytest.approx(0.5)
    assert scores["predicted"] == pytest.approx(2 / 5)
    assert scores["unreadable"] == 0


def test_each_score_is_an_estimate():
    pixel_counts, gated_in = swept()
    scores = tables.score_variants({"ours": CASES}, PATIENTS).drop(columns="unreadable")
    assert all(type(cell) is Estimate for cell in scores.to_numpy().ravel())
    for table, column in (
        (tables.paired_differences({"a": CASES, "b": CASES}, "a", PATIENTS), "difference"),
        (tables.area_sweep(pixel_counts, 0.5, [9, 0], gated_in, np.arange(9)), "mean_dice"),
    ):
        assert len(table) > 0
        assert all(type(cell) is Estimate for cell in table[column])


def test_bounds_are_those_of_the_bootstrap():
    groups = np.array(["a", "a", "b", "c", "c"])
    scores = score_variants({"ours": CASES}, groups).loc["ours"]
    dice, positive = CASES["dice"].to_numpy(), CASES["positive"].to_numpy()

    def of_positives(rows):
        return dice[rows][positive[rows]].mean() if positive[rows].any() else math.nan

    for name, score in (
        ("mean_dice", lambda rows: dice[rows].mean()),
        ("gain", lambda rows: dice[rows].mean() - (~positive[rows]).mean()),
        ("dice_positives", of_positives),
    ):
        assert (scores[f"{name}_low"], scores[f"{name}_high"]) == pytest.approx(bootstrap_interval(score, groups))


def test_baseline_is_the_share_of_negatives():
    baseline = score_variants({"ours": CASES}, PATIENTS).loc["all-empty baseline"]
    for name in ("mean_dice", "iou", "f2"):
        assert baseline[name] == pytest.approx(3 / 5)
    assert (baseline["dice_positives"], baseline["dice_negatives"], baseline["predicted"]) == (0, 1, 0)
    assert baseline["gain"] == baseline["gain_low"] == baseline["gain_high"] == 0
    assert baseline["unreadable"] == 0


@pytest.mark.parametrize(("positive", "missing"), [(True, "dice_negatives"), (False, "dice_positives")])
def test_one_class_alone_has_no_score_of_the_other(positive, missing):
    scores = score_variants({"ours": cases_of([positive] * 3, [1, 1, 1])}, np.arange(3))
    assert scores["mean_dice"].tolist() == [1, 0 if positive else 1]
    assert scores[[missing, f"{missing}_low", f"{missing}_high"]].isna().all(axis=None)
    assert scores.drop(columns=[missing, f"{missing}_low", f"{missing}_high"]).notna().all(axis=None)


def test_unreadable_images_are_counted():
    cases = cases_of([1, 0, 0], [0, 1, 1], outcome=["unreadable", "correctly empty", "unreadable"])
    scores = score_variants({"ours": cases, "other": cases.assign(outcome="found")}, np.arange(3))
    assert scores["unreadable"].to_dict() == {"ours": 2, "other": 0, "all-empty baseline": 0}


def test_differences_from_the_other_variants():
    rng = np.random.default_rng(0)
    dice = rng.random((3, 30))
    variants = {name: cases_of([1] * 30, dice[number]) for number, name in enumerate(("a", "b", "c"))}
    groups = np.arange(30) // 2
    differences = paired_differences(variants, "b", groups)
    assert differences.index.tolist() == ["a", "c"]
    for number, name in ((0, "a"), (2, "c")):
        difference = dice[1] - dice[number]
        assert differences.loc[name, "difference"] == pytest.approx(difference.mean())
        bounds = bootstrap_interval(lambda rows, d=difference: d[rows].mean(), groups)
        assert tuple(differences.loc[name, ["difference_low", "difference_high"]]) == pytest.approx(bounds)
    over_itself = paired_differences({"a": variants["a"], "same": variants["a"]}, "a", groups)
    assert (over_itself == 0).all(axis=None)


def classifier_cases(seed=0, count=60):
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.4
    probability = np.round(np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1), 1)  # ties
    dice = np.where(positive, rng.random(count), rng.integers(2, size=count))
    cases = cases_of(positive, dice, probability)
    unreadable = rng.random(count) < 0.1
    cases.loc[unreadable, "probability"] = math.nan
    cases.loc[unreadable, "dice"] = (~positive[unreadable]).astype(float)
    return cases


def test_classifier_is_scored_on_what_could_be_read():
    cases = classifier_cases()
    groups = np.arange(60) // 2
    table = score_classifier(cases, 0.45, groups)
    known = cases[cases["probability"].notna()]
    labels, probabilities = known["positive"].to_numpy(), known["probability"].to_numpy()
    assert len(known) < 60
    for name, value in classification_scores(labels, probabilities, 0.45).items():
        assert table.loc[name, "value"] == pytest.approx(value)
    sensitivity = [sensitivity_at_specificity(labels, probabilities, specificity) for specificity in (0.9, 0.95)]
    assert table["value"].filter(like="sensitivity at").tolist() == pytest.approx(sensitivity)
    assert table.loc["Brier score", "value"] == pytest.approx(brier_score_loss(labels, probabilities))
    assert table.loc["expected calibration error", "value"] == pytest.approx(calibration_error(labels, probabilities))
    bounds = bootstrap_interval(
        lambda rows: matthews_corrcoef(labels[rows], probabilities[rows] > 0.45), groups[known.index]
    )
    assert tuple(table.loc["mcc", ["value_low", "value_high"]]) == pytest.approx(bounds)
    assert (table["value_low"] <= table["value"] + 1e-9).drop("expected calibration error").all()


def test_classifier_on_one_class_and_on_nothing():
    one = score_classifier(cases_of([0, 0, 0], [1, 1, 1], [0.1, 0.2, 0.9]), 0.5, np.arange(3))
    assert one.loc["specificity", "value"] == pytest.approx(2 / 3)
    unknown = [
        "auc",
        "sensitivity at specificity 0.90",
        "sensitivity at specificity 0.95",
        "expected calibration error",
    ]
    assert one.index[one.isna().any(axis=1)].tolist() == unknown
    nothing = score_classifier(cases_of([1, 0], [0, 1], math.nan), 0.5, np.arange(2))
    assert nothing.empty
    assert nothing.columns.tolist() == ["value"]


def test_missing_dice_by_cause():
    missing = dict.fromkeys((f"missing_dice {name}" for name in ERROR_CAUSES), 0.0)
    cases = cases_of([1, 1, 0, 0], [0.7, 0, 0, 1], **missing)
    cases.loc[0, ["missing_dice outline", "missing_dice elimination"]] = 0.4, -0.1  # elimination helped
    cases.loc[1, "missing_dice classifier"] = 1
    cases.loc[2, "missing_dice false alarm"] = 1
    table = tables.error_breakdown(cases)
    assert table.index.tolist() == [*ERROR_CAUSES, "total"]
    expected = {"classifier": (0.25, 1), "elimination": (-0.025, 0), "outline": (0.1, 1), "false alarm": (0.25, 1)}
    for name in ERROR_CAUSES:
        assert tuple(table.loc[name]) == pytest.approx(expected.get(name, (0, 0)))
    assert table.loc["total", "missing_dice"] == pytest.approx(1 - cases["dice"].mean())
    assert table.loc["total", "images"] == 3


def subgroups_of(by, positive=None, dice=None, **columns):
    """Where each image went: the table's rows of one grouping, in order."""
    count = len(next(iter(columns.values())))
    base = {"area_px": 0, "rows": 1024, "columns": 1024, "view": "PA", "sex": "F", "age": 50.0}
    manifest = pd.DataFrame(base | columns, index=range(count))
    cases = cases_of([1] * count if positive is None else positive, [1] * count if dice is None else dice)
    table = subgroups(cases, manifest, np.arange(count))
    return table[table["by"] == by].drop(columns="by").reset_index(drop=True)


def counts(table):
    return dict(zip(table["subgroup"], table["images"], strict=True))


def test_borders_of_the_sizes():
    areas = [0, 1, 3499, 3500, 9999, 10000, 29999, 30000, 900000]
    assert counts(subgroups_of("size of the true mask", area_px=areas)) == {
        "none": 1,
        "under 3500 px": 2,
        "3500 to 9999 px": 2,
        "10000 to 29999 px": 2,
        "30000 px or more": 2,
    }


@pytest.mark.parametrize(
    ("rows", "columns", "areas", "expected"),
    [
        (512, 512, [0, 1, 874, 875, 2499, 2500, 7499, 7500], [1, 2, 2, 2, 1]),
        (2048, 1024, [0, 1, 6999, 7000, 19999, 20000], [1, 2, 2, 1, 0]),
        (4096, 4096, [0, 1, 15, 16, 55999, 56000], [1, 4, 1, 0, 0]),  # a single pixel is a mask
    ],
)
def test_borders_of_the_sizes_on_other_grids(rows, columns, areas, expected):
    table = subgroups_of("size of the true mask", area_px=areas, rows=rows, columns=columns)
    names = ("none", "under 3500 px", "3500 to 9999 px", "10000 to 29999 px", "30000 px or more")
    assert counts(table) == {name: count for name, count in zip(names, expected, strict=True) if count}


def test_borders_of_the_ages():
    ages = [math.nan, 80, 79, 60, 59, 40, 39, 18, 17, 0]
    table = subgroups_of("age", age=ages)
    assert list(counts(table).items()) == [
        ("under 18", 2),
        ("18 to 39", 2),
        ("40 to 59", 2),
        ("60 to 79", 2),
        ("80 or more", 1),
        ("unknown", 1),
    ]


def test_views_and_sexes():
    assert counts(subgroups_of("view", view=["PA", "AP", "", "AP"])) == {"AP": 2, "PA": 1, "unknown": 1}
    assert counts(subgroups_of("sex", sex=["M", "F", "", "M"])) == {"M": 2, "F": 1, "unknown": 1}


def test_scores_of_a_subgroup():
    positive, dice = [1, 1, 1, 0, 0, 1, 0], [0.5, 0, 0.7, 1, 0, 1, 1]
    table = subgroups_of("sex", positive, dice, sex=["M", "M", "F", "M", "M", "F", "O"]).set_index("subgroup")
    men = table.loc["M"]
    assert (men["images"], men["positives"]) == (4, 2)
    assert men["mean_dice"] == pytest.approx(1.5 / 4)
    assert men["dice_positives"] == pytest.approx(0.25)
    assert (men["recall"], men["specificity"]) == (0.5, 0.5)
    women, others = table.loc["F"], table.loc["O"]
    assert (women["recall"], women["dice_positives"]) == (1, pytest.approx(0.85))
    assert math.isnan(women["specificity"])
    assert (others["positives"], others["specificity"], others["mean_dice"]) == (0, 1, 1)
    assert math.isnan(others["recall"])
    assert math.isnan(others["dice_positives"])


def test_bounds_of_a_subgroup_are_of_its_own_patients():
    rng = np.random.default_rng(0)
    dice, sex, groups = rng.random(40), np.where(np.arange(40) % 3, "M", "F"), np.arange(40) // 2
    manifest = pd.DataFrame({"area_px": 0, "rows": 9, "columns": 9, "view": "PA", "sex": sex, "age": 50.0})
    table = subgroups(cases_of([1] * 40, dice), manifest, groups).set_index("subgroup")
    women = np.flatnonzero(sex == "F")
    bounds = bootstrap_interval(lambda rows: dice[women][rows].mean(), groups[women])
    assert tuple(table.loc["F", ["mean_dice_low", "mean_dice_high"]]) == pytest.approx(bounds)


def test_the_subgroups_of_a_grouping_hold_all_images():
    rng = np.random.default_rng(0)
    manifest = pd.DataFrame(
        {
            "area_px": rng.integers(40_000, size=50),
            "rows": 1024,
            "columns": rng.integers(500, 2000, 50),
            "view": rng.choice(["PA", "AP", ""], 50),
            "sex": rng.choice(["M", "F", ""], 50),
            "age": np.where(rng.random(50) < 0.2, math.nan, rng.integers(100, size=50)),
        }
    )
    cases = cases_of(rng.random(50) < 0.5, rng.random(50))
    table = subgroups(cases, manifest, np.arange(50))
    for _, group in table.groupby("by"):
        assert group["images"].sum() == 50
        assert group["positives"].sum() == cases["positive"].sum()
        assert np.average(group["mean_dice"], weights=group["images"]) == pytest.approx(cases["dice"].mean())


def swept():
    """Random pixel counts of 9 images at 3 thresholds and 3 areas, and which of them are segmented."""
    rng = np.random.default_rng(0)
    pixels = -np.sort(-rng.integers(0, 50, (9, 3, 3)), axis=2)
    overlap, truth = pixels // 3, rng.integers(20, 90, 9) * (np.arange(9) % 3 > 0)
    overlap[truth == 0] = 0
    pixel_counts = PixelCounts(np.array([0.2, 0.5, 0.8]), np.array([0.0, 7, 9]), pixels, overlap, truth, truth, truth)
    return pixel_counts, rng.random(9) < 0.6


def dice_by_hand(pixel_counts, row, threshold, area, gated_in):
    if not gated_in:
        return float(pixel_counts.truth[row] == 0)
    total = pixel_counts.pixels[row, threshold, area] + pixel_counts.truth[row]
    return 2 * pixel_counts.overlap[row, threshold, area] / total if total else 1.0


def test_area_sweep_by_hand():
    pixel_counts, gated_in = swept()
    groups = np.arange(9) // 2
    table = area_sweep(pixel_counts, 0.5, [9, 0], gated_in, groups)
    assert table["area"].tolist() == [9, 0]
    for line, area in enumerate([2, 0]):
        dice = np.array([dice_by_hand(pixel_counts, row, 1, area, gated_in[row]) for row in range(9)])
        assert table.loc[line, "mean_dice"] == pytest.approx(dice.mean())
        bounds = bootstrap_interval(lambda rows, d=dice: d[rows].mean(), groups)
        assert tuple(table.loc[line, ["mean_dice_low", "mean_dice_high"]]) == pytest.approx(bounds)


def test_threshold_sweep_by_hand():
    pixel_counts, gated_in = swept()
    table = tables.threshold_sweep(pixel_counts, 7, gated_in)
    assert table["threshold"].tolist() == [0.2, 0.5, 0.8]
    expected = [np.mean([dice_by_hand(pixel_counts, row, t, 1, gated_in[row]) for row in range(9)]) for t in range(3)]
    assert table["mean_dice"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))
def test_classifier_sweep_against_all_thresholds(seed):
    alone = classifier_cases(seed, 40)
    table = tables.classifier_sweep(alone, alone)
    known = alone["probability"].notna()
    assert table["threshold"].tolist() == sorted(set(alone.loc[known, "probability"]))
    for threshold, mean_dice, mcc in table.itertuples(index=False):
        gated_in = alone["probability"] > threshold
        assert mean_dice == pytest.approx(np.where(gated_in, alone["dice"], ~alone["positive"]).mean())
        assert mcc == pytest.approx(matthews_corrcoef(alone.loc[known, "positive"], gated_in[known]))


def test_classifier_sweep_with_labels_alone():
    segmented = cases_of([1, 0], [0.5, 0], [0.8, 0.3])
    classified = cases_of([1, 0, 1, 0], math.nan, [0.8, 0.3, 0.4, math.nan])
    table = tables.classifier_sweep(segmented, classified)
    assert table["threshold"].tolist() == [0.3, 0.4, 0.8]
    # Above 0.3 and above 0.4 lies the positive with a mask; above 0.8 no image.
    assert table["mean_dice"].tolist() == pytest.approx([0.75, 0.75, 0.5])
    # Above 0.3 lie both positives, above 0.4 one of them.
    assert table["mcc"].tolist() == pytest.approx([1, 0.5, 0])


def test_classifier_sweep_of_one_class_and_of_nothing():
    cases = cases_of([1, 1, 1], [0.5, 0.2, 1], [0.3, 0.9, 0.3])
    one = tables.classifier_sweep(cases, cases)
    assert one["mean_dice"].tolist() == pytest.approx([0.2 / 3, 0])
    assert one["mcc"].tolist() == [0, 0]
    cases = cases_of([1, 0], [0, 1], math.nan)
    nothing = tables.classifier_sweep(cases, cases)
    assert nothing.empty
    assert nothing.columns.tolist() == ["threshold", "mean_dice", "mcc"]
