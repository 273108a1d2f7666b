"""An evaluation as a whole: its tables against each other and against the decisions that they rest on."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation import (
    ablation,
    compare_predictions,
    evaluate,
    evaluate_classifier,
    table_columns,
    tables,
)
from pneumoseg.evaluation.bootstrap import bootstrap_interval
from pneumoseg.evaluation.cases import score_cases
from pneumoseg.evaluation.pixel_counts import count_pixels
from tests.conftest import predictions_of

SIZE, COUNT = 32, 20  # an area counts 1024 times as many pixels
ASSEMBLED = DecisionRule(0.4, 0.47, 8 * 1024)
TUNED = DecisionRule(0.3, 0.62, 12 * 1024, 0.7, 3 * 1024)
VARIANTS = ["staged + elimination", "staged", "segmentation + elimination", "segmentation"]


def predictions_for(folder, seed=0):
    """Images some of which each stage decides, the last one damaged, two a patient."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for number in range(COUNT):
        noise = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 1.5)
        noise = (noise - noise.min()) / np.ptp(noise)
        masks.append(noise > (0.7 if number % 2 else 2))
        maps.append((255 * noise**2 * rng.uniform(0.5, 1)).astype(np.uint8))
    maps[-1] = None
    probability = np.round(0.3 + 0.3 * (np.arange(COUNT) % 2) + rng.normal(scale=0.2, size=COUNT), 1).clip(0, 1)
    probability[-1] = math.nan
    return predictions_of(folder, maps, masks, probability, patient_id=[f"p{n // 2}" for n in range(COUNT)])


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    return predictions_for(tmp_path_factory.mktemp("kept") / "a")


@pytest.fixture(scope="module")
def evaluation(predictions):
    return evaluate(predictions, ASSEMBLED, TUNED)


def decided(predictions, rule, use_classifier=True):
    counts = count_pixels(predictions, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
    return score_cases(predictions, counts, rule, use_classifier=use_classifier)


def test_variants_are_the_rules_with_and_without_classifier_and_elimination(evaluation, predictions):
    names = [*VARIANTS, *(f"{name} (tuned)" for name in VARIANTS), "all-empty baseline"]
    scores = table_columns(evaluation.variants)
    assert scores.index.tolist() == names
    for rule, suffix in ((ASSEMBLED, ""), (TUNED, " (tuned)")):
        for name in VARIANTS:
            area = rule.minimum_area if "elimination" in name else 0
            cases = decided(predictions, replace(rule, minimum_area=area), name.startswith("staged"))
            assert scores.loc[name + suffix, "mean_dice"] == pytest.approx(cases["dice"].mean())
    assert scores["mean_dice"].nunique() == 9  # each does something
    assert (scores["unreadable"].drop("all-empty baseline") == 1).all()
    assert scores.loc["all-empty baseline", "mean_dice"] == 0.5


def test_the_tuned_rule_is_in_force(evaluation, predictions):
    assert evaluation.rule == TUNED
    assert evaluation.rules == {"": ASSEMBLED, " (tuned)": TUNED}
    pd.testing.assert_frame_equal(evaluation.cases, decided(predictions, TUNED))
    assert set(evaluation.cases["stage"]) == {"classifier", "segmenter", "triplet", "elimination", "mask", "error"}
    means = table_columns(evaluation.variants)["mean_dice"].drop("all-empty baseline")
    expected = means.pop(f"{VARIANTS[0]} (tuned)") - means
    assert table_columns(evaluation.differences)["difference"].to_dict() == pytest.approx(expected.to_dict())


def test_tables_agree_with_each_other(evaluation):
    mean_dice = table_columns(evaluation.variants).loc[f"{VARIANTS[0]} (tuned)", "mean_dice"]
    assert evaluation.error_breakdown.loc["total", "missing_dice"] == pytest.approx(1 - mean_dice)
    for _, group in table_columns(evaluation.subgroups).groupby("by"):
        assert np.average(group["mean_dice"], weights=group["images"]) == pytest.approx(mean_dice)
    sweep = evaluation.mask_thresholds.set_index("threshold")["mean_dice"]
    assert sweep[TUNED.mask_threshold] == pytest.approx(mean_dice)
    below = evaluation.classifier_thresholds[evaluation.classifier_thresholds["threshold"] <= 0.3].iloc[-1]
    assert below["threshold"] == 0.3  # which occurs
    assert below["mean_dice"] == pytest.approx(mean_dice)
    assert below["mcc"] == pytest.approx(evaluation.classifier.loc["mcc", "value"].value)


def test_sweeps_are_decisions(evaluation, predictions):
    for row in evaluation.mask_thresholds.itertuples():
        expected = decided(predictions, replace(TUNED, mask_threshold=row.threshold))["dice"].mean()
        assert row.mean_dice == pytest.approx(expected)
    for row in evaluation.classifier_thresholds.itertuples():
        expected = decided(predictions, replace(TUNED, classifier_threshold=row.threshold))["dice"].mean()
        assert row.mean_dice == pytest.approx(expected)
    for row in table_columns(evaluation.areas).query("grid == 1024").itertuples():
        expected = decided(predictions, replace(TUNED, minimum_area=row.area))["dice"].mean()
        assert row.mean_dice == pytest.approx(expected)
    assert table_columns(evaluation.areas)["mean_dice"].nunique() > 5


def test_table_2_holds_the_papers_rows(evaluation, predictions):
    table = table_columns(evaluation.table_2)
    assert table[["grid", "area", "paper"]].to_numpy().tolist() == [
        [1024, 3500, 0.8347],
        [1024, 4500, 0.8329],
        [512, 750, 0.8328],
        [1024, 1750, 0.8318],
        [512, 250, 0.8307],
    ]
    areas = table_columns(evaluation.areas).set_index(["grid", "area"])
    for row in table.itertuples():
        swept = areas.loc[(row.grid, row.area)]
        assert (row.mean_dice, row.mean_dice_low) == (swept["mean_dice"], swept["mean_dice_low"])
    gated_in = (predictions.probability > 0.3) & ~evaluation.cases["stage"].isin(["triplet"])
    coarse = count_pixels(predictions, [TUNED.mask_threshold], [750], grid=512)
    pixels, overlap = (np.where(gated_in, each, 0) for each in coarse.at(TUNED.mask_threshold, 750))
    total = pixels + coarse.truth
    dice = np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1)
    assert table.loc[2, "mean_dice"] == pytest.approx(dice.mean())


def test_bounds_are_by_patient(evaluation, predictions):
    dice = evaluation.cases["dice"].to_numpy()
    low, high = bootstrap_interval(lambda rows: dice[rows].mean(), predictions.manifest["patient_id"].to_numpy())
    variant = table_columns(evaluation.variants).loc[f"{VARIANTS[0]} (tuned)"]
    assert (variant["mean_dice_low"], variant["mean_dice_high"]) == pytest.approx((low, high))


def test_summaries_and_tables(evaluation):
    summaries = evaluation.summaries()
    assert list(summaries)[2] == "Classifier at threshold 0.300"
    assert summaries["Minimum area of a component (table 2)"].index.tolist()[0] == (1024, 3500)
    assert summaries["By subgroup"].loc[("view", "PA"), "images"] == COUNT
    names = [
        "variants",
        "differences",
        "classifier",
        "error_breakdown",
        "subgroups",
        "table_2",
        "areas",
        "mask_thresholds",
    ]
    assert set(evaluation.tables()) == {"cases", "classifier_thresholds", *names}
    for name, table in evaluation.tables().items():
        pd.testing.assert_frame_equal(table, table_columns(getattr(evaluation, name)))
    shown = summaries["Mean Dice with and without classifier and elimination"].columns.tolist()
    others = ["dice_positives", "dice_negatives", "iou", "f2", "predicted"]
    assert shown == ["mean_dice", "mean_dice_low", "mean_dice_high", *others]


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory):
    """An evaluation of two images neither of which could be read, without a tuned rule."""
    masks = [np.ones((4, 4), bool), np.zeros((4, 4), bool)]
    folder = tmp_path_factory.mktemp("kept") / "bad"
    return evaluate(predictions_of(folder, [None, None], masks, [math.nan, math.nan]), ASSEMBLED)


def test_without_a_tuned_rule_there_are_half_as_many_variants(unreadable):
    assert unreadable.variants.index.tolist() == [*VARIANTS, "all-empty baseline"]
    assert unreadable.differences.index.tolist() == VARIANTS[1:]
    assert unreadable.rule == ASSEMBLED


def test_no_readable_image_is_scored_as_predicted_empty(unreadable):
    assert unreadable.cases["outcome"].tolist() == ["unreadable"] * 2
    assert (table_columns(unreadable.variants)["mean_dice"] == 0.5).all()
    assert unreadable.error_breakdown.loc["unreadable", "missing_dice"] == 0.5
    assert unreadable.classifier.empty
    assert unreadable.classifier_thresholds.empty
    assert (table_columns(unreadable.areas)["mean_dice"] == 0.5).all()
    assert unreadable.summaries()["Classifier at threshold 0.400"].empty


def test_ablation_of_a_rule(predictions):
    counts = count_pixels(predictions, [ASSEMBLED.mask_threshold, ASSEMBLED.top_threshold], [ASSEMBLED.minimum_area])
    variants = ablation(predictions, counts, ASSEMBLED)
    assert list(variants) == VARIANTS
    pd.testing.assert_frame_equal(variants["staged + elimination"], decided(predictions, ASSEMBLED))
    assert (variants["segmentation"]["predicted_px"] >= variants["staged"]["predicted_px"]).all()
    assert (variants["staged"]["predicted_px"] >= variants["staged + elimination"]["predicted_px"]).all()


def test_other_predictions_are_compared_image_by_image(tmp_path):
    boxes = np.zeros((3, 4, 4), bool)
    boxes[0, :2], boxes[1, :1], boxes[2, :, 0] = True, True, True
    masks = [*boxes, np.zeros((4, 4), bool)]
    maps = [255 * mask.astype(np.uint8) for mask in masks]
    worse = [maps[0], maps[1] // 9, maps[2], np.full((4, 4), 255, np.uint8)]  # one missed, one false alarm
    rule = DecisionRule(0.5, 0.5, 0)
    reference = predictions_of(tmp_path / "a", worse, masks, [0.9, 0.9, 0.1, 0.9])
    better = replace(predictions_of(tmp_path / "b", maps, masks, [0.9] * 4), seconds=1.25)
    table = table_columns(compare_predictions(reference, {"b": better, "same": reference}, rule))
    assert table.index.tolist() == ["reference", "b", "same"]
    # By image 1, 0, 0 and 0 against 1, 1, 1 and 1.
    assert table["mean_dice"].tolist() == pytest.approx([0.25, 1, 0.25])
    assert table["difference"].tolist() == pytest.approx([0, 0.75, 0])
    assert table["seconds"].tolist() == [0.5, 1.25, 0.5]
    assert table["cost"].tolist() == [1, 2.5, 1]
    gains = np.array([0, 1, 1, 1])
    bounds = bootstrap_interval(lambda rows: gains[rows].mean(), np.arange(4))
    assert tuple(table.loc["b", ["difference_low", "difference_high"]]) == pytest.approx(bounds)
    assert (table.loc[["reference", "same"], ["difference_low", "difference_high"]] == 0).all(axis=None)


def test_predictions_of_more_images_are_compared_on_the_references(predictions):
    some = predictions.select(np.arange(COUNT) % 3 > 0)
    table = table_columns(compare_predictions(some, {"all": predictions}, TUNED))
    assert table.loc["all", "difference"] == 0
    assert table.loc["all", "mean_dice"] == pytest.approx(decided(some, TUNED)["dice"].mean())


def test_predictions_of_other_images_are_refused(predictions, tmp_path):
    for chosen in (np.arange(COUNT) > 0, np.zeros(COUNT, bool)):
        with pytest.raises(ValueError, match=r"hold predictions of different images: cache both from one manifest"):
            compare_predictions(predictions, {"fewer": predictions.select(chosen)}, TUNED)
    other = predictions_for(tmp_path / "b", 1)
    other.manifest["image_id"] = [f"x{number}" for number in range(COUNT)]
    with pytest.raises(ValueError, match="hold predictions of different images"):
        compare_predictions(predictions, {"other": other}, TUNED)


def without_masks(predictions, rows):
    """The same predictions, some of whose images have a label alone."""
    chosen = np.isin(np.arange(len(predictions.manifest)), rows)
    rle, area = (predictions.manifest[name].mask(chosen, value) for name, value in (("rle", ""), ("area_px", 0)))
    return replace(predictions, manifest=predictions.manifest.assign(rle=rle, area_px=area))


@pytest.fixture(scope="module")
def half(predictions):
    """Predictions of ten images with masks and ten with a label alone, one of them the damaged one."""
    return without_masks(predictions, [1, 2, 5, 6, 7, 8, 12, 13, 17, 19])


@pytest.fixture(scope="module")
def half_scored(half):
    return evaluate(half, ASSEMBLED, TUNED)


@pytest.fixture
def no_intervals(monkeypatch):
    """Leave out the intervals of the classifier's scores, which take most of the time."""
    monkeypatch.setattr(tables, "bootstrap_interval", lambda score, groups: np.full((2, 11), math.nan))


def test_labels_alone_score_the_classifier_and_nothing_else(half, half_scored, predictions, evaluation, no_intervals):
    scores, known = half_scored, half.manifest["rle"] != ""
    of_masks = evaluate(predictions.select(known), ASSEMBLED, TUNED)
    found, expected = scores.tables(), of_masks.tables()
    for name in found.keys() - {"classifier", "classifier_thresholds"}:
        pd.testing.assert_frame_equal(found[name], expected[name])
    # The classifier is scored as if all masks were known.
    pd.testing.assert_frame_equal(found["classifier"], evaluation.tables()["classifier"])
    assert found["classifier"].loc["auc", "value"] != expected["classifier"].loc["auc", "value"]
    sweep, on_all = (each.classifier_thresholds.set_index("threshold") for each in (scores, evaluation))
    pd.testing.assert_series_equal(sweep["mcc"], on_all["mcc"])
    for threshold, mean_dice in sweep["mean_dice"].items():
        rule = replace(TUNED, classifier_threshold=threshold)
        assert mean_dice == pytest.approx(decided(predictions.select(known), rule)["dice"].mean())
    assert sum(map(bool, scores.predictions.errors)) == 1


def test_the_numbers_of_images_are_told(half, half_scored, evaluation, predictions, no_intervals, caplog):
    scores = half_scored
    with caplog.at_level("INFO", "pneumoseg"):
        evaluate(half, ASSEMBLED)
    assert caplog.messages == ["10 of 20 images left out of the segmentation scores: they have a label and no mask"]
    positive = half.manifest["has_pneumothorax"]
    of_masks = positive[half.manifest["rle"] != ""].sum()
    assert 0 < of_masks < positive.sum() == 10
    assert scores.images == (
        f"10 images with masks, {of_masks} positive; the classifier's scores are of all 20 images, 10 positive"
    )
    assert list(scores.summaries())[2] == "Classifier at threshold 0.300, all 20 images"
    assert (scores.labels_alone, evaluation.labels_alone) == (10, 0)
    assert evaluation.images == "20 images, 10 positive"
    assert evaluation.masked is evaluation.predictions is predictions


def test_without_any_mask_the_classifier_alone_is_scored(predictions, evaluation, no_intervals):
    labels = without_masks(predictions, range(COUNT))
    scores = table_columns(evaluate_classifier(labels, TUNED))["value"]
    pd.testing.assert_series_equal(scores, evaluation.tables()["classifier"]["value"])
    with pytest.raises(ValueError, match="no masks for the segmentation scores: all 20 images have a label alone"):
        evaluate(labels, ASSEMBLED, TUNED)
    with pytest.raises(ValueError, match="no masks for the comparison of predictions"):
        compare_predictions(labels, {"same": labels}, TUNED)


def test_predictions_are_compared_on_images_with_masks(half, predictions):
    table = table_columns(compare_predictions(half, {"all": predictions}, TUNED))
    known = predictions.select(half.manifest["rle"] != "")
    assert table["mean_dice"].tolist() == pytest.approx([decided(known, TUNED)["dice"].mean()] * 2)
