"""Runs of a small classifier on generated data: what each setting shows the network, and what is kept."""

import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from pneumoseg.callbacks.mcc import MCC
from pneumoseg.data import loaders
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.dicom import read_image
from pneumoseg.geometry import letterbox_image
from pneumoseg.models.bundle import load_bundle
from pneumoseg.models.bundle_spec import read_bundle_spec
from pneumoseg.training import train as training
from pneumoseg.training.run import Run
from pneumoseg.training.train import train
from tests.training.conftest import SHORT, ids

pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly. option is set"),
]
PAPER = {"transforms": ["clahe", "optical_distortion", "zoom_in", "zoom_out"], "zoom": [0.05, 0.1]}


def note_batches(patch):
    """Return a list that gets each epoch's plan, with the augmentations and the batches themselves."""
    epochs = []
    batches = loaders.Examples.batches

    def noted(self, batch_size, epoch=None, augmentations=()):
        made = batches(self, batch_size, epoch, augmentations)
        if epoch is not None:
            epochs.append((epoch, augmentations, made))
        return made

    patch.setattr(loaders.Examples, "batches", noted)
    return epochs


@pytest.fixture
def shown(monkeypatch):
    """Shows the batches of three epochs to nobody: the training ends before it begins."""
    epochs = note_batches(monkeypatch)

    class Asked:
        def __init__(self, *_, **__):
            pass

        def fit(self, epoch_batches):
            for number in range(3):
                epoch_batches(number)
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "Engine", Asked)
    return epochs


@pytest.fixture(scope="module")
def augmented(eager, classifier, manifest, tmp_path_factory):
    """A finished run with augmentation: its folder, its metrics, the batches of its epochs, and what was validated."""
    folder, validated, on_epoch_end = tmp_path_factory.mktemp("augmented"), [], MCC.on_epoch_end

    def noted(self, epoch, logs=None):
        validated.append(np.concatenate([images for images, _ in self._validation]))
        on_epoch_end(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patch:
        shown = note_batches(patch)
        patch.setattr(MCC, "on_epoch_end", noted)
        task = classifier(augmentation=PAPER | {"probability": 0.5})
        metrics = train(task, manifest, Run(folder / "run", folder))
    return folder / "run", metrics, shown, validated


def splits(manifest, run):
    """The images of each split as they are, by `read_image`, 32 x 32."""
    for split in ("train", "val"):
        rows = manifest[manifest["image_id"].isin(ids(run, split))]
        images = [letterbox_image(read_image(path)[..., None], 32).numpy() for path in rows["path"]]
        yield rows, images


def test_what_is_kept_belongs_to_the_best_epoch(augmented, manifest):
    run, metrics, _, _ = augmented
    history = pd.read_csv(run / "history.csv")
    assert metrics["best_epoch"] == history["val_mcc"].argmax() + 1
    bundle = load_bundle(run / "best")
    assert bundle.thresholds["probability"] == metrics["val_best_threshold"]
    predictions = pd.read_csv(run / "validation_predictions.csv")
    assert predictions["image_id"].tolist() == ids(run, "val")
    truth = manifest.set_index("image_id")["has_pneumothorax"]
    assert predictions["has_pneumothorax"].tolist() == truth[predictions["image_id"]].tolist()
    for threshold, name in ((0.5, "val_mcc"), (metrics["val_best_threshold"], "val_best_mcc")):
        correlation = matthews_corrcoef(predictions["has_pneumothorax"], predictions["probability"] > threshold)
        assert correlation == pytest.approx(metrics[name])
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert not (run / "checkpoint.npz").exists()


def test_bundle_names_the_images_of_its_training(augmented, manifest):
    run, _, _, _ = augmented
    images = read_bundle_spec(run / "best").images
    assert (images.training, images.validation) == (set(ids(run, "train")), set(ids(run, "val")))
    assert images.training | images.validation == set(manifest["image_id"])


def test_augmentation_changes_training_images_alone(augmented, manifest):
    run, _, shown, validated = augmented
    (training, images), (_, kept_out) = splits(manifest, run)
    assert len(shown) == len(validated) == 3
    for seen in validated:
        np.testing.assert_array_equal(seen, kept_out)
    unchanged = []
    for epoch, augmentations, batches in shown:
        assert (augmentations[0].transforms, augmentations[0].probability) == (tuple(PAPER["transforms"]), 0.5)
        assert augmentations[0].zoom == (0.05, 0.1)
        assert sorted(epoch.rows) == list(range(len(training)))
        drawn = [image for batch, _ in batches for image in batch.numpy()]
        for image, row, seed in zip(drawn, epoch.rows, epoch.seeds, strict=True):
            np.testing.assert_array_equal(image, augmentations[0](images[row], seed=seed)["image"])
            unchanged.append(np.array_equal(image, images[row]))
    assert 0 < sum(unchanged) < 0.25 * len(unchanged)  # one in sixteen is expected


def test_enrichment_copies_training_positives_alone(classifier, manifest, tmp_path, shown):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(classifier(enrichment=PAPER), manifest, Run(run))
    (training, images), (validation, kept_out) = splits(manifest, run)
    positive = training["has_pneumothorax"].to_numpy()
    listed = pd.read_csv(run / "enrichment.csv")
    assert not set(listed["image_id"]) & set(validation["image_id"])
    originals = training.assign(image=images).set_index("image_id")["image"]
    alone = {name: Augmentation([name], 1) for name in PAPER["transforms"]}
    copies = {
        alone[row.transform](originals[row.image_id], seed=row.seed)["image"].tobytes() for row in listed.itertuples()
    }
    assert len(copies) == len(listed) == (~positive).sum() - positive.sum()
    known, hidden = {image.tobytes() for image in images}, {image.tobytes() for image in kept_out}
    assert len(shown) == 3
    for _, _, batches in shown:
        examples = [pair for batch, labels in batches for pair in zip(batch.numpy(), labels.numpy()[:, 0], strict=True)]
        seen = {image.tobytes() for image, _ in examples}
        assert seen == known | copies  # the same copies each epoch
        assert not seen & hidden
        assert [label for _, label in examples].count(1) == [label for _, label in examples].count(0)
        assert all(label == 1 for image, label in examples if image.tobytes() in copies)


def test_fraction_of_positives_slides_over_all_phases(classifier, manifest, tmp_path, shown):
    with pytest.raises(KeyboardInterrupt):
        train(classifier(positive_fraction={"first": 0.8, "last": 0.4}), manifest, Run(tmp_path / "run"))
    labels = [np.concatenate([labels for _, labels in batches]) for _, _, batches in shown]
    positives = 5
    assert [epoch.sum() for epoch in labels] == [positives] * 3
    assert [epoch.size - positives for epoch in labels] == [round(5 * 0.25), round(5 * 4 / 6), round(5 * 1.5)]


def test_class_weights_and_loss_reach_the_training(classifier, manifest, tmp_path, monkeypatch):
    seen = []

    def engine(model, schedule, objective, run, save, **_):
        seen.append(objective)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "Engine", engine)
    for number, changes in enumerate(
        [
            {},
            {"class_weights": "balanced"},
            {"class_weights": {"negative": 1.0, "positive": 4.5}},
            {"loss": {"kind": "focal", "alpha": 0.3, "gamma": 1.5}},
        ]
    ):
        with pytest.raises(KeyboardInterrupt):
            train(classifier(**changes), manifest, Run(tmp_path / str(number)))
    assert [objective.class_weights for objective in seen] == [
        None,
        {0: pytest.approx(20 / (2 * 15)), 1: pytest.approx(20 / (2 * 5))},
        {0: 1.0, 1: 4.5},
        None,
    ]
    assert isinstance(seen[0].loss, keras.losses.BinaryCrossentropy)
    assert (seen[3].loss.alpha, seen[3].loss.gamma) == (0.3, 1.5)


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
def test_mixed_precision_trains_with_plateau_and_gives_an_ordinary_bundle(classifier, manifest, tmp_path, precision):
    phases = [{"epochs": 4, "learning_rate": 1e-9, "trainable": "all"}]  # nothing improves: the rate falls each epoch
    task = classifier(precision=precision, plateau={"patience": 1, "factor": 0.5, "minimum": 0.0}, phases=phases)
    train(task, manifest, Run(tmp_path / "run"))
    assert keras.config.dtype_policy().name == "float32"
    history = pd.read_csv(tmp_path / "run/history.csv")
    assert history["loss"].notna().all()
    assert history["learning_rate"].iloc[-1] < 0.6e-9
    bundle = load_bundle(tmp_path / "run/best")
    assert {weights.dtype for weights in bundle.model.weights} == {"float32"}


def test_stopped_run_is_neither_overwritten_nor_mixed(classifier, manifest, tmp_path):
    phases = [{"epochs": 2, "learning_rate": 0.001, "trainable": "all"}]
    run, task = tmp_path / "run", classifier(phases=phases)

    def stop(run):
        def end(epoch, logs):
            raise KeyboardInterrupt

        return keras.callbacks.LambdaCallback(on_epoch_end=end)

    with pytest.raises(KeyboardInterrupt):
        train(task, manifest, Run(run), make_callback=stop)
    with pytest.raises(FileExistsError, match="holds a stopped run: continue it with --resume"):
        train(task, manifest, Run(run))
    for changed in ({"seed": 5}, {"precision": "mixed_bfloat16"}):
        with pytest.raises(ValueError, match=r"its settings\.yaml differs"):
            train(classifier(phases=phases, **changed), manifest, Run(run, resume=True))
    with pytest.raises(ValueError, match=r"its split\.csv differs"):
        train(task, manifest.iloc[:-1], Run(run, resume=True))
    (run / ".checkpoint.npz.123").write_bytes(b"half")
    (run / ".best.abc.tmp").mkdir()
    train(task, manifest, Run(run, resume=True))
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
    assert pd.read_csv(run / "history.csv")["epoch"].tolist() == [1, 2]


@pytest.fixture
def finished(classifier, manifest, tmp_path, untrained):
    """A finished run, and its task and metrics."""
    task = classifier(plateau={"patience": 3, "factor": 0.2})
    metrics = train(task, manifest, Run(tmp_path / "run"))
    return tmp_path / "run", task, metrics


def test_finished_run_is_left_as_it_is_when_resumed(finished, classifier, manifest):
    run, task, metrics = finished
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert train(task, manifest, Run(run, resume=True)) == metrics
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match=r"its settings\.yaml differs"):
        train(classifier(seed=3), manifest, Run(run, resume=True))
    with pytest.raises(FileExistsError, match="finished run"):
        train(task, manifest, Run(run))


def test_changed_masks_or_files_under_the_same_names_are_told(finished, manifest):
    run, task, _ = finished
    positive = manifest.index[manifest["has_pneumothorax"]][0]
    for column, value in (("rle", "0 1"), ("frame_length", 123), ("rows", 127)):
        changed = manifest.copy()
        changed.loc[positive, column] = value
        with pytest.raises(ValueError, match=r"its split\.csv differs .* choose another folder"):
            train(task, changed, Run(run, resume=True))
    moved = manifest.assign(path="elsewhere/" + manifest["path"], pixel_spacing=0.5)
    train(task, moved, Run(run, resume=True))


def test_run_of_an_earlier_version_is_known_again(finished, classifier, manifest):
    """It had neither checksums nor the settings that came later, which have their defaults."""
    run, task, metrics = finished
    split = pd.read_csv(run / "split.csv")
    split[["image_id", "split"]].to_csv(run / "split.csv", index=False)
    text = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(text.replace("  minimum: 1.0e-09\n  stop_after: null\n", ""))
    assert (run / "settings.yaml").read_text() != text
    assert train(task, manifest, Run(run, resume=True)) == metrics
    other = classifier(plateau={"patience": 3, "factor": 0.2, "minimum": 1e-8})
    with pytest.raises(ValueError, match=r"its settings\.yaml differs"):
        train(other, manifest, Run(run, resume=True))
    with pytest.raises(ValueError, match=r"its split\.csv differs"):
        train(task, manifest.iloc[:-1], Run(run, resume=True))


def test_bundles_to_deploy_are_those_of_a_finished_run(finished):
    run, _, _ = finished
    assert Run(run).deployable() == [run / "best"]
    shutil.copytree(run / "best", run / "swa")
    assert Run(run).deployable() == [run / "swa"]
    (run / "metrics.json").unlink()
    with pytest.raises(
        ValueError, match=r"run holds no finished run: name another folder, or finish it with .*--resume"
    ):
        Run(run).deployable()


def test_two_processes_cannot_train_one_run(classifier, manifest, tmp_path):
    def second(run):
        with pytest.raises(FileExistsError, match="is being trained by another process"):
            train(classifier(**SHORT), manifest, Run(run.folder, resume=True))
        return keras.callbacks.Callback()

    train(classifier(**SHORT), manifest, Run(tmp_path / "run"), make_callback=second)
    assert (tmp_path / "run/metrics.json").exists()


def test_labels_alone_train_and_score_a_classifier(classifier, manifest, tmp_path, untrained):
    with_masks, labels = Run(tmp_path / "masks"), Run(tmp_path / "labels")
    train(classifier(), manifest, with_masks)
    train(classifier(), manifest.assign(rle="", area_px=0), labels)
    for split in ("train", "val"):
        assert ids(labels.folder, split) == ids(with_masks.folder, split)
    pd.testing.assert_frame_equal(labels.validation_predictions(), with_masks.validation_predictions())


def test_unknown_transform_is_named_before_anything_is_made(classifier):
    with pytest.raises(ValueError, match=r"transforms=\['blur'\]: expected some of clahe"):
        classifier(enrichment=PAPER | {"transforms": ["blur"]})


def test_enrichment_that_is_impossible_is_refused_before_anything_is_made(classifier, manifest, tmp_path):
    positives = manifest[manifest["has_pneumothorax"]]
    mostly = pd.concat([positives, manifest[~manifest["has_pneumothorax"]].head(4)])
    with pytest.raises(ValueError, match="train without enrichment"):
        train(classifier(enrichment=PAPER), mostly, Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("gpu_listed")
def test_settings_of_the_machine_reach_the_training(classifier, manifest, tmp_path, caplog):
    changes = {"precision": "mixed_float16", "gradient_accumulation_steps": 2, "decoded_images_gigabytes": 0.0}
    seen = []

    def watch(run):
        def note(*_):
            model = watching.model
            seen.append((model.jit_compile, model.optimizer.inner_optimizer.gradient_accumulation_steps))

        watching = keras.callbacks.LambdaCallback(on_epoch_end=note)
        return watching

    with caplog.at_level("INFO", "pneumoseg"):
        train(classifier(**SHORT, **changes), manifest, Run(tmp_path / "run"), make_callback=watch)
    compiled = keras.backend.backend() == "jax"  # which compiles every step
    assert seen == [(compiled, 2)]
    said = [record.getMessage() for record in caplog.records]
    (device,) = [line for line in said if line.startswith("Device: ")]
    assert device.endswith(f"mixed_float16, jit {'on' if compiled else 'off'}")
    assert sum("decoded again each epoch" in line for line in said) == 2
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert (environment["precision"], environment["jit_compile"]) == ("mixed_float16", compiled)
    assert {"device", "memory_gibibytes", "tf32"} <= environment.keys()
