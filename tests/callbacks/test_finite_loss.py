"""Where a training that diverges ends, and what it leaves."""

import keras
import numpy as np
import pytest

from pneumoseg.callbacks.finite_loss import DivergedError, FiniteLoss


def model_with(kernel=0.5):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    model.layers[0].set_weights([np.full((1, 1), kernel), np.zeros(1)])
    return model


def watching(model, epoch=2):
    callback = FiniteLoss("runs/one", "runs/one/best")
    callback.set_model(model)
    callback.on_epoch_begin(epoch)
    return callback


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["loss", "val_loss"])
def test_loss_that_is_no_number_ends_it(name, value):
    with pytest.raises(DivergedError) as caught:
        watching(model_with()).on_epoch_end(2, {"loss": 1.0} | {name: value})
    text = str(caught.value)
    assert text.startswith("runs/one: the training diverged in epoch 3, at a learning rate of 0.25: ")
    assert f"{name} is {value}; kept are the epochs up to 2, the best of them in runs/one/best" in text
    assert "lower learning_rate" in text


def test_first_epoch_keeps_nothing():
    with pytest.raises(DivergedError, match=r"epoch 1, .* nothing was kept"):
        watching(model_with(), epoch=0).on_train_batch_end(0, {"loss": np.nan})


@pytest.mark.parametrize("kernel", [np.nan, np.inf])
def test_weights_that_are_no_numbers_end_it(kernel):
    with pytest.raises(DivergedError, match="kernel is not finite"):
        watching(model_with(kernel)).on_epoch_end(2, {"loss": 1.0, "val_loss": 1.0})


def test_metric_that_is_not_defined_is_no_loss():
    callback = watching(model_with())
    callback.on_epoch_end(2, {"loss": 1.0, "val_loss": 2.0, "val_auc": np.nan})
    callback.on_train_batch_end(0, {"loss": 1.0, "auc": np.nan})
    with pytest.raises(DivergedError, match="val_loss is nan"):
        callback.on_epoch_end(2, {"loss": 1.0, "val_loss": np.nan, "val_auc": np.nan})


def test_fit_ends_within_the_epoch():
    """Of 64 batches the second one has no loss."""
    seen, images = [], np.ones((64, 1), np.float32)
    images[1] = np.nan
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    with pytest.raises(DivergedError, match="loss is nan"):
        model_with().fit(images, images, 1, callbacks=[FiniteLoss("run", "run/best"), count], shuffle=False, verbose=0)
    assert seen == [0]


def test_step_that_float16_skips_is_no_divergence():
    """The loss, 384 squared, times a scale of 2^127 overflows float32, and so do its gradients; itself it is finite."""
    model = model_with()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-9), initial_scale=2.0**127)
    model.compile(optimizer, "mse")
    images = np.full((2, 1), 256, np.float32)
    model.fit(images, images * 2, 1, callbacks=[FiniteLoss("run", "run/best")], verbose=0)
    assert float(optimizer.dynamic_scale) < 2.0**127  # a step was skipped
    assert float(model.layers[0].kernel[0, 0]) == 0.5
