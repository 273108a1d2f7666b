"""What the pictures hold, read back from the figures."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from pneumoseg.data.augmentation import TECHNIQUES
from pneumoseg.inference import Result
from pneumoseg.report.comparison import compare_runs, draw_comparison
from pneumoseg.report.contact_sheet import draw_augmentations, draw_contact_sheet
from pneumoseg.report.curves import draw_curves
from pneumoseg.report.live_curves import LiveCurves
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


def history_of(values):
    epochs = range(1, len(values) + 1)
    columns = {"learning_rate": 0.1, "loss": 1.0, "val_loss": 2.0, "mcc": 0.5, "seconds": 4.0}
    return pd.DataFrame({"epoch": epochs, **columns, "val_mcc": values})


@pytest.mark.parametrize(("values", "best"), [([0.1, 0.3, 0.3], 2), ([math.nan, -0.2], 2), ([math.nan], 1)])
def test_best_epoch_is_the_first_of_the_greatest(values, best):
    top = draw_curves(history_of(values), "mcc").axes[0]
    assert f"best epoch ({best})" in [line.get_label() for line in top.get_lines()]


def test_curves_are_there_after_each_epoch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = LiveCurves(tmp_path, "mcc")
    for epochs in (1, 2):
        history_of([0.1, 0.2][:epochs]).to_csv(tmp_path / "history.csv", index=False)
        callback.on_epoch_end(epochs - 1)
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path / "tensorboard/curves"), {"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("curves")] == [0, 1]


def test_augmentations_are_drawn_beside_the_original_with_their_mask(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", image)
    manifest = manifest_of([path, path], [image] * 2, ["2000 20 44 20", "-1"])
    figure = draw_augmentations(manifest, seed=1)
    assert [axes.get_title() for axes in figure.axes[1:7]] == list(TECHNIQUES)
    assert len(figure.axes) == 2 * (1 + len(TECHNIQUES))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image)
    assert [len(axes.collections) for axes in figure.axes] == [1] * 7 + [0] * 7
    assert len({axes.images[0].get_array().tobytes() for axes in figure.axes[:7]}) == 7


@pytest.fixture
def two_runs(tmp_path):
    """Of 60 images of 30 patients: the second run has the better probabilities."""
    rng, paths = np.random.default_rng(0), []
    labels = rng.random(60) < 0.4
    for name, noise in (("a", 0.5), ("b", 0.15)):
        run = tmp_path / name
        run.mkdir()
        table = pd.DataFrame(
            {
                "image_id": [f"i{n:02}" for n in range(60)],
                "patient_id": [f"p{n // 2}" for n in range(60)],
                "has_pneumothorax": labels,
                "probability": np.clip(0.3 + 0.4 * labels + noise * rng.normal(size=60), 0, 1),
            }
        )
        table.sample(frac=1, random_state=1).to_csv(run / "predictions.csv", index=False)
        history_of([0.1, 0.6, 0.5]).to_csv(run / "history.csv", index=False)
        (run / "metrics.json").write_text(json.dumps({"best_epoch": 2}))
        paths.append(run)
    return paths


def test_runs_are_compared_on_their_images(two_runs):
    table = compare_runs(two_runs)
    for run in two_runs:
        predictions = pd.read_csv(run / "predictions.csv")
        mcc = matthews_corrcoef(predictions["has_pneumothorax"], predictions["probability"] > 0.5)
        assert table.loc[run.name, "mcc"] == pytest.approx(mcc)
    assert (table["mcc_low"] < table["mcc"]).all()
    assert (table["mcc"] < table["mcc_high"]).all()
    assert table["mcc_gain"].tolist() == pytest.approx([0, table.loc["b", "mcc"] - table.loc["a", "mcc"]])
    assert table.loc["a", ["mcc_gain_low", "mcc_gain_high"]].tolist() == [0, 0]
    assert 0 < table.loc["b", "mcc_gain_low"] < table.loc["b", "mcc_gain"] < table.loc["b", "mcc_gain_high"]
    assert table["best_epoch"].tolist() == [2, 2]
    losses, mccs = draw_comparison(two_runs).axes
    for axes, name in ((losses, "val_loss"), (mccs, "val_mcc")):
        drawn = {line.get_label(): line for line in axes.get_lines()}
        np.testing.assert_array_equal(drawn["b"].get_ydata(), history_of([0.1, 0.6, 0.5])[name])


def test_no_gain_where_the_images_differ(two_runs):
    predictions = pd.read_csv(two_runs[1] / "predictions.csv")
    predictions.iloc[:-1].to_csv(two_runs[1] / "predictions.csv", index=False)
    assert "mcc_gain" not in compare_runs(two_runs)


def test_folder_without_a_run_is_named(two_runs, tmp_path):
    with pytest.raises(ValueError, match="absent holds no finished classifier run"):
        compare_runs([two_runs[0], tmp_path / "absent"])
