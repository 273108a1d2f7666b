import keras
import numpy as np
import pytest

from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.freezing import flat_layers, set_trainable
from pneumoseg.models.segmenter import build_segmenter


def _learning(model: keras.Model) -> list[str]:
    return [layer.name for layer in flat_layers(model) if layer.trainable_weights]


@pytest.fixture
def nested() -> keras.Model:
    """Return a network of five layers with trainable weights, three of them in a nested network."""
    inner = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.BatchNormalization(name="second"),
            keras.layers.ReLU(name="weightless"),
            keras.layers.Dense(4, name="third"),
        ],
        name="inner",
    )
    image = keras.Input((4,))
    hidden = keras.layers.Dense(4, name="fourth")(inner(image))
    return keras.Model(image, keras.layers.Dense(1, name="head")(hidden))


def test_flat_layers_are_in_topological_order(nested):
    named = [layer.name for layer in flat_layers(nested)]
    assert [n for n in named if not n.startswith("input")] == [
        "first",
        "second",
        "weightless",
        "third",
        "fourth",
        "head",
    ]


@pytest.mark.parametrize(
    ("part", "learning"),
    [
        ("all", ["first", "second", "third", "fourth", "head"]),
        ("head", ["head"]),
        ("second_half", ["third", "fourth", "head"]),
    ],
)
@pytest.mark.parametrize("before", ["all", "head", "second_half"])
def test_only_the_part_is_trainable_regardless_of_what_was_frozen_before(nested, part, learning, before):
    set_trainable(nested, before)
    set_trainable(nested, part)
    assert _learning(nested) == learning


def test_a_frozen_network_becomes_trainable_again(nested):
    nested.trainable = False
    nested.get_layer("inner").trainable = False
    set_trainable(nested, "all")
    assert len(nested.trainable_weights) == 10


def test_head_of_a_classifier_is_one_kernel_and_one_bias():
    model = build_classifier("mobilenet_025", 32, weights=None)
    set_trainable(model, "head")
    assert [tuple(weight.shape) for weight in model.trainable_weights] == [(256, 1), (1,)]


def test_second_half_of_a_segmenter_freezes_the_start_of_the_encoder():
    model = build_segmenter("fpn", "mobilenetv2", 64, weights=None, decoder_filters=16)
    everything = _learning(model)
    set_trainable(model, "second_half")
    assert _learning(model) == everything[len(everything) // 2 :]
    assert everything[0] == "Conv1"
    assert "head_conv" in _learning(model)
    assert "block_1_expand" not in _learning(model)


def test_training_changes_only_the_part_and_frozen_batch_normalization_infers(nested):
    set_trainable(nested, "second_half")
    nested.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    before = {weight.path: np.array(weight) for weight in nested.weights}
    images = np.random.default_rng(2).normal(5, 3, (8, 4))
    nested.train_on_batch(images, np.ones((8, 1)))
    moved = {path.split("/")[-2] for path, old in before.items() if not np.array_equal(old, _weight(nested, path))}
    # If "second" were not frozen, its mean and variance would have moved towards 5 and 9.
    assert moved == {"third", "fourth", "head"}


def _weight(model: keras.Model, path: str) -> np.ndarray:
    return np.array(next(weight for weight in model.weights if weight.path == path))


def test_unknown_part_and_missing_head_are_refused():
    segmenter = build_segmenter("linknet", "mobilenet", 32, weights=None)
    with pytest.raises(ValueError, match=r"'tail'.*all, head, second_half"):
        set_trainable(segmenter, "tail")
    with pytest.raises(ValueError, match="segmenter_linknet_mobilenet has no layer named 'head'"):
        set_trainable(segmenter, "head")
