"""The schedule, epoch by epoch: what learns, at which rate, with which optimizer state, and what callbacks see."""

from collections import Counter
from itertools import pairwise

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pneumoseg.callbacks.finite_loss import DivergedError
from pneumoseg.callbacks.mcc import MCC
from pneumoseg.callbacks.resumable_plateau import ResumablePlateau
from pneumoseg.config import Phase
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.freezing import flat_layers
from pneumoseg.training.engine import Engine
from pneumoseg.training.objective import Objective
from pneumoseg.training.run import Run
from pneumoseg.training.schedule import Schedule

pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly. option is set"),
]
PHASES = [
    Phase(epochs=2, learning_rate=2e-2, trainable="head"),
    Phase(epochs=5, learning_rate=2e-4, trainable="all"),
]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 32, 32, 1), dtype=np.uint8)
LABELS = RNG.random(12) < 0.5
STEPS = 3  # of 4 images


def small_network():
    """A network with a head, whose training takes little time to build."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3, "relu")]
    return keras.Sequential([keras.Input((32, 32, 1)), *layers, keras.layers.Dense(1, "sigmoid", name="head")])


class Observer(keras.callbacks.Callback):
    """Writes down the state at the beginning and the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.begins, self.ends = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(self.state())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.state())

    def state(self):
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        layers = list(flat_layers(self.model))
        return {
            "optimizer": id(optimizer),
            "rate": float(optimizer.learning_rate),
            "step": int(optimizer.iterations),
            "moments": sum(float(np.abs(v).sum()) for v in optimizer.variables[2:]),
            "learning": [layer.name for layer in layers if layer.trainable_weights],
            "kernels": [np.array(layer.kernel) for layer in layers if hasattr(layer, "kernel")],
            "statistics": [np.array(layer.moving_mean) for layer in layers if hasattr(layer, "moving_mean")],
        }


def keep_nothing(model, logs):
    pass


def fit(folder, model, *observers, callbacks=(), phases=PHASES, metrics=(), stop_after=None, save=keep_nothing):
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS[:, None].astype("float32"))).batch(4)
    shown = []

    def epoch_batches(number):
        shown.append(number)
        return batches

    loss = keras.losses.BinaryCrossentropy()
    objective = Objective(loss, "val_mcc", metrics, validation_callback=MCC(batches, LABELS, loss))
    engine = Engine(
        model, Schedule(phases, stop_after), objective, Run(folder), save, callbacks=callbacks, observers=observers
    )
    return engine.fit(epoch_batches), shown


def fit_batches(folder, model, batches, *observers, phases, loss=None, **schedule):
    """Train without scores, on the same batches each epoch, and watch the training loss."""
    objective = Objective(loss or keras.losses.BinaryCrossentropy(), "loss")
    engine = Engine(model, Schedule(phases, **schedule), objective, Run(folder), keep_nothing, observers=observers)
    return engine.fit(batches if callable(batches) else lambda _: batches)


@pytest.fixture(scope="module")
def observed(eager, tmp_path_factory):
    keras.utils.set_random_seed(0)
    observer = Observer()
    history, shown = fit(tmp_path_factory.mktemp("run"), build_classifier("compact", 32, None), observer)
    assert shown == list(range(7))
    return observer, history


def unchanged(before, after):
    return [np.array_equal(one, other) for one, other in zip(before, after, strict=True)]


def test_what_learns(observed):
    observer, _ = observed
    for number, (begin, end) in enumerate(zip(observer.begins, observer.ends, strict=True)):
        if number < 2:
            assert begin["learning"] == ["head"]
            assert unchanged(begin["kernels"], end["kernels"]) == [True] * 6 + [False]
        else:
            assert len(begin["learning"]) == 13  # six convolutions, their normalizations, and the head
            assert unchanged(begin["kernels"], end["kernels"]) == [False] * 7


def test_batch_statistics_move_only_where_their_layer_learns(observed):
    observer, _ = observed
    for number, (begin, end) in enumerate(zip(observer.begins, observer.ends, strict=True)):
        assert unchanged(begin["statistics"], end["statistics"]) == [number < 2] * 6


def test_learning_rates(observed):
    observer, history = observed
    rates = [2e-2] * 2 + [2e-4] * 5
    assert [begin["rate"] for begin in observer.begins] == pytest.approx(rates)
    assert history["learning_rate"].tolist() == pytest.approx(rates)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_optimizer_starts_again_with_a_phase_and_continues_within_it(observed):
    observer, _ = observed
    assert [begin["step"] for begin in observer.begins] == [0, STEPS, 0, STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    assert [begin["moments"] == 0 for begin in observer.begins] == [True, False, True, False, False, False, False]
    optimizers = [begin["optimizer"] for begin in observer.begins]
    assert [one == other for one, other in pairwise(optimizers)] == [True, False, True, True, True, True]


def test_nothing_is_lost_between_epochs(observed):
    observer, _ = observed
    for end, begin in pairwise(zip(observer.ends, observer.begins[1:], strict=False)):
        assert all(unchanged(end[0]["kernels"], end[1]["kernels"]))
        assert begin[0]["step"] == begin[1]["step"] or begin[1]["step"] == 0


def test_training_metrics_count_one_epoch_alone(tmp_path):
    """Keras does not reset a metric at the first epoch after it was compiled again."""
    seen, counts = keras.metrics.BinaryAccuracy(name="accuracy"), []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: counts.append(float(seen.count)))
    fit(tmp_path, small_network(), note, metrics=[seen])
    assert counts == [len(IMAGES)] * 7


def test_plateau_counts_within_a_phase(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    values = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1])
    monkeypatch.setattr(MCC, "on_epoch_end", lambda self, epoch, logs: logs.update(val_mcc=next(values)))
    phases = [PHASES[0], Phase(epochs=6, learning_rate=2e-4, trainable="all")]
    plateau = ResumablePlateau("val_mcc", 0.2, 3, mode="max")
    history, _ = fit(tmp_path, small_network(), callbacks=[plateau], phases=phases)
    # .3 opens the second phase, though .5 was better in the first; .2, .1 and .1 do not beat it.
    assert history["learning_rate"].tolist() == pytest.approx([2e-2] * 2 + [2e-4] * 4 + [4e-5] * 2)


def adam(gradients, rate):
    """A weight's way under Adam from 0 on, by Kingma and Ba's algorithm 1; Keras puts epsilon a little differently."""
    weight = first = second = np.zeros_like(gradients[0])
    for step, gradient in enumerate(gradients, start=1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        weight = weight - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-7)
    return weight


@pytest.mark.parametrize(
    ("accumulated", "groups", "given_up"),
    [
        (1, [[0], [1], [2], [0], [1], [2]], None),  # batches a step, three batches an epoch
        (2, [[0, 1], [2, 0], [1, 2]], None),  # a group goes on in the next epoch
        (4, [[0, 1, 2, 0]], 2),
        (3, [[0, 1, 2], [0, 1, 2]], None),
        (7, [], 6),
    ],
)
@pytest.mark.usefixtures("graphs")
def test_a_step_follows_the_mean_gradient_of_its_batches(accumulated, groups, given_up, tmp_path, caplog):
    # The loss is the mean of weight * image: its gradient is the batch's mean image, whatever the weight.
    images = RNG.normal(size=(12, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    batches = tf.data.Dataset.from_tensor_slices((images, np.zeros((12, 1), "float32"))).batch(4)
    with caplog.at_level("INFO", "pneumoseg"):
        fit_batches(
            tmp_path, model, batches, phases=[Phase(epochs=2, learning_rate=0.01, trainable="all")],
            loss=lambda truth, predicted: keras.ops.mean(predicted), gradient_accumulation_steps=accumulated,
        )  # fmt: skip
    means = images.reshape(3, 4, 3).mean(1)
    expected = adam([np.mean([means[batch] for batch in group], axis=0) for group in groups], 0.01) if groups else 0
    np.testing.assert_allclose(model.get_weights()[0][:, 0], expected, atol=1e-5)
    said = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert said == (
        [f"The phase ended within a step of Adam: gradients of its last {given_up} batches are dropped"]
        if given_up
        else []
    )


def test_accumulated_steps_are_those_of_the_whole_batch(tmp_path):
    """With a network whose layers do not look at the rest of a batch, and a loss that is a mean over images."""
    weights = []
    for number, (size, accumulated) in enumerate([(6, 1), (3, 2), (2, 3)]):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Flatten(), keras.layers.Dense(3, "relu"), keras.layers.Dense(1, "sigmoid", name="head")]
        model = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Rescaling(1 / 255), *layers])
        batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS[:, None].astype("float32"))).batch(size)
        fit_batches(tmp_path / str(number), model, batches, phases=PHASES, gradient_accumulation_steps=accumulated)
        weights.append(model.get_weights())
    for whole, halves, thirds in zip(*weights, strict=True):
        np.testing.assert_allclose(halves, whole, atol=2e-5)
        np.testing.assert_allclose(thirds, whole, atol=2e-5)


@pytest.mark.usefixtures("gpu_listed", "graphs")
@pytest.mark.parametrize("jit", [False, True])
def test_xla_is_what_the_training_says(jit, tmp_path):
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(model.jit_compile))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid", name="head")])
    batches = tf.data.Dataset.from_tensor_slices((np.ones((4, 2), "float32"), np.ones((4, 1), "float32"))).batch(2)
    phases = [Phase(epochs=1, learning_rate=0.1, trainable=part) for part in ("head", "all")]
    fit_batches(tmp_path, model, batches, watch, phases=phases, **({"jit_compile": True} if jit else {}))
    assert seen == [jit or keras.backend.backend() == "jax"] * 2


class Noting(keras.layers.Layer):
    """Counts the calls of its Python code: one per batch in an eager network, one per trace in a compiled one."""

    calls = 0

    def call(self, inputs):
        Noting.calls += 1
        return inputs


@pytest.mark.usefixtures("graphs")
def test_a_phase_is_traced_once_for_each_number_of_images(tmp_path, monkeypatch):
    """Whatever `jit_compile` says, and also on JAX, where Keras takes it for a choice between XLA and no graph."""
    monkeypatch.setattr(Noting, "calls", 0)
    model = keras.Sequential([keras.Input((2,)), Noting(), keras.layers.Dense(1, "sigmoid", name="head")])
    batches = tf.data.Dataset.from_tensor_slices((np.ones((7, 2), "float32"), np.ones((7, 1), "float32"))).batch(2)
    calls = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(Noting.calls))
    seen = []
    fit_batches(tmp_path, model, batches, calls, phases=[Phase(epochs=5, learning_rate=0.1, trainable="all")])
    assert seen[1:] == seen[:1] * 4  # four batches in each of five epochs
    assert seen[0] <= 5  # to build, for two images, and for the last one alone


def test_rate_falls_no_further_than_its_minimum(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(MCC, "on_epoch_end", lambda self, epoch, logs: logs.update(val_mcc=0.0))
    (plateau,) = classifier(plateau={"patience": 1, "factor": 0.1, "minimum": 1e-6}).callbacks(Run(tmp_path))
    phases = [Phase(epochs=7, learning_rate=1e-4, trainable="all")]
    history, _ = fit(tmp_path, small_network(), callbacks=[plateau], phases=phases)
    assert history["learning_rate"].tolist() == pytest.approx([1e-4] * 2 + [1e-5] + [1e-6] * 4)


SCORES = [0.5, 0.4, 0.3, 0.2, 0.6, 0.6, 0.5, np.nan, 0.7, 0.8]


@pytest.mark.parametrize("stopped_after", [None, 5, 7, 8])
def test_training_ends_where_the_last_phase_does_not_improve(stopped_after, tmp_path, monkeypatch):
    """The first phase runs on though it only falls; in the second .6 is the best, and three epochs pass after it.

    Stopped anywhere before, also between its last epoch and its end, a resumed training ends there as well.
    """
    monkeypatch.setattr(MCC, "on_epoch_end", lambda self, epoch, logs: logs.update(val_mcc=SCORES[epoch], val_loss=1.0))
    phases = [
        Phase(epochs=3, learning_rate=1e-3, trainable="head"),
        Phase(epochs=7, learning_rate=1e-4, trainable="all"),
    ]

    def stop(epoch, logs):
        if epoch + 1 == stopped_after:
            raise KeyboardInterrupt

    if stopped_after:
        watch = keras.callbacks.LambdaCallback(on_epoch_end=stop)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, small_network(), watch, phases=phases, stop_after=3)
    history, shown = fit(tmp_path, small_network(), phases=phases, stop_after=3)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert shown == list(range(stopped_after or 0, 8))


class Watcher(keras.callbacks.Callback):
    """Writes down what it is told at the ends of epochs."""

    def __init__(self, stop=None):
        super().__init__()
        self.ends, self.models, self.params_seen, self._stop = {}, set(), [], stop

    def on_epoch_end(self, epoch, logs=None):
        self.ends[epoch + 1] = dict(logs)
        self.models.add(self.model)
        self.params_seen.append(self.params)
        if epoch + 1 == self._stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stopped_after", [3, 7])
def test_watcher_is_told_the_last_epoch_again_with_model_and_logs(stopped_after, tmp_path):
    first, second, model = Watcher(stopped_after), Watcher(), small_network()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, small_network(), first)
    fit(tmp_path, model, second)
    assert sorted(second.ends) == list(range(stopped_after, 8))
    told = second.ends[stopped_after]
    assert {name: told[name] for name in first.ends[stopped_after]} == first.ends[stopped_after]
    assert second.models == {model}
    assert [params["steps"] for params in first.params_seen] == [STEPS] * stopped_after


@pytest.mark.parametrize("what", ["an image", "the last step"])
def test_training_that_diverges_keeps_the_good_epochs(what, tmp_path, monkeypatch):
    """In its fourth epoch: an image that is no number, or a step whose gradients overflow behind a finite loss."""
    saved, phases = [], [Phase(epochs=6, learning_rate=1e-3, trainable="all")]
    monkeypatch.setattr(MCC, "on_epoch_end", lambda self, epoch, logs: logs.update(val_mcc=float(epoch), val_loss=1.0))
    model = small_network()

    def spoil(epoch, logs=None):
        if epoch == 3:
            weights = model.get_weights()
            weights[-1 if what == "the last step" else 0][:] = np.nan
            model.set_weights(weights)

    if what == "the last step":
        monkeypatch.setattr(MCC, "on_epoch_end", lambda self, n, logs: (spoil(n), logs.update(val_mcc=1.0 * n)))
        watch = []
    else:
        watch = [keras.callbacks.LambdaCallback(on_epoch_begin=spoil)]
    expected = rf"{tmp_path}: the training diverged in epoch 4, .*kept are the epochs up to 3"
    with pytest.raises(DivergedError, match=expected):
        fit(tmp_path, model, *watch, phases=phases, save=lambda model, logs: saved.append(logs["val_mcc"]))
    assert saved == [0.0, 1.0, 2.0]
    with np.load(tmp_path / "checkpoint.npz") as checkpoint:
        arrays = [checkpoint[name] for name in checkpoint.files if name != "state"]
    assert all(np.isfinite(values).all() for values in arrays)
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1, 2, 3]
    monkeypatch.undo()
    history, shown = fit(tmp_path, small_network(), phases=phases)
    assert shown == [3, 4, 5]
    assert np.isfinite(history["loss"]).all()


def test_loss_without_a_number_ends_before_the_scores_of_one_class(tmp_path, monkeypatch):
    """An AUC of one class is NaN, and no reason to stop."""
    monkeypatch.setattr(
        MCC, "on_epoch_end", lambda self, epoch, logs: logs.update(val_mcc=0.0, val_loss=1.0, val_auc=np.nan)
    )
    history, _ = fit(tmp_path, small_network())
    assert len(history) == 7


class Recorder(keras.callbacks.Callback):
    """An ordinary Keras callback: counts each hook, and notes what it is told about the training."""

    def __init__(self):
        super().__init__()
        self.counts, self.told, self.order = Counter(), [], []

    def _count(self, name, *_):
        self.counts[name] += 1
        self.order.append(name)
        if name in ("on_train_begin", "on_epoch_begin", "on_train_batch_begin"):
            self.told.append((name, self.params["steps"], self.params["epochs"]))


HOOKS = [
    f"on_{part}_{end}"
    for part in ("train", "test", "predict", "epoch", "train_batch", "test_batch", "predict_batch")
    for end in ("begin", "end")
]
for hook in HOOKS:
    setattr(Recorder, hook, lambda self, *arguments, hook=hook, **_: self._count(hook))

# Batches of each epoch: two epochs in the first phase, three in the second.
LENGTHS = [3, 5, 2, 7, 4]
LENGTH_PHASES = [
    Phase(epochs=2, learning_rate=1e-2, trainable="head"),
    Phase(epochs=3, learning_rate=1e-3, trainable="all"),
]


def batches_of(length):
    images, labels = np.zeros((2 * length, 32, 32, 1), np.uint8), np.zeros((2 * length, 1), np.float32)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)


def test_any_keras_callback_gets_every_hook_and_the_right_params(tmp_path):
    recorder, validation = Recorder(), batches_of(6)
    objective = Objective(keras.losses.BinaryCrossentropy(), "val_loss", validation=validation)
    engine = Engine(
        small_network(), Schedule(LENGTH_PHASES), objective, Run(tmp_path), keep_nothing, observers=[recorder]
    )
    engine.fit(lambda number: batches_of(LENGTHS[number]))
    expected = {"on_train": 2, "on_epoch": 5, "on_train_batch": sum(LENGTHS), "on_test": 5, "on_test_batch": 5 * 6}
    for name, count in expected.items():
        assert (recorder.counts[f"{name}_begin"], recorder.counts[f"{name}_end"]) == (count, count)
    begins, epochs = (
        [told[1:] for told in recorder.told if told[0] == name] for name in ("on_train_begin", "on_epoch_begin")
    )
    assert begins == [(3, 2), (2, 5)]
    assert epochs == [(3, 2), (5, 2), (2, 5), (7, 5), (4, 5)]
    phase = [name for name in recorder.order if name in ("on_train_begin", "on_epoch_begin", "on_train_end")]
    assert phase == [
        *["on_train_begin", "on_epoch_begin", "on_epoch_begin", "on_train_end"],
        *["on_train_begin", "on_epoch_begin", "on_epoch_begin", "on_epoch_begin", "on_train_end"],
    ]


def test_callback_that_asks_to_stop_ends_the_training(tmp_path):
    """Keras' EarlyStopping, whose patience of one epoch is over in the third epoch of the second phase."""
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, mode="max", min_delta=100)
    phases = [PHASES[0].model_copy(update={"epochs": 1}), PHASES[1], PHASES[1]]
    history = fit_batches(tmp_path, small_network(), batches_of(2), stopping, phases=phases)
    assert history["epoch"].tolist() == [1, 2, 3]


def test_phase_that_had_ended_is_ended_again_for_who_did_not_see_it(tmp_path):
    """Killed between the last epoch of a phase and the end of the phase."""
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, small_network(), Watcher(stop=2))
    recorder = Recorder()
    history, shown = fit(tmp_path, small_network(), recorder)
    assert shown == [2, 3, 4, 5, 6]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert recorder.counts["on_train_begin"] == recorder.counts["on_train_end"] == 2
    assert recorder.order[:3] == ["on_train_begin", "on_epoch_end", "on_train_end"]
