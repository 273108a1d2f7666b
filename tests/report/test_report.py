"""What the pictures hold, read back from the figures."""

import math

import numpy as np
import pandas as pd
import pytest

from pneumoseg.data.augmentation import TRANSFORMS
from pneumoseg.inference import Result
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
