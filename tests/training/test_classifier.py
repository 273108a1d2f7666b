"""Runs of a small classifier on generated data: what each setting shows the network, and what is kept."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from pneumoseg.data import loaders
from pneumoseg.data.sampling import UNCHANGED
from pneumoseg.models.bundle import load_bundle
from pneumoseg.training import classifier
from pneumoseg.training.classifier import train_classifier
from pneumoseg.training.cross_validation import cross_validate_classifier

PAPER = {"techniques": ["clahe", "optical_distortion", "zoom_in", "zoom_out"], "zoom": [0.05, 0.1]}


@pytest.fixture
def shown(monkeypatch):
    """The epochs that the training batches are made of, with the augmentations."""
    epochs = []
    batches = loaders.Examples.batches

    def noted(self, batch_size, epoch=None, augmentations=()):
        if epoch is not None:
            epochs.append((epoch, augmentations))
        return batches(self, batch_size, epoch, augmentations)

    monkeypatch.setattr(loaders.Examples, "batches", noted)
    return epochs


def test_what_is_kept_belongs_to_the_best_epoch(settings_of, manifest, tmp_path):
    run = tmp_path / "run"
    metrics = train_classifier(settings_of(augmentation=PAPER | {"probability": 0.5}), manifest, run, tmp_path)
    history = pd.read_csv(run / "history.csv")
    assert metrics["best_epoch"] == history["val_mcc"].argmax() + 1
    bundle = load_bundle(run / "best")
    assert bundle.thresholds["probability"] == metrics["val_best_threshold"]
    predictions = pd.read_csv(run / "predictions.csv")
    split = pd.read_csv(run / "split.csv")
    assert predictions["image_id"].tolist() == split.loc[split["side"] == "validation", "image_id"].tolist()
    truth = manifest.set_index("image_id")["has_pneumothorax"]
    assert predictions["has_pneumothorax"].tolist() == truth[predictions["image_id"]].tolist()
    for threshold, name in ((0.5, "val_mcc"), (metrics["val_best_threshold"], "val_best_mcc")):
        correlation = matthews_corrcoef(predictions["has_pneumothorax"], predictions["probability"] > threshold)
        assert correlation == pytest.approx(metrics[name])
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert not (run / "checkpoint.npz").exists()


def test_augmentation_changes_training_images_alone(settings_of, manifest, tmp_path, shown):
    train_classifier(settings_of(augmentation=PAPER | {"probability": 0.5}), manifest, tmp_path / "run", tmp_path)
    assert len(shown) == 3
    for epoch, augmentations in shown:
        assert (epoch.techniques == 0).all()
        assert (augmentations[0].techniques, augmentations[0].probability) == (tuple(PAPER["techniques"]), 0.5)
        assert augmentations[0].zoom == (0.05, 0.1)
        assert sorted(epoch.rows) == list(range(20))


def test_enrichment_balances_the_training_side_alone(settings_of, manifest, tmp_path, shown):
    train_classifier(settings_of(enrichment=PAPER), manifest, tmp_path / "run", tmp_path)
    split = pd.read_csv(tmp_path / "run/split.csv")
    training = split.loc[split["side"] == "training", "image_id"]
    labels = manifest.set_index("image_id")["has_pneumothorax"][training].to_numpy()
    for epoch, augmentations in shown:
        assert [a.techniques for a in augmentations] == [(name,) for name in PAPER["techniques"]]
        assert all(a.probability == 1 for a in augmentations)
        positive = labels[epoch.rows]
        assert positive.sum() == (~positive).sum() == (~labels).sum()
        assert positive[epoch.techniques != UNCHANGED].all()
    assert len({tuple(sorted(zip(e.rows, e.techniques, e.seeds, strict=True))) for e, _ in shown}) == 1
    copies = pd.read_csv(tmp_path / "run/enrichment.csv")
    assert len(copies) == (~labels).sum() - labels.sum()
    assert set(copies["image_id"]) <= set(training[labels])
    assert set(copies["technique"]) <= set(PAPER["techniques"])


def test_share_of_positives_slides_over_all_phases(settings_of, manifest, tmp_path, shown):
    settings = settings_of(positive_share={"first": 0.8, "last": 0.4})
    train_classifier(settings, manifest, tmp_path / "run", tmp_path)
    split = pd.read_csv(tmp_path / "run/split.csv")
    training = split.loc[split["side"] == "training", "image_id"]
    labels = manifest.set_index("image_id")["has_pneumothorax"][training].to_numpy()
    positives = labels.sum()
    shares = [labels[epoch.rows].mean() for epoch, _ in shown]
    assert shares == pytest.approx([positives / (positives + round(positives * n)) for n in (0.25, 4 / 6, 1.5)])


def test_class_weights_and_loss_reach_the_training(settings_of, manifest, tmp_path, monkeypatch):
    seen = []

    def fit(model, phases, epoch_batches, loss, *_, class_weights, **__):
        seen.append((loss, class_weights))
        raise KeyboardInterrupt

    monkeypatch.setattr(classifier, "fit_phases", fit)
    for number, changes in enumerate(
        [
            {},
            {"class_weights": "balanced"},
            {"class_weights": {"negative": 1.0, "positive": 4.5}},
            {"loss": {"kind": "focal", "alpha": 0.3, "gamma": 1.5}},
        ]
    ):
        with pytest.raises(KeyboardInterrupt):
            train_classifier(settings_of(**changes), manifest, tmp_path / str(number), tmp_path)
    assert [weights for _, weights in seen] == [
        None,
        {0: pytest.approx(20 / (2 * 15)), 1: pytest.approx(20 / (2 * 5))},
        {0: 1.0, 1: 4.5},
        None,
    ]
    assert isinstance(seen[0][0], keras.losses.BinaryCrossentropy)
    assert (seen[3][0].alpha, seen[3][0].gamma) == (0.3, 1.5)


def test_class_weight_scales_the_gradient():
    """Keras itself must weigh labels of shape (batch, 1) that come from a data set."""
    import tensorflow as tf

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation="sigmoid")])
    model.layers[0].set_weights([np.zeros((1, 1)), np.zeros(1)])
    model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy")
    data = tf.data.Dataset.from_tensor_slices(([[0.0], [0.0]], [[1.0], [0.0]])).batch(2)
    model.fit(data, class_weight={0: 1.0, 1: 3.0}, verbose=0)
    assert float(model.layers[0].bias[0]) == pytest.approx((3 * 0.5 - 1 * 0.5) / 2)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_with_plateau_and_gives_an_ordinary_bundle(settings_of, manifest, tmp_path, precision):
    settings = settings_of(precision=precision, plateau={"patience": 1, "factor": 0.5})
    train_classifier(settings, manifest, tmp_path / "run", tmp_path)
    assert keras.config.dtype_policy().name == "float32"
    history = pd.read_csv(tmp_path / "run/history.csv")
    assert history["loss"].notna().all()
    bundle = load_bundle(tmp_path / "run/best")
    assert {weights.dtype for weights in bundle.model.weights} == {"float32"}


def test_stopped_run_is_neither_overwritten_nor_mixed(settings_of, manifest, tmp_path):
    run, changed = tmp_path / "run", settings_of(seed=5)

    def stop(folder):
        def end(epoch, logs):
            raise KeyboardInterrupt

        return keras.callbacks.LambdaCallback(on_epoch_end=end)

    with pytest.raises(KeyboardInterrupt):
        train_classifier(settings_of(), manifest, run, tmp_path, watch=stop)
    with pytest.raises(FileExistsError, match="holds a stopped run: go on with --resume"):
        train_classifier(settings_of(), manifest, run, tmp_path)
    with pytest.raises(ValueError, match=r"its settings\.yaml says otherwise"):
        train_classifier(changed, manifest, run, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"its split\.csv says otherwise"):
        train_classifier(settings_of(), manifest.iloc[:-1], run, tmp_path, resume=True)
    (run / ".checkpoint.npz.123").write_bytes(b"half")
    (run / ".best.abc.tmp").mkdir()
    train_classifier(settings_of(), manifest, run, tmp_path, resume=True)
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
    assert pd.read_csv(run / "history.csv")["epoch"].tolist() == [1, 2, 3]


def test_each_image_is_predicted_by_the_network_that_did_not_see_it(settings_of, manifest, tmp_path):
    settings = settings_of(cross_validate=True)
    metrics = cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path)
    table = pd.read_csv(tmp_path / "run/predictions.csv")
    assert sorted(table["image_id"]) == manifest["image_id"].tolist()
    assert metrics["mcc"] == pytest.approx(matthews_corrcoef(table["has_pneumothorax"], table["probability"] > 0.5))
    assert len(metrics["folds"]) == 2
    for fold, rows in table.groupby("fold"):
        split = pd.read_csv(tmp_path / f"run/fold_{fold}/split.csv")
        assert set(rows["image_id"]) == set(split.loc[split["side"] == "validation", "image_id"])
    with pytest.raises(FileExistsError, match="finished run"):
        cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path, resume=True)


def test_finished_folds_are_kept_when_resumed(settings_of, manifest, tmp_path, monkeypatch):
    settings, trained = settings_of(cross_validate=True), []

    def interrupted(*arguments, **options):
        trained.append(arguments[3].name)
        if trained == ["fold_1", "fold_2"]:
            raise KeyboardInterrupt
        return classifier.train_split(*arguments, **options)

    monkeypatch.setattr("pneumoseg.training.cross_validation.train_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path)
    with pytest.raises(ValueError, match=r"fold_1 cannot go on, its settings\.yaml"):
        cross_validate_classifier(
            settings_of(cross_validate=True, seed=9), manifest, tmp_path / "run", tmp_path, resume=True
        )
    cross_validate_classifier(settings, manifest, tmp_path / "run", tmp_path, resume=True)
    assert trained == ["fold_1", "fold_2", "fold_2"]
