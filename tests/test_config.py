"""Experiment files: what is refused, and that the published ones hold the paper's numbers."""

from pathlib import Path

import pytest
import yaml

from pneumoseg.config import ConfigError, load_classifier_settings, load_segmenter_settings

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def content():
    return yaml.safe_load((EXPERIMENTS / "demo_classifier.yaml").read_text())


def load(tmp_path, content):
    path = tmp_path / "experiment.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_classifier_settings(path)


def test_every_experiment_file_loads():
    loaders = {"classifier": load_classifier_settings, "segmenter": load_segmenter_settings}
    paths = sorted(EXPERIMENTS.glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        kind = yaml.safe_load(path.read_text())["kind"]
        assert loaders[kind](path).kind == kind


def test_classifier_holds_the_papers_numbers():
    settings = load_classifier_settings(EXPERIMENTS / "classifier_augmentation.yaml")
    assert (settings.backbone, settings.weights, settings.image_size) == ("xception", "imagenet", 1024)
    assert (settings.batch_size, settings.split.validation_fraction) == (4, 0.2)
    phases = [(phase.epochs, phase.learning_rate, phase.trainable) for phase in settings.phases]
    assert phases == [(2, 2e-2, "head"), (23, 2e-4, "all")]


def test_segmenter_holds_the_papers_numbers():
    settings = load_segmenter_settings(EXPERIMENTS / "segmenter_plain.yaml")
    assert (settings.architecture, settings.backbone, settings.image_size) == ("fpn", "inceptionresnetv2", 512)
    assert (settings.loss.focal_weight, settings.loss.dice_weight) == (1, 1)
    phases = [(phase.epochs, phase.learning_rate, phase.trainable) for phase in settings.phases]
    assert phases == [(2, 1e-3, "second_half"), (35, 1e-4, "all")]
    assert sum(phase.epochs for phase in settings.phases) == 37


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
        ({"kind": "segmenter"}, "kind: .*'classifier'"),
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
        load_classifier_settings("absent.yaml")
