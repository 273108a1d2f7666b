"""Comparison of runs, against scikit-learn and themselves."""

import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from pneumoseg.evaluation import table_columns
from pneumoseg.evaluation.bootstrap import bootstrap_interval
from pneumoseg.report import comparison
from pneumoseg.report.comparison import compare_runs, draw_comparison


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """The intervals are tested where they are made; here a tenth of the resamples is enough."""
    monkeypatch.setattr(comparison, "bootstrap_interval", functools.partial(bootstrap_interval, resamples=100))


@pytest.fixture
def two_runs(tmp_path, history_of):
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
        table.sample(frac=1, random_state=1).to_csv(run / "validation_predictions.csv", index=False)
        history_of([0.1, 0.6, 0.5]).to_csv(run / "history.csv", index=False)
        (run / "metrics.json").write_text(json.dumps({"best_epoch": 2}))
        paths.append(run)
    return paths


def test_runs_are_compared_on_their_images(two_runs, history_of):
    table = table_columns(compare_runs(two_runs))
    for run in two_runs:
        predictions = pd.read_csv(run / "validation_predictions.csv")
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
    predictions = pd.read_csv(two_runs[1] / "validation_predictions.csv")
    predictions.iloc[:-1].to_csv(two_runs[1] / "validation_predictions.csv", index=False)
    assert "mcc_gain" not in compare_runs(two_runs)


def test_folder_without_a_run_is_named(two_runs, tmp_path):
    with pytest.raises(ValueError, match="absent holds no finished classifier run"):
        compare_runs([two_runs[0], tmp_path / "absent"])


def test_run_that_diverged_is_compared_too(two_runs, history_of):
    predictions = pd.read_csv(two_runs[1] / "validation_predictions.csv").assign(probability=math.nan)
    predictions.to_csv(two_runs[1] / "validation_predictions.csv", index=False)
    history_of([math.nan] * 3).to_csv(two_runs[1] / "history.csv", index=False)
    table = table_columns(compare_runs(two_runs))
    assert table.loc["b", ["mcc", "auc", "mcc_low", "mcc_gain"]].isna().all()
    assert table.loc["a", "mcc"] > 0
    draw_comparison(two_runs)
