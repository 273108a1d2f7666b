import io
import math

import numpy as np
import pydicom
import pytest

from pneumoseg.dicom import read_image
from pneumoseg.dicom_objects import make_objects
from pneumoseg.dicom_objects.picture import add_caption, describe
from tests.dicom_objects.builders import HEADERS, IMAGE, NOTHING, SHAPE, finding, radiograph, three_components

ORANGE = [230, 159, 0]
IN_MM = {"spacing_source": "PixelSpacing", "pixel_spacing": (5.0, 6.0), "pixel_area_mm2": 30.0}


def picture(path, **facts):
    file = io.BytesIO()
    make_objects(path, finding(**facts), ["sc"])["sc"].save_as(file, enforce_file_format=True)
    file.seek(0)
    return pydicom.dcmread(file)


@pytest.fixture
def image(tmp_path):
    return radiograph(tmp_path / "image.dcm", **HEADERS["type 2"])


def test_a_negative_picture_is_the_image_above_a_caption(tmp_path, image):
    made = picture(image, mask=NOTHING)
    assert made.PhotometricInterpretation == "MONOCHROME2"
    assert (made.pixel_array[: SHAPE[0], : SHAPE[1]] == read_image(image)).all()
    made.save_as(tmp_path / "sc.dcm")
    # Without a window, viewers stretch grey from the smallest to the largest value: both ends must occur.
    assert (read_image(tmp_path / "sc.dcm") == made.pixel_array).all()
    assert (made.pixel_array.min(), made.pixel_array.max()) == (0, 255)


def test_a_positive_picture_has_an_outline_around_the_mask(image):
    made = picture(image)
    assert made.PhotometricInterpretation == "RGB"
    shown, grey = made.pixel_array[: SHAPE[0], : SHAPE[1]], read_image(image)
    outlined = (shown == ORANGE).all(axis=2)
    assert (shown[~outlined] == grey[~outlined][:, None]).all()
    assert not outlined[three_components()].any()
    # The first component has 2 rows and 4 columns at the top left: its outline is below it and to its right.
    assert outlined[2, :4].all()
    assert outlined[:2, 4].all()
    assert outlined[:4, :6].sum() == 6


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_picture_shows_what_is_displayed(tmp_path, photometric):
    pixels = np.linspace(0, 4095, SHAPE[0] * SHAPE[1]).astype(np.uint16).reshape(SHAPE)
    window = {"WindowCenter": "1000", "WindowWidth": "500"}
    path = radiograph(tmp_path / "a.dcm", pixels, BitsStored=12, PhotometricInterpretation=photometric, **window)
    shown = picture(path, mask=NOTHING).pixel_array[: SHAPE[0], : SHAPE[1]]
    assert (shown[0, 0], shown[-1, -1]) == ((0, 255) if photometric == "MONOCHROME2" else (255, 0))
    assert (shown == read_image(path)).all()


@pytest.mark.parametrize("shape", [(16, 16), (256, 256), (256, 100), (1024, 1024), (2000, 1500), (900, 4000)])
def test_the_caption_is_legible_and_hides_nothing(shape):
    image = np.full(shape, 77, np.uint8)
    lines = ["Pneumothorax found", "Area 123456 mm2 at the detector", "Research only, not for diagnosis"]
    captioned = add_caption(image, lines)
    assert (captioned[: shape[0], : shape[1]] == image).all()
    assert (captioned[: shape[0], shape[1] :] == 0).all()
    band = captioned[shape[0] :] > 127
    rows, columns = np.flatnonzero(band.any(axis=1)), np.flatnonzero(band.any(axis=0))
    # The text has a margin on each side, so that none of it is cut off.
    assert rows[0] > 1
    assert rows[-1] < band.shape[0] - 2
    assert columns[0] > 1
    assert columns[-1] < band.shape[1] - 2
    # Three lines, separated by rows without ink. A capital is at least 7 pixels high, and 1.4% of the longer side.
    starts = rows[np.flatnonzero(np.diff(rows, prepend=-2) > 1)]
    assert len(starts) == 3
    ends = rows[np.flatnonzero(np.diff(rows, append=rows[-1] + 2) > 1)]
    assert (ends - starts + 1).min() >= max(7, 0.014 * max(shape))


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({"mask": NOTHING}, ["No pneumothorax found", "Probability 87.5%"]),
        ({"mask": NOTHING, "probability": math.nan}, ["No pneumothorax found"]),
        (
            {"mask": NOTHING, "stage": "segmenter", "probability": 0.979},
            ["No pneumothorax outlined", "But the classifier's probability 97.9% is above its threshold"],
        ),
        ({"mask": NOTHING, "stage": "segmenter", "probability": math.nan}, ["No pneumothorax found"]),
        ({"mask": NOTHING, "stage": "classifier"}, ["No pneumothorax found", "Probability 87.5%"]),
        ({}, ["Pneumothorax found", "Area 114 pixels", "Probability 87.5%"]),
        (IN_MM, ["Pneumothorax found", "Area 3420 mm2", "Probability 87.5%"]),
        (
            IN_MM | {"spacing_source": "ImagerPixelSpacing"},
            ["Pneumothorax found", "Area 3420 mm2 at the detector", "Probability 87.5%"],
        ),
        (IN_MM | {"pixel_area_mm2": 0.0101}, ["Pneumothorax found", "Area 1 mm2", "Probability 87.5%"]),
        (IN_MM | {"pixel_area_mm2": 0.0083}, ["Pneumothorax found", "Area less than 1 mm2", "Probability 87.5%"]),
        (IN_MM | {"pixel_area_mm2": 0.001}, ["Pneumothorax found", "Area less than 1 mm2", "Probability 87.5%"]),
        (IN_MM | {"pixel_area_mm2": math.nan}, ["Pneumothorax found", "Area 114 pixels", "Probability 87.5%"]),
    ],
)
def test_the_finding_in_words(facts, lines):
    assert describe(finding(**facts)) == lines


def test_the_picture_refers_to_the_image(image):
    made = picture(image)
    [source] = made.SourceImageSequence
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (
        pydicom.dcmread(image).SOPClassUID,
        IMAGE,
    )
    assert made.ImageType[0] == "DERIVED"


def test_sizes_of_pixels(tmp_path):
    def scale(facts, **attributes):
        made = picture(radiograph(tmp_path / "a.dcm", **attributes), **facts)
        return made.get("PixelSpacing"), made.get("PixelAspectRatio")

    assert scale(IN_MM, PixelSpacing=["5", "6"]) == ([5, 6], None)
    # Of a spacing that is not believed, the ratio is.
    unbelieved = IN_MM | {"pixel_area_mm2": math.nan, "pixel_aspect": 5 / 6}
    assert scale(unbelieved, PixelSpacing=["5", "6"]) == (None, [5, 6])
    assert scale({"pixel_aspect": 1.5}, PixelAspectRatio=["3", "2"]) == (None, [3, 2])
    assert scale({}) == (None, None)


def test_loss_of_the_source_is_told(tmp_path):
    made = picture(radiograph(tmp_path / "a.dcm", **HEADERS["CR"]))
    assert made.LossyImageCompression == "01"
    assert made.LossyImageCompressionRatio == [10, 2.5]
    assert made.LossyImageCompressionMethod == ["ISO_10918_1", "ISO_15444_1"]
    assert "LossyImageCompression" not in picture(radiograph(tmp_path / "b.dcm"))
