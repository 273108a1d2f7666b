"""The report in a real browser: it renders, sorts, filters, alone and without a network."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pneumoseg import rle
from pneumoseg.data.index import index_dataset
from pneumoseg.decision import DecisionRule
from pneumoseg.engines import Engine
from pneumoseg.evaluation import compare_predictions, evaluate, tables
from pneumoseg.evaluation.cases import score_cases
from pneumoseg.evaluation.pixel_counts import count_pixels
from pneumoseg.geometry import letterbox_image, square_shape
from pneumoseg.inference import PipelineFolder, Tuning
from pneumoseg.report.gallery import cards, worst_first
from pneumoseg.report.page import write_report
from pneumoseg.report.thumbnails import outline_path
from tests.conftest import predictions_of, write_dicom

SIZE = 64


def square(top, left, side):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((SIZE, SIZE), bool)
RAW_MASKS = [square(12, 10, 20), square(5, 30, 10), EMPTY, square(8, 8, 3), square(40, 40, 9), EMPTY]


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """Six images, a case of each kind: found, missed twice, removed, false alarm, correctly empty."""
    folder = tmp_path_factory.mktemp("report")
    truth = [square(10, 10, 20), square(5, 30, 10), square(30, 5, 12), square(8, 8, 8), EMPTY, EMPTY]
    probability = [0.9, 0.2, 0.8, 0.7, 0.6, 0.1]
    image = np.tile(np.arange(SIZE, dtype=np.uint8) * 3, (SIZE, 1))
    paths = [str(write_dicom(folder / f"i{number}.dcm", image)) for number in range(6)]
    maps = [np.where(mask, 230, 10).astype(np.uint8) for mask in RAW_MASKS]
    made = predictions_of(folder, maps, truth, probability, path=paths)
    return replace(made, engine=Engine("openvino", "int8"))


@pytest.fixture(scope="module")
def page(predictions, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    tuning = Tuning(
        DecisionRule(), ("other",), (), {"mean_dice": 0.7, "mean_dice_before": 0.6, "baseline": 0.5, "positives": 1}
    )
    evaluation = evaluate(predictions, DecisionRule(), DecisionRule(mask_threshold=0.45))
    comparison = compare_predictions(predictions, {"flip": predictions}, evaluation.rule)
    pipeline = PipelineFolder(DecisionRule(), tuning, False, {}, {})
    write_report(evaluation, path, pipeline=pipeline, comparison=comparison)
    return path


class Links(HTMLParser):
    """What the page refers to."""

    def __init__(self):
        super().__init__()
        self.found, self.ids = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data"):
                self.found.append(value)
            if name == "id":
                self.ids.append(value)


def test_page_is_self_contained(page):
    links = Links()
    links.feed(page.read_text())
    assert links.found
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert {link[1:] for link in links.found if link.startswith("#")} <= set(links.ids)
    assert len(links.ids) == len(set(links.ids))


def test_scores_are_those_of_the_evaluation(page, predictions):
    text = page.read_text()
    evaluation = evaluate(predictions, DecisionRule(), DecisionRule(mask_threshold=0.45))
    # found: 2 * 360 / 800; missed twice and removed: 0; false alarm: 0; correctly empty: 1.
    assert evaluation.cases["dice"].tolist() == pytest.approx([0.9, 0, 0, 0, 0, 1])
    assert f"<dd>{(0.9 + 1) / 6:.3f} (" in text
    assert f"<dd>{2 / 6:.3f}</dd>" in text


def test_worst_come_first():
    cases = pd.DataFrame({"dice": [1.0, 0.0, 0.5, 0.0], "truth_px": [0, 10, 9, 30], "disagreement": 0.0})
    assert worst_first(cases, 3).index.tolist() == [3, 1, 2]


def test_page_tells_the_engine_of_the_networks(page):
    assert "The networks ran on OpenVINO, int8." in page.read_text(encoding="utf-8")


def test_cards_show_the_masks_of_the_decision(predictions):
    counts = count_pixels(predictions, [0.5], [3500])
    shown = list(cards(score_cases(predictions, counts, DecisionRule()), predictions, DecisionRule()))
    stages = ["mask", "classifier", "segmenter", "elimination", "mask", "classifier"]
    assert [card.case["stage"] for card in shown] == stages
    decided = [RAW_MASKS[0], EMPTY, EMPTY, EMPTY, RAW_MASKS[4], EMPTY]
    assert [card.raw_mask for card in shown] == [outline_path(mask, 208 / SIZE) for mask in RAW_MASKS]
    assert [card.predicted for card in shown] == [outline_path(mask, 208 / SIZE) for mask in decided]


def test_outline_of_a_square():
    # Corners cut by half a pixel are within the tolerance, so a square of 10 pixels has points on its edges only.
    path = outline_path(square(20, 30, 10), scale=0.5)
    points = np.array([[float(n) for n in point.split()] for point in re.findall(r"[\d.]+ [\d.]+", path)])
    assert path.startswith("M")
    assert path.endswith("Z")
    assert points.min(axis=0).tolist() == [15, 10]  # x from 30, y from 20, halved
    assert points.max(axis=0).tolist() == [20, 15]
    assert outline_path(np.zeros((4, 4), bool), 1.0) == ""


@pytest.fixture
def no_intervals(monkeypatch):
    """Leave out the intervals of the classifier's scores, which take most of the time."""
    monkeypatch.setattr(tables, "bootstrap_interval", lambda score, groups: np.full((2, 11), math.nan))


def test_page_tells_which_scores_are_of_labels_alone(predictions, tmp_path, no_intervals):
    rle = predictions.manifest["rle"].where(np.arange(6) != 1, "")
    labels = replace(predictions, manifest=predictions.manifest.assign(rle=rle))
    write_report(evaluate(labels, DecisionRule()), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "6 images, 4 with a pneumothorax" in text
    told = "1 of the images have a label and no mask: only the scores of the classifier are of all images, all others "
    assert f"{told}are of the 5 images with masks." in text
    assert f"<dd>{(0.9 + 1) / 5:.3f} (" in text
    names = [name for name in labels.manifest["image_id"] if f"<h3>{name}</h3>" in text]
    assert names == ["i0", "i2", "i3", "i4", "i5"]
    # The outline of the true mask is that of its own image, not of one before it.
    counts = [text.count(f'aria-label="True mask, {pixels} pixels"') for pixels in (400, 100, 144, 64, 0)]
    assert counts == [1, 0, 1, 1, 2]


@pytest.mark.parametrize(("aspect", "size"), [(2.0, (208, 52)), (0.5, (208, 208)), (1.0, (208, 104))])
def test_cards_show_pixels_as_high_as_they_are(aspect, size, tmp_path):
    image, truth = np.full((64, 32), 9, np.uint8), np.zeros((64, 32), bool)
    truth[16:32, 8:16] = True
    path = write_dicom(tmp_path / "i0.dcm", image)
    sides = tf.constant(square_shape(truth.shape, aspect))
    prob_map = letterbox_image(tf.constant(255 * truth[..., None].astype(np.uint8)), 64, sides).numpy()[..., 0]
    kept = predictions_of(tmp_path / "kept", [prob_map], [truth], [0.9], path=[str(path)], pixel_aspect=aspect)
    rule = DecisionRule(minimum_area=0)
    cases = score_cases(kept, count_pixels(kept, [0.5], [0]), rule)
    (card,) = cards(cases, kept, rule)
    height, width = size
    assert (card.height, card.width) == size
    for outline in (card.truth, card.predicted):
        points = np.array([[float(n) for n in point.split()] for point in re.findall(r"[\d.]+ [\d.]+", outline)])
        # From a quarter to a half of the rows and of the columns, whatever the aspect.
        expected = [width / 4, height / 4, width / 2, height / 2]
        assert [*points.min(axis=0), *points.max(axis=0)] == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("kept", [[0], [4], [5], [0, 1, 2, 3]])
def test_a_class_or_all_scores_missing(predictions, tmp_path, kept):
    chosen = predictions.select(np.isin(np.arange(6), kept))
    write_report(evaluate(chosen, DecisionRule()), tmp_path / "report.html")
    assert f"All {len(kept)} images." in (tmp_path / "report.html").read_text()


def test_unreadable_image_is_shown_without_a_picture(predictions, tmp_path):
    gone = replace(predictions, manifest=predictions.manifest.assign(path=str(tmp_path / "gone.dcm")))
    write_report(evaluate(gone, DecisionRule()), tmp_path / "report.html")
    assert "image not readable" in (tmp_path / "report.html").read_text()


@pytest.fixture
def opened(open_offline, page):
    return open_offline(page)


def shown(tab):
    """Ids of the cards that are seen, in order."""
    return tab.eval_on_selector_all(
        "#gallery > li",
        "cards => cards.filter(c => c.offsetParent !== null).map(c => c.querySelector('h3').textContent)",
    )


def cases(*numbers):
    return [f"i{number}" for number in numbers]


def test_cards_come_worst_first_and_can_be_sorted(opened):
    # Dice 0 by size of the true mask: 144, 100, 64, 0 px.
    assert shown(opened) == cases(2, 1, 3, 4, 0, 5)
    opened.select_option("#sort", "dice:-1")
    assert shown(opened) == cases(5, 0, 2, 1, 3, 4)
    opened.select_option("#sort", "probability:-1")
    assert shown(opened) == cases(0, 2, 3, 4, 1, 5)
    # |probability - greatest of a pixel|, which is 230/255 or 10/255: .002, .70, .76, .20, .30, .06
    opened.select_option("#sort", "disagreement:-1")
    assert shown(opened) == cases(2, 1, 4, 3, 5, 0)


def test_cards_can_be_filtered(opened):
    assert opened.inner_text("#status") == "6 of 6 images shown"
    opened.uncheck("input[value='missed by the segmenter']")
    opened.uncheck("input[value='correctly empty']")
    assert shown(opened) == cases(1, 3, 4, 0)
    assert opened.inner_text("#status") == "4 of 6 images shown"
    opened.check("input[value='correctly empty']")
    assert shown(opened) == cases(1, 3, 4, 0, 5)


def test_keyboard_reaches_sort_and_filter(opened):
    opened.focus("#sort")
    opened.keyboard.press("ArrowDown")
    assert shown(opened) == cases(5, 0, 2, 1, 3, 4)
    opened.keyboard.press("Tab")
    opened.keyboard.press("Space")
    assert opened.inner_text("#status") == "5 of 6 images shown"


def test_screen_reader_gets_names(opened):
    for selector in ("svg[role=img]", "[role=img]", "[role=region]"):
        assert all(opened.eval_on_selector_all(selector, "all => all.map(e => e.getAttribute('aria-label'))"))
    assert opened.locator("html").get_attribute("lang") == "en"
    assert opened.get_by_role("combobox", name="Sort by").count() == 1
    assert opened.get_by_role("checkbox", name="false alarm (1)").count() == 1
    assert opened.get_by_role("table").count() >= 7
    assert opened.locator("th:not([scope])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_and_can_be_read(browser, page, scheme, width):
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    colours = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    text, back = (np.mean([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in colours)
    assert abs(text - back) > 180
    assert (text > back) == (scheme == "dark")
    label = tab.eval_on_selector(".chart svg text", "e => getComputedStyle(e).fill")
    assert label == colours[0]
    tab.close()


def test_a_page_of_500_real_cases_stays_under_10_megabytes(mini, tmp_path):
    manifest = index_dataset(mini / "dicom-images-train", mini / "train-rle.csv")
    chosen = manifest[manifest["has_pneumothorax"]].head(20).reset_index(drop=True)
    truth = [rle.decode(code, (1024, 1024)) for code in chosen["rle"]]
    maps = [255 * mask[::2, ::2].astype(np.uint8) for mask in truth]
    kept = predictions_of(tmp_path, maps, truth, [0.9] * 20, path=chosen["path"].tolist())
    sizes = {}
    for count in (0, 20):
        write_report(evaluate(kept, DecisionRule()), tmp_path / f"{count}.html", max_images=count)
        sizes[count] = (tmp_path / f"{count}.html").stat().st_size
    assert sizes[0] + 500 * (sizes[20] - sizes[0]) / 20 < 10e6


def test_names_from_files_cannot_break_the_page(predictions, tmp_path):
    odd = '<script>alert("&")</script> \' odd'
    manifest = predictions.manifest.assign(image_id=[f"{odd}{n}" for n in range(6)], view=odd, sex=odd)
    write_report(evaluate(replace(predictions, manifest=manifest), DecisionRule()), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_speckles_do_not_fill_the_page():
    mask = np.random.default_rng(0).random((512, 512)) < 0.3
    mask[100:200, 100:200] = True
    path = outline_path(mask, scale=208 / 512)
    assert path.count("M") == 40
    assert len(path) < 20_000
