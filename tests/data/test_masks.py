"""Images with a label alone: found, left out with a message, and refused."""

import math

import pandas as pd
import pytest

from pneumoseg.data.index import summarize
from pneumoseg.data.masks import has_mask, leave_out_unknown_masks, require_masks
from pneumoseg.data.pixel_aspect import pixel_aspects


@pytest.fixture
def labels():
    """A manifest of five images, two of them with a label alone."""
    return pd.DataFrame({"image_id": list("abcde"), "rle": ["-1", "", "0 3", "", "-1"]}, index=[7, 5, 3, 2, 1])


def test_rows_with_masks_are_kept_and_the_others_counted(labels, caplog):
    with caplog.at_level("INFO", "pneumoseg"):
        kept = leave_out_unknown_masks(labels, "this test")
    assert kept["image_id"].tolist() == ["a", "c", "e"]
    assert kept.index.tolist() == [7, 3, 1]
    assert caplog.messages == ["2 of 5 images left out of this test: they have a label and no mask"]
    caplog.clear()
    with caplog.at_level("INFO", "pneumoseg"):
        pd.testing.assert_frame_equal(leave_out_unknown_masks(kept, "this test"), kept)
    assert caplog.messages == []


def test_no_mask_at_all_is_refused_and_no_image_is_not(labels):
    with pytest.raises(ValueError, match="there are no masks for this test: all 2 images have a label alone, index"):
        leave_out_unknown_masks(labels[~has_mask(labels)], "this test")
    assert leave_out_unknown_masks(labels.head(0), "this test").empty


def test_images_without_a_mask_are_refused_by_name(labels):
    require_masks(labels[has_mask(labels)])
    with pytest.raises(ValueError, match="2 of 5 images have a label and no mask, the first: b: "):
        require_masks(labels)


def test_summary_counts_labels_alone(labels):
    manifest = labels.assign(has_pneumothorax=True, patient_id=["p", "p", "q", "q", "q"])
    assert summarize(manifest) == "5 images, 5 with a pneumothorax (100%), 2 patients, 2 with a label and no mask"
    assert summarize(manifest.loc[[7, 5, 3]].assign(rle="-1")) == "3 images, 3 with a pneumothorax (100%), 2 patients"


def test_pixels_are_square_unless_the_manifest_tells_otherwise(labels):
    assert pixel_aspects(labels).tolist() == [1.0] * 5
    assert pixel_aspects(labels.assign(pixel_aspect=[1, 2, 0.5, 1, 1])).tolist() == [1, 2, 0.5, 1, 1]


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_pixel_aspect_is_named(wrong, labels):
    with pytest.raises(ValueError, match=rf"image_id 'c' has a pixel_aspect of {wrong:g}: expected the height"):
        pixel_aspects(labels.assign(pixel_aspect=[1, 2, wrong, 1, 1]))
