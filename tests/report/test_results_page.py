"""The page of a run's results in a real browser: it sorts, filters and searches, without a network."""

import re

import numpy as np
import pytest

from pneumoseg import rle
from pneumoseg.decision import DecisionRule
from pneumoseg.inference import Pipeline
from pneumoseg.inference.row import ResultRow
from pneumoseg.report.results_page import most_urgent_first, pipeline_facts, result_cards, write_results_page
from pneumoseg.report.thumbnails import make_ahead
from tests.conftest import write_dicom
from tests.networks import brightest, identity
from tests.report.test_page import Links

SIZE = 64
FACTS = {"mask threshold": "0.5", "folder": "runs/<pipeline>"}


def row(image_id, folder, *, side=0, probability=0.5, stage="classifier", area_mm2=None, spacing_source=None):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10 : 10 + side, 20 : 20 + side] = True
    path = folder / f"{image_id}.dcm"
    write_dicom(path, np.full((SIZE, SIZE), 99, np.uint8))
    area = side * side
    return ResultRow(
        image_id, str(path), stage, probability, side > 0, area, area_mm2, spacing_source, rle.encode(mask),
        shape=(SIZE, SIZE),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [
        row("a1", folder, probability=0.2),
        row("a10", folder, side=20, probability=0.9, stage="mask", area_mm2=6400.4, spacing_source="PixelSpacing"),
        row("a9", folder, side=30, probability=0.8, stage="mask", area_mm2=9.0, spacing_source="ImagerPixelSpacing"),
        ResultRow("b", str(folder / "b.dcm"), "error", error="is <cut> short. Fetch it again"),
        row("B7", folder, probability=0.6, stage="segmenter"),
    ]


@pytest.fixture(scope="module")
def page(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_results_page(rows, path, facts=FACTS, skipped=2)
    return path


@pytest.fixture
def opened(open_offline, page):
    return open_offline(page)


def shown(tab):
    return tab.eval_on_selector_all(
        "#gallery > li",
        "cards => cards.filter(c => c.offsetParent !== null).map(c => c.querySelector('h3').textContent)",
    )


def test_page_is_self_contained(page):
    links = Links()
    links.feed(page.read_text())
    assert len(links.found) == 2 * 4  # the picture of each readable image, and its repetition under the outline
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert {link[1:] for link in links.found if link.startswith("#")} <= set(links.ids)
    assert len(links.ids) == len(set(links.ids))


def test_page_tells_the_counts_and_the_pipeline(opened):
    text = opened.inner_text("header")
    assert "Pneumothorax on 5 images" in text
    assert "For research; not for diagnosis." in text
    assert "2 files in the folders were skipped" in text
    found = opened.eval_on_selector_all("dl.headline div", "all => all.map(e => e.textContent)")
    assert found == ["Pneumothorax2", "No pneumothorax2", "Unreadable1"]
    opened.click("summary")
    assert opened.inner_text("details table").endswith("folder\truns/<pipeline>")


def test_cards_tell_the_result(opened, rows):
    cards = opened.eval_on_selector_all("#gallery > li", "all => all.map(e => e.innerText)")
    assert "pneumothorax, probability 0.900, 400 px, 6400 mm²\n" in cards[1]
    assert "stage mask: a mask is left" in cards[1]
    assert rows[1].path in cards[1]
    assert "900 px, 9 mm² at the detector" in cards[2]
    assert "no pneumothorax, probability 0.600\n" in cards[3]
    assert "unreadable: is <cut> short. Fetch it again" in cards[0]
    outlines = opened.locator("#gallery path.predicted")
    assert outlines.count() == 2
    box = outlines.first.evaluate("e => { const b = e.getBBox(); return [b.x, b.y, b.width, b.height] }")
    assert box == pytest.approx([20 * 208 / 64, 10 * 208 / 64, 20 * 208 / 64, 20 * 208 / 64], abs=0.1)


def test_a_long_narrow_image_is_not_higher_than_the_screen(open_offline, tmp_path):
    write_dicom(tmp_path / "a.dcm", np.zeros((1024, 1), np.uint8))
    long = ResultRow("a", str(tmp_path / "a.dcm"), "classifier", 0.5, False, 0, rle=rle.EMPTY, shape=(1024, 1))
    write_results_page([long, row("b", tmp_path)], tmp_path / "index.html", facts=FACTS)
    tab = open_offline(tmp_path / "index.html")
    boxes = tab.eval_on_selector_all("figure svg", "all => all.map(e => e.getBoundingClientRect())")
    assert [box["height"] <= 480 for box in boxes] == [True] * 4
    # A square fills its panel, and all of the long image is seen.
    assert boxes[2]["height"] == pytest.approx(boxes[2]["width"], abs=1)
    image = tab.locator("#image-1").bounding_box()
    assert (boxes[0]["y"], boxes[0]["height"]) == pytest.approx((image["y"], image["height"]), abs=1)


def test_cards_can_be_sorted(opened):
    assert shown(opened) == ["b", "a10", "a9", "B7", "a1"]
    for choice, expected in [
        ("probability:-1", ["a10", "a9", "B7", "a1", "b"]),
        ("area:-1", ["a9", "a10", "B7", "a1", "b"]),
        ("id:text", ["a1", "a9", "a10", "b", "B7"]),
        ("path:text", ["a1", "a9", "a10", "b", "B7"]),
        ("place:1", ["b", "a10", "a9", "B7", "a1"]),
    ]:
        opened.select_option("#sort", choice)
        assert shown(opened) == expected
    opened.select_option("#sort", "probability:1")
    assert shown(opened)[-4:] == ["a1", "B7", "a9", "a10"]


def test_cards_can_be_filtered_and_searched(opened):
    opened.uncheck("input[value='pneumothorax']")
    assert shown(opened) == ["b", "B7", "a1"]
    opened.uncheck("input[value='classifier']")
    assert shown(opened) == ["b", "B7"]
    opened.uncheck("input[value='unreadable']")
    assert shown(opened) == ["B7"]
    assert opened.inner_text("#status") == "1 of 5 images shown"
    for name in ("pneumothorax", "classifier", "unreadable"):
        opened.check(f"input[value='{name}']")
    opened.fill("#search", "A1")
    assert shown(opened) == ["a10", "a1"]
    opened.fill("#search", "nothing")
    assert shown(opened) == []
    assert opened.inner_text("#status") == "0 of 5 images shown"


def test_screen_reader_gets_names(opened):
    for selector in ("svg[role=img]", "[role=region]"):
        assert all(opened.eval_on_selector_all(selector, "all => all.map(e => e.getAttribute('aria-label'))"))
    assert opened.get_by_role("combobox", name="Sort by").count() == 1
    assert opened.get_by_role("searchbox", name="Id contains").count() == 1
    assert opened.get_by_role("checkbox", name="unreadable (1)").count() == 1
    assert opened.locator("th:not([scope])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_and_can_be_read(browser, page, scheme, width):
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.goto(page.as_uri())
    tab.click("summary")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    colours = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    text, back = (np.mean([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in colours)
    assert abs(text - back) > 180
    assert (text > back) == (scheme == "dark")
    tab.close()


def test_most_urgent_images_are_shown_and_the_rest_is_counted(rows, tmp_path):
    assert [row.image_id for row in most_urgent_first(rows, 3)] == ["b", "a10", "a9"]
    for count, said in ((3, "3 of 5 images: unreadable ones first"), (0, "0 of 5 images"), (5, "All images, as in")):
        write_results_page(rows, tmp_path / "index.html", facts=FACTS, max_images=count)
        text = (tmp_path / "index.html").read_text()
        assert text.count("<li data-place") == count
        assert said in text
        assert (f"The other {5 - count} are not shown" in text) == (count < 5)


def test_without_probabilities_the_largest_areas_come_first(tmp_path):
    several = [row("a", tmp_path, side=2, probability=None), row("b", tmp_path, side=3, probability=None)]
    assert [card.row.image_id for card in result_cards(most_urgent_first(several, 9))] == ["b", "a"]


def test_names_from_files_cannot_break_the_page(tmp_path):
    odd = "<script>alert('&')</script> \" odd"
    bad = ResultRow(odd, f"/{odd}.dcm", "error", error=odd)
    write_results_page([bad], tmp_path / "index.html", facts={odd: odd})
    text = (tmp_path / "index.html").read_text()
    assert "<script>alert" not in text
    assert 'data-id="&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt; &#34; odd"' in text


def test_an_image_that_is_gone_by_now_keeps_its_result(tmp_path):
    gone = row("a", tmp_path, side=9, stage="mask")
    (tmp_path / "a.dcm").unlink()
    write_results_page([gone], tmp_path / "index.html", facts=FACTS)
    text = (tmp_path / "index.html").read_text()
    assert "image not readable any more" in text
    assert "81 px" in text


def test_facts_tell_networks_of_a_bundle_apart():
    networks = {"classifier_1": "0123456789abcdef", "segmenter_1": "fedc"}
    pipeline = Pipeline([brightest(SIZE)], [identity(SIZE)], DecisionRule(0.25), networks=networks, origin={"a": "b"})
    facts = pipeline_facts(pipeline)
    assert facts["classifier 1"].startswith("sees 64 × 64 pixels, 0 weights, functional")
    assert facts["classifier 1"].endswith("SHA-256 of its spec 0123456789ab…")
    assert (facts["classifier threshold"], facts["mirrored images averaged"], facts["a"]) == ("0.25", "no", "b")
    assert facts["engine"] == "Keras, float32"


def test_things_are_made_in_order_a_few_ahead():
    taken = []
    made = make_ahead(lambda number: number * 2, (taken.append(number) or number for number in range(1000)))
    assert [next(made) for _ in range(3)] == [0, 2, 4]
    assert len(taken) < 500
    assert list(made) == [2 * number for number in range(3, 1000)]
    with pytest.raises(ZeroDivisionError):
        list(make_ahead(lambda number: 1 / number, [1, 0]))
