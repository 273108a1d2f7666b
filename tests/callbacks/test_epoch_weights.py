"""Kept weights: as they were, within the budget, the best ones longest."""

import keras
import numpy as np
import pytest

from pneumoseg.callbacks.epoch_weights import EpochWeights, load_epoch_weights


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((50,)), keras.layers.Dense(100), keras.layers.BatchNormalization()])


def kept(folder, values, gigabytes):
    callback, all_weights = EpochWeights(folder, gigabytes, "val_iou"), []
    for epoch, value in enumerate(values):
        model = network(seed=epoch)
        callback.set_model(model)
        callback.on_epoch_end(epoch, {"val_iou": value})
        all_weights.append(model.get_weights())
    return all_weights


def test_weights_come_back_within_a_thousandth(tmp_path):
    for epoch, weights in enumerate(kept(tmp_path, [0.1, 0.2], 1), start=1):
        loaded = load_epoch_weights(tmp_path, epoch)
        assert all(values.dtype == np.float32 for values in loaded)
        for values, expected in zip(loaded, weights, strict=True):
            np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-7)


def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path):
    model = network()
    weights = model.get_weights()
    weights[-1][:] = np.linspace(1e6, 2e6, 100)  # float16 ends at 65504
    weights[-2][:] = np.linspace(1e-5, 2e-5, 100)  # held to 1e-7
    model.set_weights(weights)
    callback = EpochWeights(tmp_path, 1, "val_iou")
    callback.set_model(model)
    callback.on_epoch_end(0, {"val_iou": 0.5})
    *_, mean, variance = load_epoch_weights(tmp_path, 1)
    np.testing.assert_array_equal(variance, weights[-1])
    np.testing.assert_allclose(mean, weights[-2], rtol=0, atol=1e-7)


def test_budget_for_no_epoch_is_told_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"epoch_weights_gigabytes is 1e-06: raise it"):
        kept(tmp_path, [0.5], 1e-6)


def test_budget_drops_the_worst_epochs(tmp_path):
    kept(tmp_path, [0.5], 1)
    size = next(tmp_path.iterdir()).stat().st_size
    kept(tmp_path, [0.5, 0.1, 0.4, np.nan, 0.3, 0.6], 3.5 * size / 1e9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_001.npz", "epoch_003.npz", "epoch_006.npz"]
    with pytest.raises(ValueError, match=r"epoch_005\.npz: the weights of epoch 5 were not kept.*larger"):
        load_epoch_weights(tmp_path, 5)


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "epoch_002.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"epoch_002\.npz is damaged"):
        load_epoch_weights(tmp_path, 2)
