"""Validation scores: of all images at once, in the logs before anyone reads them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss, matthews_corrcoef, roc_auc_score

from pneumoseg.callbacks.mcc import MCC
from pneumoseg.scores import best_threshold


class Reader(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.read = []

    def on_epoch_end(self, epoch, logs=None):
        self.read.append(dict(logs))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 3)).astype(np.float32)
    labels = images[:, 0] + 0.5 * rng.normal(size=50) > 0.6
    return images, labels


def identity_network():
    """Whose probability is the first feature's sigmoid."""
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    network.layers[0].set_weights([np.array([[1.0], [0.0], [0.0]]), np.zeros(1)])
    return network


def test_scores_are_those_of_the_whole_set_and_not_means_over_batches(data):
    images, labels = data
    callback = MCC(tf.data.Dataset.from_tensor_slices(images).batch(7), labels, keras.losses.BinaryCrossentropy())
    callback.set_model(identity_network())
    logs = {"loss": 1.0}
    callback.on_epoch_end(0, logs)
    probabilities = 1 / (1 + np.exp(-images[:, 0].astype(float)))
    np.testing.assert_allclose(callback.probabilities, probabilities, rtol=1e-5)
    assert logs["val_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert logs["val_mcc"] == pytest.approx(matthews_corrcoef(labels, probabilities > 0.5))
    assert logs["val_auc"] == pytest.approx(roc_auc_score(labels, probabilities))
    threshold, correlation = best_threshold(labels, callback.probabilities)
    assert (logs["val_best_threshold"], logs["val_best_mcc"]) == (threshold, correlation)
    assert logs["val_best_mcc"] > logs["val_mcc"]
    assert logs["loss"] == 1.0


def test_scores_reach_the_callbacks_behind_and_none_before(data):
    images, labels = data
    model = identity_network()
    model.compile("sgd", "binary_crossentropy")
    before, behind = Reader(), Reader()
    scores = MCC(tf.data.Dataset.from_tensor_slices(images).batch(7), labels, keras.losses.BinaryCrossentropy())
    history = model.fit(images, labels[:, None], epochs=2, callbacks=[before, scores, behind], verbose=0).history
    assert not any(name.startswith("val_") for logs in before.read for name in logs)
    assert [logs["val_mcc"] for logs in behind.read] == history["val_mcc"]
    assert len(history["val_mcc"]) == 2


def test_plateau_behind_it_reads_the_mcc(data):
    images, labels = data
    model = identity_network()
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")  # nothing changes: no epoch is better
    scores = MCC(tf.data.Dataset.from_tensor_slices(images).batch(7), labels, keras.losses.BinaryCrossentropy())
    model.optimizer.learning_rate = 1e-30
    plateau = keras.callbacks.ReduceLROnPlateau("val_mcc", 0.2, 3, mode="max")
    rates = []
    rate = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: rates.append(float(model.optimizer.learning_rate)))
    model.fit(images, labels[:, None], epochs=6, callbacks=[scores, plateau, rate], verbose=0)
    # The first epoch sets the mark, three do not beat it, and the fifth is the first with the lower rate.
    assert np.array(rates) / 1e-30 == pytest.approx([1, 1, 1, 1, 0.2, 0.2], rel=1e-3)


def test_network_that_diverged_scores_nan(data):
    images, labels = data
    model = identity_network()
    model.layers[0].set_weights([np.full((3, 1), np.nan), np.zeros(1)])
    callback = MCC(tf.data.Dataset.from_tensor_slices(images).batch(50), labels, keras.losses.BinaryCrossentropy())
    callback.set_model(model)
    logs = {}
    callback.on_epoch_end(0, logs)
    assert np.isnan(logs["val_mcc"])
    assert logs["val_best_threshold"] == 0.5
