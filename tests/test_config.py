"""Experiment files: what is refused, and that the published ones hold the paper's numbers."""

from pathlib import Path

import pytest
import yaml

from pneumoseg.config import ConfigError, experiment_files, load_experiment
from pneumoseg.data.loaders import GIGABYTES

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def content():
    return yaml.safe_load((EXPERIMENTS / "demo_classifier.yaml").read_text())


def load(tmp_path, content):
    path = tmp_path / "experiment.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_experiment(path)


def test_every_experiment_file_loads():
    paths = sorted(set(EXPERIMENTS.glob("*.yaml")) - set(EXPERIMENTS.glob("sweep_*")))
    assert len(paths) >= 4
    for path in paths:
        kind = "classifier" if "classifier" in path.name else "segmenter"
        assert load_experiment(path).kind == kind


PAPERS_FOUR = ["clahe", "optical_distortion", "zoom_in", "zoom_out"]


def classifier(name):
    return load_experiment(EXPERIMENTS / f"classifier_{name}.yaml")


@pytest.mark.parametrize("arm", ["augmentation", "enrichment"])
def test_classifier_arms_hold_the_papers_numbers(arm):
    settings = classifier(arm)
    assert (settings.backbone, settings.weights, settings.image_size) == ("xception", "imagenet", 1024)
    assert (settings.batch_size, settings.split.validation_fraction) == (4, 0.2)
    assert settings.split.group_by_patient is False
    phases = [(phase.epochs, phase.learning_rate, phase.trainable) for phase in settings.phases]
    assert phases == [(2, 2e-2, "head"), (23, 2e-4, "all")]
    assert (settings.plateau.patience, settings.plateau.factor) == (3, 0.2)
    assert settings.loss == "binary_crossentropy"
    assert (settings.class_weights, settings.positive_fraction, settings.cross_validate) == (None, None, False)
    assert settings.precision == "float32"


def test_arms_differ_in_nothing_but_augmentation_and_enrichment():
    augmentation, enrichment = (classifier(arm).model_dump() for arm in ("augmentation", "enrichment"))
    assert {key for key in augmentation if augmentation[key] != enrichment[key]} == {"augmentation", "enrichment"}
    assert augmentation["augmentation"] == {"transforms": PAPERS_FOUR, "zoom": [0.05, 0.1], "probability": 0.5}
    assert enrichment["enrichment"] == {"transforms": PAPERS_FOUR, "zoom": [0.05, 0.1]}
    assert augmentation["enrichment"] is enrichment["augmentation"] is None


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("class_weights", "class_weights", "balanced"),
        ("focal_loss", "loss", {"kind": "focal", "alpha": 0.25, "gamma": 2.0}),
        ("sliding_sample_rate", "positive_fraction", {"first": 0.8, "last": 0.4}),
        ("mixed_precision", "precision", "mixed_float16"),
        ("patient_grouped", "split", {"validation_fraction": 0.2, "seed": 0, "group_by_patient": True}),
    ],
)
def test_what_goes_beyond_the_paper_changes_one_thing(name, key, value):
    paper, other = classifier("augmentation").model_dump(), classifier(name).model_dump()
    assert {k for k in paper if paper[k] != other[k]} == {key}
    assert other[key] == value


def test_small_classifier_is_patient_grouped_with_folds():
    settings = classifier("small")
    assert settings.cross_validate
    assert settings.split.group_by_patient


def test_both_networks_keep_out_the_same_images():
    assert segmenter("window_swa").split == classifier("augmentation").split


def test_k_fold_is_patient_grouped_with_five_folds():
    grouped, folds = classifier("patient_grouped").model_dump(), classifier("k_fold").model_dump()
    assert {k for k in grouped if grouped[k] != folds[k]} == {"cross_validate"}
    assert round(1 / folds["split"]["validation_fraction"]) == 5


def segmenter(name):
    return load_experiment(EXPERIMENTS / f"segmenter_{name}.yaml")


def test_segmenter_holds_the_papers_numbers():
    settings = segmenter("window_swa")
    assert (settings.architecture, settings.backbone, settings.image_size) == ("fpn", "inceptionresnetv2", 512)
    assert (settings.weights, settings.split.validation_fraction) == ("imagenet", 0.2)
    assert (settings.batch_size, settings.negatives_per_positive, settings.augmentation) == (8, 1.0, None)
    loss = settings.loss
    assert (loss.focal_weight, loss.dice_weight, loss.cross_entropy_weight, loss.tversky_weight) == (1, 1, 0, 0)
    assert (loss.alpha, loss.gamma, loss.per_image) == (0.25, 2, False)
    first, second = settings.phases
    assert (first.epochs, first.learning_rate, first.trainable, first.cosine) == (2, 1e-3, "second_half", None)
    assert (second.epochs, second.learning_rate, second.trainable) == (35, 1e-4, "all")
    assert (second.cosine.cycle_epochs, second.cosine.multiplier, second.cosine.minimum) == (35, 1, 0)
    assert settings.epoch_weights_gigabytes >= 37 * 57.5e6 * 2 / 1e9  # all epochs of 57.5 million float16 numbers
    assert (settings.swa.start_epoch, settings.swa.end_epoch, settings.swa.every) == (13, 16, 1)


def test_classic_swa_samples_the_end_of_each_cycle():
    classic, window = segmenter("classic_swa"), segmenter("window_swa")
    first, second = classic.phases
    ends = [first.epochs + second.cosine.cycle_epochs * n for n in range(1, 6)]
    swa = classic.swa
    assert list(range(swa.start_epoch, swa.end_epoch + 1, swa.every)) == ends == [9, 16, 23, 30, 37]
    assert (first, second.epochs, second.learning_rate) == (window.phases[0], 35, 1e-4)
    one, other = classic.model_dump(), window.model_dump()
    assert {key for key in one if one[key] != other[key]} == {"phases", "swa"}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("unet", {"architecture"}), ("pspnet", {"architecture", "image_size"}), ("efficientnet", {"backbone"}),
        ("seresnet", {"backbone"}), ("resnext", {"backbone"}), ("tversky", {"loss"}), ("first_place_loss", {"loss"}),
        ("sliding_sample_rate", {"negatives_per_positive", "positive_fraction"}), ("distortion", {"augmentation"}),
        ("positives_alone", {"negatives_per_positive"}),
        ("1024", {"start_from", "weights", "image_size", "batch_size", "phases", "swa"}),
    ],
)  # fmt: skip
def test_other_segmenters_change_what_they_say(name, keys):
    one, other = segmenter("window_swa").model_dump(), segmenter(name).model_dump()
    assert {key for key in one if one[key] != other[key]} == keys


def test_values_beyond_the_paper():
    assert (segmenter("unet").architecture, segmenter("pspnet").architecture) == ("unet", "pspnet")
    backbones = [segmenter(name).backbone for name in ("efficientnet", "seresnet", "resnext")]
    assert backbones == ["efficientnetb4", "seresnet50", "resnext50"]
    tversky, first = segmenter("tversky").loss, segmenter("first_place_loss").loss
    assert (tversky.tversky_weight, tversky.dice_weight) == (1, 0)
    assert (tversky.tversky_alpha, tversky.tversky_beta) == (0.3, 0.7)
    assert (first.focal_weight, first.dice_weight, first.cross_entropy_weight) == (4, 1, 3)
    small = segmenter("small")
    assert (small.split.group_by_patient, small.negatives_per_positive) == (True, 0)
    full = segmenter("1024")
    assert (full.start_from, full.image_size) == ("runs/segmenter_window_swa/swa", 1024)


def test_first_places_share_and_distortions():
    share = segmenter("sliding_sample_rate")
    assert (share.positive_fraction.first, share.positive_fraction.last) == (0.8, 0.4)
    assert share.negatives_per_positive is None
    assert segmenter("distortion").augmentation.transforms == ["elastic_transform", "grid_distortion"]
    assert segmenter("positives_alone").negatives_per_positive == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {
                "phases": [
                    {
                        "epochs": 37,
                        "learning_rate": 0.1,
                        "trainable": "all",
                        "cosine": {"cycle_epochs": 2, "minimum": 0.2},
                    }
                ]
            },
            r"phases\.0: .*cosine\.minimum 0\.2 is above learning_rate 0\.1",
        ),
        ({"swa": {"start_epoch": 13, "end_epoch": 38}}, "swa averages epochs 13 to 38, but there are 37"),
        ({"swa": {"start_epoch": 5, "end_epoch": 4}}, "swa averages epochs 5 to 4"),
        ({"swa": {"start_epoch": 0, "end_epoch": 4}}, r"swa\.start_epoch"),
        (
            {"loss": {"focal_weight": 0.0, "dice_weight": 0.0, "alpha": 0.5, "gamma": 2.0, "per_image": False}},
            "one weight",
        ),
    ],
)
def test_wrong_segmenter_settings_are_named(tmp_path, change, message):
    (tmp_path / "e.yaml").write_text(
        yaml.safe_dump({"based_on": str(EXPERIMENTS / "segmenter_window_swa.yaml")} | change)
    )
    with pytest.raises(ConfigError, match=message):
        load_experiment(tmp_path / "e.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning": 1}, "learning: Extra inputs"),
        ({"batch_size": "16"}, r"batch_size: .*integer.* got '16'"),
        ({"batch_size": 0}, "batch_size: .* greater than 0"),
        ({"backbone": 3}, "backbone: .*string"),
        ({"phases": []}, "phases: .* at least 1 item"),
        ({"split": {"validation_fraction": 0.2, "seed": 0, "fold": 1}}, r"split\.fold: Extra"),
        ({"split": {"validation_fraction": float("nan"), "seed": 0}}, "finite number"),
        ({"kind": "detector"}, "kind: expected classifier or segmenter, got 'detector'"),
        ({"kind": ["classifier"]}, r"kind: expected classifier or segmenter, got \['classifier'\]"),
    ],
)
def test_wrong_keys_are_named(tmp_path, content, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, content | change)
    assert "experiment.yaml" in str(caught.value)


def test_missing_key_is_named(tmp_path, content):
    del content["image_size"]
    with pytest.raises(ConfigError, match="image_size: Field required"):
        load(tmp_path, content)


def test_number_that_yaml_reads_as_text(tmp_path, content):
    content["phases"][0]["learning_rate"] = 0.125
    text = yaml.safe_dump(content).replace("learning_rate: 0.125", "learning_rate: 2e-3")
    with pytest.raises(ConfigError, match=r"phases\.0\.learning_rate: .*write 0\.02"):
        load(tmp_path, text)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "just text"])
def test_what_is_no_experiment(tmp_path, text):
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        load(tmp_path, text)


def test_missing_file():
    with pytest.raises(ConfigError, match="no such experiment file"):
        load_experiment("absent.yaml")


def test_what_a_file_is_based_on_fills_in_what_it_does_not_say(tmp_path, content):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(content | {"seed": 3}))
    settings = load(
        tmp_path, {"based_on": "base.yaml", "batch_size": 7, "split": {"validation_fraction": 0.5, "seed": 1}}
    )
    assert (settings.seed, settings.batch_size, settings.backbone) == (3, 7, content["backbone"])
    assert settings.split.model_dump() == {"validation_fraction": 0.5, "seed": 1, "group_by_patient": None}


def test_files_of_an_experiment_are_itself_and_what_it_is_based_on(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 3")
    (tmp_path / "experiment.yaml").write_text("based_on: base.yaml")
    assert experiment_files(tmp_path / "experiment.yaml") == [tmp_path / "experiment.yaml", tmp_path / "base.yaml"]
    assert experiment_files(tmp_path / "base.yaml") == [tmp_path / "base.yaml"]


def test_wrong_key_of_the_base_is_told_with_both_files(tmp_path, content):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(content | {"epochs": 3}))
    with pytest.raises(ConfigError, match=r"experiment\.yaml, based on .*base\.yaml: epochs: Extra"):
        load(tmp_path, {"based_on": "base.yaml"})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("absent.yaml", r"absent\.yaml: no such experiment file"),
        ("experiment.yaml", r"experiment\.yaml: is based on itself"),
        (3, "based_on: expected the name of an experiment file, got 3"),
    ],
)
def test_wrong_base_is_named(tmp_path, other, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, {"based_on": other})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augmentation": {"transforms": [], "zoom": [0.05, 0.1], "probability": 0.5}}, r"augmentation\.transforms"),
        ({"augmentation": {"transforms": ["clahe"], "zoom": [0.05], "probability": 0.5}}, r"augmentation\.zoom"),
        ({"augmentation": {"transforms": ["clahe"], "zoom": [0.05, 0.1], "probability": 0.0}}, "greater than 0"),
        ({"plateau": {"patience": 3, "factor": 1.5}}, r"plateau\.factor: .*less than 1"),
        ({"precision": "float16"}, "precision: .*'mixed_float16'"),
        (
            {
                "plateau": {"patience": 3, "factor": 0.2},
                "phases": [{"epochs": 2, "learning_rate": 0.1, "trainable": "all", "cosine": {"cycle_epochs": 2}}],
            },
            "leave out either it or plateau",
        ),
        (
            {"plateau": {"patience": 3, "factor": 0.2, "minimum": 0.001}},
            r"plateau\.minimum 0\.001 is above learning_rate",
        ),
        ({"plateau": {"patience": 3, "factor": 0.2, "stop_after": 3}}, "stop_after 3 ends the training before"),
        ({"positive_fraction": {"first": 0.8, "last": 0.0}}, r"positive_fraction\.last"),
        (
            {
                "enrichment": {"transforms": ["clahe"], "zoom": [0, 0.1]},
                "positive_fraction": {"first": 0.8, "last": 0.4},
            },
            "zoom",
        ),
        (
            {
                "enrichment": {"transforms": ["clahe"], "zoom": [0.05, 0.1]},
                "positive_fraction": {"first": 0.8, "last": 0.4},
            },
            "enrichment fixes the training set",
        ),
    ],
)
def test_wrong_training_settings_are_named(tmp_path, content, change, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, content | change)


def test_what_a_run_costs_is_set_the_same_for_both_networks():
    """What is left out changes nothing: no XLA, float32, a step a batch, and the loaders' own memory."""
    names = ("jit_compile", "precision", "gradient_accumulation_steps", "decoded_images_gigabytes")
    for settings in (classifier("augmentation"), segmenter("window_swa")):
        assert tuple(getattr(settings, name) for name in names) == (False, "float32", 1, GIGABYTES)


def test_papers_segmenter_set_is_kept_in_memory_and_its_classifier_set_is_not():
    # 80% of 2,669 positives and as many negatives with a mask each; 80% of 12,047 images.
    assert segmenter("window_swa").decoded_images_gigabytes * 1e9 > 2 * 0.8 * 2669 * 2 * 512**2
    assert classifier("augmentation").decoded_images_gigabytes * 1e9 < 0.8 * 12047 * 1024**2


def test_accumulated_gradients_keep_the_papers_batch():
    paper, other = classifier("augmentation").model_dump(), classifier("gradient_accumulation").model_dump()
    assert {k for k in paper if paper[k] != other[k]} == {"batch_size", "gradient_accumulation_steps"}
    assert other["batch_size"] * other["gradient_accumulation_steps"] == paper["batch_size"]


def test_segmenter_in_mixed_precision_changes_one_thing():
    paper, other = segmenter("window_swa").model_dump(), segmenter("mixed_precision").model_dump()
    assert {k for k in paper if paper[k] != other[k]} == {"precision"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jit_compile": "auto"}, "jit_compile: .*boolean, got 'auto'"),
        ({"jit_compile": True, "deterministic": True}, "Keras does not use XLA"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: .*greater than 0, got 0"),
        ({"precision": "float16"}, "precision: .*got 'float16'"),
        ({"decoded_images_gigabytes": -1.0}, "decoded_images_gigabytes: .*greater than or equal to 0"),
    ],
)
def test_wrong_runtime_settings_are_named(tmp_path, content, change, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, content | change)


TRANSFORMS = {"transforms": ["clahe"], "zoom": [0.05, 0.1]}


@pytest.mark.parametrize("shown", [{"positive_fraction": {"first": 0.8, "last": 0.4}}, {"enrichment": TRANSFORMS}])
def test_balanced_weights_are_refused_where_other_shares_are_shown(tmp_path, content, shown):
    """They would be off: with 2,669 of 12,047 positive a positive weighs 12047 / (2 x 2669) = 2.257, a negative .642.

    An epoch of .8 positives counts .8 x 2.257 / (.8 x 2.257 + .2 x .642) = .93 of the loss for them, one of .5 counts
    .5 x 2.257 / (.5 x 2.257 + .5 x .642) = .78, and balanced says one half.
    """
    with pytest.raises(ConfigError, match="class_weights: balanced makes up for the manifest's fraction of positives"):
        load(tmp_path, content | shown | {"class_weights": "balanced"})
    weights = {"negative": 1.0, "positive": 2.0}
    assert load(tmp_path, content | shown | {"class_weights": weights}).class_weights.positive == 2


def test_plateau_leaves_the_papers_schedule_alone():
    """Seven falls at most in 23 epochs: the first epoch is the best, and three more pass before each."""
    plateau, (_, phase) = classifier("augmentation").plateau, classifier("augmentation").phases
    falls = (phase.epochs - 1) // plateau.patience
    assert falls == 7
    assert 0 < plateau.minimum < phase.learning_rate * plateau.factor**falls
    assert plateau.stop_after is None
