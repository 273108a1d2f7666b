"""Runs of a small segmenter on generated data: schedule, averages, resume, windows chosen afterwards."""

import json
import logging
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from pneumoseg.callbacks.epoch_weights import load_epoch_weights
from pneumoseg.config import load_experiment
from pneumoseg.data import loaders
from pneumoseg.data.splits import stratified_split
from pneumoseg.models.batch_statistics import recompute_batch_statistics
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.bundle_spec import DataSplit, read_bundle_spec
from pneumoseg.models.freezing import flat_layers
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.training.averaging import average_epochs, chosen_window, worse_average
from pneumoseg.training.run import Run
from pneumoseg.training.schedule import learning_rates
from pneumoseg.training.train import cross_validate, train
from tests.training.conftest import SHORT, ids

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly. option is set"),
]
PLAIN = {"swa": None, "epoch_weights_gigabytes": 0.0}


class Noted(keras.callbacks.Callback):
    """What learns and the weights at the end of each epoch, and the learning rate of each step."""

    def __init__(self):
        super().__init__()
        self.learning, self.weights, self.rates = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        self.learning.append([layer.name for layer in flat_layers(self.model) if layer.trainable_weights])
        self.weights.append(self.model.get_weights())


class Messages(logging.Handler):
    """What is logged."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture(scope="module")
def trained(eager, segmenter, manifest, tmp_path_factory):
    """A finished run, only to be read: its metrics, what was noted, its folder, and what was logged."""
    folder, noted, messages = tmp_path_factory.mktemp("trained"), Noted(), Messages()
    logger = logging.getLogger("pneumoseg")
    level = logger.level
    logger.addHandler(messages)
    logger.setLevel("INFO")
    metrics = train(segmenter(), manifest, Run(folder / "run", folder), make_callback=lambda run: noted)
    logger.setLevel(level)
    logger.removeHandler(messages)
    return metrics, noted, folder / "run", messages.texts


def splits(manifest, run, cache):
    for split in ("train", "val"):
        rows = manifest[manifest["image_id"].isin(ids(run, split))]
        yield loaders.segmentation_examples(rows, 32, cache_dir=cache).batches(8)


def test_average_is_that_of_the_window_with_statistics_of_the_training_images(trained, manifest, tmp_path):
    metrics, noted, run, _ = trained
    training, validation = splits(manifest, run, tmp_path)
    expected = build_segmenter("unet", "compact", 32, weights=None)
    expected.set_weights([np.mean(values, axis=0) for values in zip(*noted.weights[1:4], strict=True)])
    before = expected.predict(validation, verbose=0)
    recompute_batch_statistics(expected, training)
    bundle = load_bundle(run / "swa")
    for values, wanted in zip(bundle.model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)
    masks = np.concatenate([masks for _, masks in validation]).astype(bool)
    for name, predicted in (
        ("swa_val_iou", expected.predict(validation, verbose=0)),
        ("swa_averaged_statistics_val_iou", before),
    ):
        ious = []
        for mask, drawn in zip(masks, predicted > 0.5, strict=True):
            union = (mask | drawn).sum()
            ious.append((mask & drawn).sum() / union if union else 1.0)
        assert metrics[name] == pytest.approx(np.mean(ious), abs=1e-3)


def test_half_is_frozen_then_nothing(trained):
    noted = trained[1]
    names = [layer.name for layer in flat_layers(build_segmenter("unet", "compact", 32, weights=None)) if layer.weights]
    assert len(names) == 19  # nine convolutions, their normalizations, and the last convolution
    assert [len(learning) for learning in noted.learning] == [10, 19, 19, 19, 19]


def test_frozen_half_of_the_papers_architecture_layer_by_layer():
    from pneumoseg.models.freezing import set_trainable

    model = build_segmenter("fpn", "resnet18", 64, weights=None)
    learning = [layer for layer in flat_layers(model) if layer.trainable_weights]
    set_trainable(model, "second_half")
    half = len(learning) // 2
    for number, layer in enumerate(learning):
        assert layer.trainable == (number >= half), layer.name
    set_trainable(model, "all")
    assert all(layer.trainable for layer in learning)


def test_rates_follow_the_cosine_from_the_second_phase_on(trained, segmenter):
    history = pd.read_csv(trained[2] / "history.csv")
    half = 0.002 * (1 + math.cos(math.pi / 2)) / 2
    assert history["learning_rate"].tolist() == pytest.approx([0.01, 0.002, half, 0.002, half])
    planned = learning_rates(segmenter().settings.phases, points=4)
    assert planned["epoch"].tolist() == [n / 4 for n in range(20)]
    assert planned["learning_rate"].tolist()[:5] == pytest.approx([0.01] * 4 + [0.002])
    assert planned["learning_rate"][9] == pytest.approx(0.002 * (1 + math.cos(math.pi * 1.25 / 2)) / 2)


def test_each_step_of_a_run_has_its_own_rate(trained):
    half = [0.002 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)]  # two epochs of two steps a cycle
    assert trained[1].rates == pytest.approx([0.01] * 2 + half * 2)


def test_bundles_name_the_images_of_their_training(trained):
    run = trained[2]
    images = DataSplit(ids(run, "train"), ids(run, "val"))
    assert (len(images.training), len(images.validation)) == (10, 8)  # as many negatives as positives
    assert read_bundle_spec(run / "best").images == read_bundle_spec(run / "swa").images == images
    assert Run(run).deployable() == [run / "swa"]


def test_window_chosen_afterwards(trained, manifest, tmp_path):
    metrics, noted, _, _ = trained
    shutil.copytree(trained[2], tmp_path / "run")
    run = Run(tmp_path / "run")
    again = average_epochs(run, "2-4", manifest)
    for name in ("val_iou", "val_f1", "val_f2", "val_pooled_iou"):
        assert again[name] == pytest.approx(metrics[f"swa_{name}"], abs=5e-3)  # half precision on the disk
    assert json.loads((run.folder / "swa_2-4.json").read_text()) == again
    assert run.later_averages() == [again]
    assert load_bundle(run.folder / "swa_2-4").images == read_bundle_spec(run.best).images
    best = average_epochs(run, "best:2", manifest, tmp_path / "best_two")
    ious = pd.read_csv(run.folder / "history.csv")["val_iou"]
    means = [(ious[n] + ious[n + 1]) / 2 for n in range(4)]
    assert best["start_epoch"] == int(np.argmax(means)) + 1
    assert best["end_epoch"] == best["start_epoch"] + 1
    kept = load_epoch_weights(run.folder / "epochs", 3)
    for values, expected in zip(kept, noted.weights[2], strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="is the run's own"):
        average_epochs(run, "2-4", manifest, run.best)
    (run.folder / "epochs" / f"epoch_{best['end_epoch']:03}.npz").unlink()
    assert average_epochs(run, "best:2", manifest, tmp_path / "b")["end_epoch"] != best["end_epoch"]
    with pytest.raises(ValueError, match=r"images of .* are not in the manifest"):
        average_epochs(run, "1-1", manifest.iloc[::2])


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("13-16", (13, 16)),
        ("1-1", (1, 1)),
        ("best:1", (5, 5)),
        ("best:2", (4, 5)),
        ("best:3", (13, 15)),
        ("best:20", (1, 20)),
    ],
)
def test_windows(text, window):
    ious = [0.1] * 20
    ious[3:5] = [0.6, 0.9]  # epochs 4 and 5
    ious[12:16] = [0.7] * 4
    assert chosen_window(text, pd.DataFrame({"epoch": range(1, 21), "val_iou": ious})) == window


def test_first_of_equal_windows_and_no_number():
    history = pd.DataFrame({"epoch": [1, 2, 3, 4], "val_iou": [0.5, 0.5, 0.5, np.nan]})
    assert chosen_window("best:2", history) == (1, 2)
    with pytest.raises(ValueError, match="within 4 epochs that were kept"):
        chosen_window("best:4", history)


@pytest.mark.parametrize("text", ["0-3", "3-2", "18-21", "best:0", "best:21", "best", "13", "a-b", ""])
def test_what_is_no_window(text):
    with pytest.raises(ValueError, match="expected a window such as 13-16, or best:4, within 20 epochs"):
        chosen_window(text, pd.DataFrame({"epoch": range(1, 21), "val_iou": 0.5}))


def stopped(task, manifest, run, epoch):
    """Stop a training after an epoch and go on with it; returns the weights of both bundles."""

    def stop(number, logs):
        if number + 1 == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(task, manifest, Run(run), make_callback=lambda _: keras.callbacks.LambdaCallback(on_epoch_end=stop))
    (run / "epochs/.epoch_003.npz.12345").write_bytes(b"half")
    train(task, manifest, Run(run, resume=True))
    assert not list((run / "epochs").glob(".*"))


def assert_same_bundles(one, other):
    for name in ("best", "swa"):
        first, second = (load_bundle(run / name).model.get_weights() for run in (one, other))
        for values, same in zip(first, second, strict=True):
            np.testing.assert_allclose(values, same, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("epoch", [3, 5])  # in the middle of the window, and after the last epoch
def test_stopped_training_goes_on_with_its_sums(epoch, trained, segmenter, manifest, tmp_path):
    stopped(segmenter(), manifest, tmp_path / "broken", epoch)
    assert_same_bundles(trained[2], tmp_path / "broken")


def test_average_of_a_frozen_half_is_the_same_after_a_stop(segmenter, manifest, tmp_path):
    """Stopped after the last epoch: nothing but the settings tells which statistics must stay."""
    phases = [{"epochs": 2, "learning_rate": 0.002, "trainable": "second_half"}]
    task = segmenter(phases=phases, swa={"start_epoch": 1, "end_epoch": 2})
    train(task, manifest, Run(tmp_path / "whole"))
    stopped(task, manifest, tmp_path / "broken", 2)
    assert_same_bundles(tmp_path / "whole", tmp_path / "broken")


def test_finished_run_is_left_and_one_without_epochs_is_told(segmenter, manifest, tmp_path, untrained):
    run, task = tmp_path / "run", segmenter(**PLAIN)
    metrics = train(task, manifest, Run(run))
    assert train(task, manifest, Run(run, resume=True)) == metrics
    for epochs in ("2-3", "best:2"):
        with pytest.raises(ValueError, match="kept no epoch's weights: train it with epoch_weights_gigabytes"):
            average_epochs(Run(run), epochs, manifest)


def test_epochs_of_a_classifier_cannot_be_averaged(classifier, manifest, tmp_path, untrained):
    train(classifier(), manifest, Run(tmp_path / "run"))
    with pytest.raises(ValueError, match="run holds a classifier's run"):
        average_epochs(Run(tmp_path / "run"), "1-1", manifest)


def test_other_losses_fractions_augmentation_and_start(segmenter, manifest, tmp_path):
    alone = PLAIN | {"phases": [{"epochs": 1, "learning_rate": 1e-9, "trainable": "all"}]}
    loss = {"focal_weight": 4.0, "dice_weight": 1.0, "cross_entropy_weight": 3.0, "tversky_weight": 0.5}
    loss |= {"alpha": 0.25, "gamma": 2.0, "per_image": False}
    augmentation = {"transforms": ["elastic_transform", "grid_distortion"], "probability": 1.0, "zoom": [0.05, 0.1]}
    first = segmenter(
        **alone, loss=loss, augmentation=augmentation, negatives_per_positive=None,
        positive_fraction={"first": 0.8, "last": 0.4},
    )  # fmt: skip
    metrics = train(first, manifest, Run(tmp_path / "first"))
    assert metrics["training_images"] == 20  # all negatives to draw from
    assert np.isfinite(metrics["loss"])
    second = segmenter(**alone, start_from=str(tmp_path / "first/best"), image_size=64, seed=7)
    train(second, manifest, Run(tmp_path / "second"))
    one, other = (load_bundle(tmp_path / run / "best") for run in ("first", "second"))
    assert (one.arguments["image_size"], other.arguments["image_size"]) == (32, 64)
    for name, values, same in zip(
        [w.path for w in one.model.weights], one.model.get_weights(), other.model.get_weights(), strict=True
    ):
        if "moving" not in name:
            np.testing.assert_allclose(values, same, atol=1e-6)


class Machine(keras.callbacks.Callback):
    """What computes at the end of each epoch: XLA, the policy, batches a step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        adam = getattr(optimizer, "inner_optimizer", optimizer)
        self.seen.append((self.model.jit_compile, self.model.dtype_policy.name, adam.gradient_accumulation_steps))


@pytest.mark.usefixtures("gpu_listed")
@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_settings_of_the_machine_reach_the_training(segmenter, manifest, tmp_path, caplog, precision):
    changes = {"precision": precision, "gradient_accumulation_steps": 2, "decoded_images_gigabytes": 0.0}
    changes |= {"phases": [{"epochs": 2, "learning_rate": 0.002, "trainable": "all"}]}
    changes |= {"swa": {"start_epoch": 1, "end_epoch": 2}}
    machine, run = Machine(), tmp_path / "run"
    with caplog.at_level("INFO", "pneumoseg"):
        metrics = train(segmenter(**changes), manifest, Run(run), make_callback=lambda _: machine)
    assert keras.config.dtype_policy().name == "float32"
    xla = keras.backend.backend() == "jax"  # where it is no choice
    assert machine.seen == [(xla, precision, 2)] * 2
    assert machine.model.jit_compile is xla  # compiled again to score the average
    said = [record.getMessage() for record in caplog.records]
    (device,) = [line for line in said if line.startswith("Device: ")]
    assert device.endswith(f"{precision}, jit {'on' if xla else 'off'}")
    assert sum("decoded again each epoch" in line for line in said) == 2
    history = pd.read_csv(run / "history.csv")
    assert history[["loss", "val_loss", "val_iou"]].notna().all(axis=None)
    environment = json.loads((run / "environment.json").read_text())
    assert (environment["precision"], environment["jit_compile"], environment["tf32"]) == (precision, xla, False)
    again = average_epochs(Run(run), "1-2", manifest)
    # The window's bundle computes in float32, and its weights were kept in half precision.
    assert again["val_iou"] == pytest.approx(metrics["swa_val_iou"], abs=0.02)
    for name in ("best", "swa", "swa_1-2"):
        model = load_bundle(run / name).model
        assert {weights.dtype for weights in model.weights} == {"float32"}
        assert all(np.isfinite(weights).all() for weights in model.get_weights())
        assert {layer.compute_dtype for layer in flat_layers(model)} == {"float32"}


@pytest.mark.usefixtures("graphs")
def test_xla_where_it_is_asked_for(segmenter, manifest, tmp_path):
    machine, task = Machine(), segmenter(
        **SHORT, jit_compile=True, swa={"start_epoch": 1, "end_epoch": 1},
        batch_size=10,  # one batch: XLA compiles for each number of images
    )  # fmt: skip
    train(task, manifest, Run(tmp_path / "run"), make_callback=lambda _: machine)
    assert machine.seen == [(True, "float32", None)]
    assert machine.model.jit_compile is True
    assert json.loads((tmp_path / "run/environment.json").read_text())["jit_compile"] is True
    assert load_bundle(tmp_path / "run/swa").model.jit_compile is (keras.backend.backend() == "jax")


@pytest.fixture
def first(segmenter, manifest, tmp_path, untrained):
    """A finished run to start from, with all negatives."""
    train(segmenter(**PLAIN, negatives_per_positive=None), manifest, Run(tmp_path / "first"))
    return tmp_path / "first"


@pytest.fixture
def labels(manifest):
    """The manifest, with 13 images that have a label alone, four of them positive."""
    chosen = manifest.index[manifest["has_pneumothorax"]][:4].union(manifest.index[~manifest["has_pneumothorax"]][:9])
    rle = manifest["rle"].mask(manifest.index.isin(chosen), "")
    return manifest.assign(rle=rle)


def test_labels_alone_are_left_out_after_the_split(labels, segmenter, manifest, tmp_path, untrained, caplog):
    """A classifier with the same split keeps the same images out; negatives are drawn from those with masks."""
    known = set(labels.loc[labels["rle"] != "", "image_id"])
    whole, few = Run(tmp_path / "whole"), Run(tmp_path / "few")
    train(segmenter(**PLAIN, negatives_per_positive=None), manifest, whole)
    with caplog.at_level("INFO", "pneumoseg"):
        metrics = train(segmenter(**PLAIN, negatives_per_positive=None), labels, few)
    told = [text for text in caplog.messages if "left out" in text]
    assert told == ["13 of 40 images left out of the training of a segmenter: they have a label and no mask"]
    for split in ("train", "val"):
        assert ids(few.folder, split) == [name for name in ids(whole.folder, split) if name in known]
    images = read_bundle_spec(few.best).images
    assert images == DataSplit(ids(few.folder, "train"), ids(few.folder, "val"))
    assert metrics["training_images"] + metrics["validation_images"] == 27
    drawn = segmenter(negatives_per_positive=1.0).choose_images(labels)
    assert set(drawn["image_id"]) < known
    assert drawn["has_pneumothorax"].sum() == 5
    assert len(drawn) == 10


def test_folds_leave_out_labels_alone_and_tell_it_once(labels, segmenter, tmp_path, untrained, caplog):
    task = segmenter(**PLAIN, cross_validate=True, negatives_per_positive=None)
    with caplog.at_level("INFO", "pneumoseg"):
        cross_validate(task, labels, Run(tmp_path / "folds"))
    assert sum("13 of 40 images left out" in text for text in caplog.messages) == 1
    validated = [name for fold in (1, 2) for name in ids(tmp_path / f"folds/fold_{fold}", "val")]
    assert sorted(validated) == labels.loc[labels["rle"] != "", "image_id"].tolist()


def test_no_mask_and_no_positive_mask_are_refused_before_anything_is_made(manifest, segmenter, tmp_path):
    run = Run(tmp_path / "run")
    for start, task in ((train, segmenter()), (cross_validate, segmenter(cross_validate=True))):
        with pytest.raises(ValueError, match="no masks for the training of a segmenter: all 40 images have a label"):
            start(task, manifest.assign(rle=""), run)
    positive = manifest.assign(rle=manifest["rle"].mask(manifest["has_pneumothorax"], ""))
    with pytest.raises(ValueError, match=r"none of the 1[56] images with a mask in a split of 20 images is positive"):
        train(segmenter(), positive, run)
    assert not run.folder.exists()


def test_start_that_was_trained_on_what_is_validated_on_is_refused(first, segmenter, manifest, tmp_path):
    """Another seed of the split moves images over; those that the first run validated on are no leak."""
    second, before = tmp_path / "second", ids(first, "train")
    other = {"validation_fraction": 0.5, "seed": 1, "group_by_patient": False}
    _, kept_out = stratified_split(manifest, 0.5, seed=1, group_by_patient=False)
    leaked = [name for name in kept_out["image_id"] if name in set(before)]
    assert 0 < len(leaked) < len(before)
    message = rf"first/best was trained on {len(leaked)} of the 20 images .*, the first: {leaked[0]}: .*the same split"
    start = segmenter(**PLAIN, start_from=str(first / "best"), split=other)
    with pytest.raises(ValueError, match=message):
        train(start, manifest, Run(second))
    assert not second.exists()
    folds = segmenter(**PLAIN, start_from=str(first / "best"), cross_validate=True)
    with pytest.raises(ValueError, match="was trained on"):
        cross_validate(folds, manifest, Run(second))
    assert not second.exists()  # no fold is trained before another is refused


def test_bundle_names_all_images_that_its_start_was_trained_on(first, segmenter, manifest, tmp_path):
    """All negatives at first, then half as many: those of the first run stay named, also two runs later."""
    before, start = set(ids(first, "train")), first / "best"
    for number in (2, 3):
        run = tmp_path / str(number)
        train(segmenter(**PLAIN, start_from=str(start), seed=number), manifest, Run(run))
        assert set(ids(run, "train")) < before
        assert read_bundle_spec(run / "best").images == DataSplit(before, ids(run, "val"))
        start = run / "best"
    other = {"validation_fraction": 0.5, "seed": 1, "group_by_patient": False}
    leaking = segmenter(**PLAIN, start_from=str(start), split=other)
    with pytest.raises(ValueError, match=r"3/best was trained on \d+ of the 20"):
        train(leaking, manifest, Run(tmp_path / "4"))


def test_copied_start_is_checked_as_well(first, segmenter, manifest, tmp_path):
    shutil.copytree(first / "best", tmp_path / "elsewhere/bundle")
    other = {"validation_fraction": 0.5, "seed": 1, "group_by_patient": False}
    start = segmenter(**PLAIN, start_from=str(tmp_path / "elsewhere/bundle"), split=other)
    with pytest.raises(ValueError, match=r"elsewhere/bundle was trained on \d+ of the 20"):
        train(start, manifest, Run(tmp_path / "second"))


def test_start_that_names_no_images_is_refused(segmenter, manifest, tmp_path):
    model = build_segmenter("unet", "compact", 32, weights=None)
    save_bundle(tmp_path / "b", model, "segmenter", {"architecture": "unet", "backbone": "compact", "image_size": 32})
    start = segmenter(**PLAIN, start_from=str(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"does not say which images .* the 20 images kept out .*save_bundle"):
        train(start, manifest, Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_shipped_start_passes_its_own_check():
    before, now = (load_experiment(EXPERIMENTS / f"segmenter_{name}.yaml") for name in ("window_swa", "1024"))
    assert (before.split, before.seed, before.negatives_per_positive) == (
        now.split,
        now.seed,
        now.negatives_per_positive,
    )


@pytest.mark.parametrize(("average", "worse"), [(0.41, True), (0.42, False)])
@pytest.mark.parametrize("name", ["swa", "swa_2-4"])
def test_average_below_the_best_epoch_is_told(name, average, worse, tmp_path):
    run = tmp_path / "run"
    (run / name).mkdir(parents=True)
    kept = {"val_iou": 0.42}
    if name == "swa":
        kept["swa_val_iou"] = average
    else:
        (run / f"{name}.json").write_text(json.dumps({"val_iou": average}))
    (run / "metrics.json").write_text(json.dumps(kept))
    text = worse_average(run / name)
    assert (text is not None) == worse
    if text:
        assert "0.4100, below the best epoch's 0.4200" in text
        assert "train with epoch_weights_gigabytes above 0" in text
        (run / "epochs").mkdir()
        assert f"try `pneumoseg swa {run} --epochs best:4" in worse_average(run / name)
    assert worse_average(run / "best") is None
    assert worse_average(tmp_path / "copied") is None


def test_both_scores_are_told_when_a_training_ends(trained):
    metrics, _, _, texts = trained
    said = f"{metrics['swa_val_iou']:.4f} for the average of 3 epochs, {metrics['val_iou']:.4f} for the best epoch"
    assert any(said in text for text in texts)
    warned = any("below the best epoch's" in text for text in texts)
    assert warned == (metrics["swa_val_iou"] < metrics["val_iou"])
