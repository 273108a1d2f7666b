"""Tests of telling relative from absolute runs, and regions from noise."""

import numpy as np
import pandas as pd
import pytest

from pneumoseg.annotations import read_annotations
from pneumoseg.annotations.readings import RELATIVE, absolute, doubts_about_runs, look_absolute, region_likeness
from pneumoseg.data.index import index_dataset
from tests.annotations.writers import absolute_text, relative_text, write_images

SHAPE = (60, 40)
NEAR_THE_START = np.zeros(SHAPE, bool)
NEAR_THE_START[2:22, 1:4] = True
"""A region so near to the first pixel that its absolute runs fit the image as relative ones too."""


def regions(count=8, seed=0):
    """Return masks of an ellipse each, away from the borders."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    masks = {}
    for number in range(count):
        row, column = rng.uniform(20, 40), rng.uniform(12, 28)
        masks[f"i{number}"] = ((rows - row) / 12) ** 2 + ((columns - column) / 7) ** 2 < 1
    return masks


def write(path, masks, text_of):
    rows = [(name, text_of(mask)) for name, mask in masks.items()]
    pd.DataFrame(rows, columns=["ImageId", "EncodedPixels"]).to_csv(path, index=False)
    return path


def test_likeness_by_hand():
    """Runs of 2, 3 and 1 pixels in neighbouring columns; the longest has no part in the greatest possible number."""
    mask = np.zeros((5, 4), bool)
    mask[0:2, 0] = mask[1:4, 1] = mask[3, 2] = True  # one pair of pixels side by side in each pair of columns
    assert region_likeness(RELATIVE, relative_text(mask), mask.shape) == pytest.approx(2 / 3)
    assert region_likeness(absolute("columns", 1), absolute_text(mask), mask.shape) == pytest.approx(2 / 3)


def test_likeness_is_not_known_of_one_run_or_a_wrong_text():
    assert np.isnan(region_likeness(RELATIVE, "3 5", (5, 4)))
    assert np.isnan(region_likeness(RELATIVE, "-1", (5, 4)))
    assert np.isnan(region_likeness(RELATIVE, "3 5 70 2", (5, 4)))


@pytest.mark.parametrize("seed", range(3))
def test_likeness_against_pixels(seed):
    mask = np.random.default_rng(seed).random((7, 9)) > 0.5
    pixels = sum(mask[row, column] and mask[row, column + 1] for row in range(7) for column in range(8))
    longest = max(length for length in map(int, relative_text(mask).split()[1::2]))
    expected = min(pixels / (mask.sum() - longest), 1)
    # A run goes on from the last pixel of a column to the first of the next; the pixels are the same.
    assert region_likeness(RELATIVE, relative_text(mask), mask.shape) == pytest.approx(expected)


def test_texts_tell_absolute_from_relative_runs():
    masks = regions()
    assert look_absolute(map(absolute_text, masks.values()))
    assert not look_absolute(map(relative_text, masks.values()))
    assert not look_absolute(["1 2 5 1"])  # too few to tell
    assert not look_absolute(["-1", "", "nan", "a b", "1 2 3"])


@pytest.mark.parametrize("options", [{}, {"order": "rows"}, {"first_pixel": 0}])
def test_absolute_runs_are_recognized(tmp_path, options, caplog):
    path = write(tmp_path / "runs.csv", regions(), absolute_text)
    assert read_annotations(path, **options).format == "absolute-csv"
    assert ("look at masks with" in caplog.text) == (not options)


def test_relative_runs_are_recognized(tmp_path):
    assert read_annotations(write(tmp_path / "runs.csv", regions(), relative_text)).format == "csv"


def test_absolute_runs_that_fit_as_relative_ones_are_warned_about(tmp_path):
    masks = {f"i{number}": NEAR_THE_START for number in range(3)}
    path = write(tmp_path / "runs.csv", masks, absolute_text)
    write_images(tmp_path / "images", masks)
    with pytest.warns(
        UserWarning, match=r"3 of 3 masks look like noise .* absolute runs by columns: index with --anno"
    ):
        manifest = index_dataset(tmp_path / "images", read_annotations(path, "csv"))
    assert len(manifest) == 3


def test_relative_runs_that_fit_as_absolute_ones_are_warned_about(tmp_path):
    """Two runs at most: with more, relative runs overlap if they are read as absolute ones."""
    masks = {"thin": np.zeros(SHAPE, bool)}
    masks["thin"][5:45, 0] = masks["thin"][40:50, 1] = True
    masks["thin"][5:50, 0] = True
    path = write(tmp_path / "runs.csv", masks, relative_text)
    write_images(tmp_path / "images", masks)
    with pytest.warns(UserWarning, match="1 of 1 masks look like noise .* as relative runs: .*-format csv"):
        index_dataset(tmp_path / "images", read_annotations(path, "absolute-csv"))


def test_the_wrong_order_shows_on_images_that_are_not_square(tmp_path):
    masks = regions()
    path = write(tmp_path / "runs.csv", masks, absolute_text)
    write_images(tmp_path / "images", masks)
    with pytest.warns(UserWarning, match="8 of 8 masks .* as absolute runs by rows, .* as absolute runs by columns"):
        index_dataset(tmp_path / "images", read_annotations(path, order="rows"))


def test_nothing_usable_names_the_other_kind(tmp_path):
    """Empty masks fit every reading, so images without a pneumothorax alone would remain."""
    masks = regions() | {"empty": np.zeros(SHAPE, bool)}
    write_images(tmp_path / "images", masks)
    path = write(tmp_path / "runs.csv", masks, absolute_text)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="-format absolute-csv"):
        index_dataset(tmp_path / "images", read_annotations(path, "csv"))
    path = write(tmp_path / "runs.csv", masks, relative_text)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="-format csv"):
        index_dataset(tmp_path / "images", read_annotations(path, "absolute-csv"))


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_right_reading_is_not_doubted(tmp_path):
    masks = regions()
    write_images(tmp_path / "images", masks)
    index_dataset(tmp_path / "images", write(tmp_path / "relative.csv", masks, relative_text))
    index_dataset(tmp_path / "images", write(tmp_path / "absolute.csv", masks, absolute_text))


@pytest.mark.filterwarnings("error:.*look like noise:UserWarning")
def test_generated_masks_are_not_doubted(generated):
    index_dataset(generated / "dicom-images-train", generated / "train-rle.csv", id_map=generated / "nih_id.csv")


@pytest.mark.parametrize(("start", "doubted"), [(53, True), (54, False), (27, False)])
def test_another_reading_must_be_clearly_better(start, doubted):
    """Columns of 40 pixels with two runs of 20; absolute, the second overlaps the first by 7, 6 and 7 pixels of 20.

    Relative, it overlaps by none if it starts at 53 or 54, and by 13 if it starts at 27.
    """
    texts = [f"0 20 {start} 20"]
    doubts = doubts_about_runs(RELATIVE, [absolute("columns", 0)], [(texts, (40, 10))])
    assert len(doubts) == doubted


@pytest.mark.parametrize(("doubtful", "good", "doubted"), [(1, 1, False), (2, 1, True), (2, 2, False), (3, 2, True)])
def test_most_masks_must_look_wrong(doubtful, good, doubted):
    """Masks of one run tell nothing and do not count."""
    rows = [["0 20 40 20"]] * doubtful + [["0 20 20 20"]] * good + [["0 20"], ["-1"]] * 5
    doubts = doubts_about_runs(RELATIVE, [absolute("columns", 0)], [(texts, (40, 10)) for texts in rows])
    assert [text.split(" look like noise")[0] for text in doubts] == [
        f"{doubtful} of {doubtful + good} masks"
    ] * doubted


def test_masks_that_look_wrong_in_both_readings_do_not_count():
    rows = [["0 20 40 20"]] * 2 + [["0 20 54 20"], ["0 20 20 20"]]  # clearly better twice, 0 against 0.3, and right
    assert doubts_about_runs(RELATIVE, [absolute("columns", 0)], [(texts, (40, 10)) for texts in rows]) == []
