"""The folder of a run: what it tells, and what it says where there is none."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from pneumoseg.config import load_experiment
from pneumoseg.training import run as runs
from pneumoseg.training.run import Run


def test_folder_without_a_run_is_named(tmp_path):
    run = Run(tmp_path / "absent")
    assert not run.is_finished
    assert run.metrics() == {}
    assert run.folds() == run.later_averages() == []
    assert run.trainings() == [run]
    for read, error, message in [
        (run.history, ValueError, r"absent holds no run: it has no history\.csv"),
        (run.split, ValueError, r"absent holds no run: it has no split\.csv"),
        (run.validation_predictions, ValueError, r"absent holds no finished classifier run: it needs validation_pred"),
        (run.settings, ValueError, r"absent holds no run: it has no settings\.yaml"),
        (run.deployable, ValueError, rf"absent holds no finished run: .*--out {re.escape(str(run.folder))} --resume"),
    ]:
        with pytest.raises(error, match=message):
            read()


def test_settings_of_folds_are_in_the_runs_of_the_folds(tmp_path):
    (tmp_path / "fold_1").mkdir()
    with pytest.raises(ValueError, match="holds a cross-validation: name the run of a fold, such as fold_1 in it"):
        Run(tmp_path).settings()


ROWS = pd.DataFrame(
    {
        "image_id": ["a", "b"], "has_pneumothorax": [True, False], "rle": ["1 2", "-1"], "rows": [8, 8],
        "columns": [8, 8], "frame_length": [9, 9],
    }
)  # fmt: skip
SETTINGS = load_experiment(Path(__file__).parents[2] / "experiments" / "demo_classifier.yaml")


def test_results_of_a_training_without_a_checkpoint_do_not_mix_with_those_of_a_new_one(tmp_path):
    run = Run(tmp_path)
    for name in ("best/spec.json", "swa/spec.json", "epochs/epoch_002.npz", "history.csv", "swa_1-2.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with run.open(SETTINGS, ROWS.head(1), ROWS.tail(1)):
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "environment.json", "notes.txt", "settings.yaml", "split.csv",
        ]  # fmt: skip


def test_a_run_that_another_process_finishes_meanwhile_is_not_trained_again(tmp_path, monkeypatch):
    """The lock is taken before anything is checked."""
    order = []
    monkeypatch.setattr(Run, "refuse_finished", lambda self: order.append("checked"))
    monkeypatch.setattr(runs, "locked_folder", lambda folder, work: order.append("locked") or nullcontext())
    with Run(tmp_path).open(SETTINGS, ROWS.head(1), ROWS.tail(1)):
        assert order == ["locked", "checked"]


def test_cache_is_next_to_the_run_and_shared_by_its_folds(tmp_path):
    assert Run(tmp_path / "run").cache_dir == tmp_path / "cache"
    assert Run(tmp_path / "run").fold(2).cache_dir == tmp_path / "cache"
    assert Run(tmp_path / "run", tmp_path / "other").fold(1).cache_dir == tmp_path / "other"


def test_ids_that_read_like_numbers_stay_text(tmp_path):
    (tmp_path / "split.csv").write_text("image_id,split,content\n007,train,00000001\nNA,val,1e5\n")
    expected = {"image_id": ["007", "NA"], "split": ["train", "val"], "content": ["00000001", "1e5"]}
    assert Run(tmp_path).split().to_dict("list") == expected


def test_averages_made_later_are_found_by_their_default_names(tmp_path):
    run = Run(tmp_path)
    assert run.average_folder(13, 16) == tmp_path / "swa_13-16"
    for start in (2, 13):
        folder = run.average_folder(start, start + 3)
        folder.with_name(f"{folder.name}.json").write_text(json.dumps({"start_epoch": start}))
    assert sorted(scores["start_epoch"] for scores in run.later_averages()) == [2, 13]


def test_metrics_mark_a_run_as_finished_and_hold_no_nan(tmp_path):
    run, rows = Run(tmp_path), pd.DataFrame({"has_pneumothorax": [True, False, False]})
    history = pd.DataFrame({"epoch": [1, 2], "val_iou": [0.25, 0.5], "val_auc": [0.5, float("nan")]})
    run.checkpoint.write_bytes(b"")
    metrics = run.finish(history, 2, rows, rows.head(1), {"swa_val_iou": 0.75})
    assert metrics == {
        "best_epoch": 2,
        "val_iou": 0.5,
        "val_auc": None,
        "training_images": 3,
        "training_positives": 1,
        "validation_images": 1,
        "validation_positives": 1,
        "swa_val_iou": 0.75,
    }
    assert json.loads(run.metrics_file.read_text()) == run.metrics() == metrics
    assert run.is_finished
    assert not run.checkpoint.exists()
    with pytest.raises(FileExistsError, match="holds a finished run: choose another folder, or remove it"):
        run.refuse_finished()
