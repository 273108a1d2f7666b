"""Which epoch is kept."""

import math

import pytest

from pneumoseg.callbacks.best_bundle import BestBundle


def kept(values):
    saved = []
    callback = BestBundle("val_mcc", lambda model: saved.append(model))
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
    with pytest.raises(ValueError, match="monitors 'val_mcc', and the logs hold loss, val_loss"):
        callback.on_epoch_end(0, {"val_loss": 1.0, "loss": 1.0})
