"""What the pictures hold, read back from the figures."""

import math

import numpy as np
import pandas as pd
import pytest

from pneumoseg.data.augmentation import TRANSFORMS
from pneumoseg.inference import Result
from pneumoseg.overlay import draw_outlines
from pneumoseg.report.contact_sheet import draw_augmentations, draw_contact_sheet
from pneumoseg.report.curves import draw_curves
from tests.conftest import manifest_of, write_dicom


def test_curves_hold_the_history():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "learning_rate": [0.02, 0.02, 0.002],
            "loss": [0.9, 0.5, 0.4],
            "val_loss": [0.8, 0.6, 0.7],
            "mcc": [0.1, 0.3, 0.5],
            "val_mcc": [0.0, 0.4, 0.2],
        }
    )
    top, bottom, twin = draw_curves(history, "mcc").axes
    lines = {line.get_label(): line for axes in (top, twin) for line in axes.get_lines()}
    for label, column in (("training loss", "loss"), ("validation mcc", "val_mcc")):
        np.testing.assert_array_equal(lines[label].get_ydata(), history[column])
    assert list(lines["best epoch (2)"].get_xdata()) == [2, 2]
    np.testing.assert_array_equal(bottom.get_lines()[0].get_ydata(), history["learning_rate"])


def test_contact_sheet_shows_truth_and_prediction(tmp_path):
    images = [np.full((16, 24), value, np.uint8) for value in (10, 20, 30)]
    paths = [write_dicom(tmp_path / f"i{n}.dcm", image) for n, image in enumerate(images)]
    manifest = manifest_of(paths, images, ["0 8", "40 5", "-1"])
    results = [
        Result(path.stem, 0.5, code, (16, 24), "mask") for path, code in zip(paths, ["0 8", "-1", "-1"], strict=True)
    ]
    figure = draw_contact_sheet(manifest, results, columns=2)
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_array()[0, 0] for axes in drawn] == [10, 20, 30]
    assert [len(axes.collections) for axes in drawn] == [2, 1, 0]
    assert drawn[0].get_title() == "i0\ntruth 8 px, predicted 8 px"
    truth_alone = draw_contact_sheet(manifest)
    assert [len(axes.collections) for axes in truth_alone.axes if axes.images] == [1, 1, 0]


def test_contact_sheet_tells_an_unknown_mask_from_an_empty_one(tmp_path):
    image = np.full((16, 24), 10, np.uint8)
    paths = [write_dicom(tmp_path / f"i{n}.dcm", image) for n in range(2)]
    manifest = manifest_of(paths, [image] * 2, ["-1", "-1"]).assign(rle=["-1", ""])
    results = [Result(path.stem, 0.5, "0 8", (16, 24), "mask") for path in paths]
    empty, unknown = draw_contact_sheet(manifest, results).axes
    assert empty.get_title() == "i0\ntruth 0 px, predicted 8 px"
    assert unknown.get_title() == "i1\ntrue mask not known, predicted 8 px"
    assert len(unknown.collections) == 1
    augmented = draw_augmentations(manifest.tail(1))
    assert [len(axes.collections) for axes in augmented.axes] == [0] * (1 + len(TRANSFORMS))


def test_pixels_are_drawn_as_high_as_they_are(tmp_path):
    image = np.full((16, 32), 10, np.uint8)
    paths = [write_dicom(tmp_path / f"i{n}.dcm", image) for n in range(2)]
    manifest = manifest_of(paths, [image] * 2, ["40 5", "-1"])
    for figure in (draw_contact_sheet, draw_augmentations):
        assert {axes.get_aspect() for axes in figure(manifest).axes} == {1}
    two, square = draw_contact_sheet(manifest.assign(pixel_aspect=[2.0, 1.0])).axes
    assert (two.get_aspect(), square.get_aspect()) == (2, 1)
    assert {axes.get_aspect() for axes in draw_augmentations(manifest.assign(pixel_aspect=2.0)).axes} == {2}
    figure = draw_outlines(image, {}, pixel_aspect=2.0)
    figure.draw_without_rendering()
    shown = figure.axes[0].get_window_extent()
    assert shown.width == pytest.approx(shown.height, rel=0.01)  # 32 columns, and 16 rows twice as high


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.3, 0.3], 2), ([math.nan, -0.2], 2), ([math.nan], 1)])
def test_best_epoch_is_the_first_of_the_greatest(values, best, history_of):
    top = draw_curves(history_of(values), "mcc").axes[0]
    assert f"best epoch ({best})" in [line.get_label() for line in top.get_lines()]


def test_augmentations_are_drawn_next_to_the_original_with_their_mask(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", image)
    manifest = manifest_of([path, path], [image] * 2, ["2000 20 44 20", "-1"])
    figure = draw_augmentations(manifest, seed=1)
    assert [axes.get_title().split("\n")[0] for axes in figure.axes[:7]] == ["original", *TRANSFORMS]
    assert len(figure.axes) == 2 * (1 + len(TRANSFORMS))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image)
    assert [len(axes.collections) for axes in figure.axes] == [1] * 7 + [0] * 7
    assert len({axes.images[0].get_array().tobytes() for axes in figure.axes[:7]}) == 7


@pytest.mark.parametrize(
    ("averaged", "lines", "label"),
    [
        (range(2, 5), [2, 4], "averaged epochs (2 to 4)"),
        ([1, 3, 5], [1, 3, 5], "averaged epochs (1, 3, 5)"),
        ((), [], None),
    ],
)
def test_averaged_epochs_and_the_rate_within_them_are_marked(averaged, lines, label, history_of):
    rates = pd.DataFrame({"epoch": [0.0, 0.5, 1.0], "learning_rate": [0.1, 0.05, 0.025]})
    top, bottom, _ = draw_curves(history_of([0.1] * 5), "mcc", averaged=averaged, learning_rates=rates).axes
    red = [line for line in top.get_lines() if line.get_color() == "#d62728"]
    assert [line.get_xdata()[0] for line in red] == lines
    assert [line.get_label() for line in red][:1] == ([label] if label else [])
    assert bottom.get_lines()[0].get_xdata().tolist() == [0.5, 1.0, 1.5]  # the first epoch is around 1
    assert bottom.get_lines()[0].get_ydata().tolist() == [0.1, 0.05, 0.025]
