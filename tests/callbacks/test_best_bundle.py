"""Which epoch is kept."""

import math

import pandas as pd
import pytest

from pneumoseg.callbacks.best_bundle import BestBundle


def kept(values):
    saved = []
    callback = BestBundle("val_mcc", lambda model, logs: saved.append(model))
    for epoch, value in enumerate(values):
        callback.set_model(f"after epoch {epoch + 1}")
        callback.on_epoch_end(epoch, {"val_mcc": value})
    return saved, callback


def test_each_improvement_is_saved_and_a_tie_is_none():
    saved, callback = kept([0.1, 0.3, 0.3, 0.2, 0.5])
    assert saved == ["after epoch 1", "after epoch 2", "after epoch 5"]
    assert (callback.best, callback.best_epoch) == (0.5, 5)


def test_negative_values_are_kept_too():
    saved, _ = kept([-0.4, -0.6])
    assert saved == ["after epoch 1"]


def test_a_first_nan_is_kept_until_a_number_comes():
    saved, callback = kept([math.nan, math.nan, -1.0, math.nan])
    assert saved == ["after epoch 1", "after epoch 3"]
    assert callback.best == -1


def test_missing_value_is_named():
    callback = BestBundle("val_mcc", print)
    with pytest.raises(ValueError, match="monitors 'val_mcc', but the logs hold loss, val_loss"):
        callback.on_epoch_end(0, {"val_loss": 1.0, "loss": 1.0})


@pytest.mark.parametrize(
    ("values", "best_epoch", "saved_again"),
    [([0.1, 0.3, 0.2], 2, False), ([0.1, 0.3, 0.4], 3, True), ([0.3, 0.3], 1, False), ([math.nan], 1, True)],
)
def test_resumed_knows_what_was_best_and_saves_what_may_be_missing(values, best_epoch, saved_again):
    saved = []
    callback = BestBundle("val_mcc", lambda model, logs: saved.append((model, logs["val_mcc"])))
    callback.set_model("of the last epoch")
    callback.resume(pd.DataFrame({"epoch": range(1, len(values) + 1), "val_mcc": values}))
    assert callback.best_epoch == best_epoch
    assert callback.best == (values[best_epoch - 1] if not math.isnan(values[0]) else -math.inf)
    assert [model for model, _ in saved] == (["of the last epoch"] if saved_again else [])
