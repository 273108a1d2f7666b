import keras
import numpy as np
import pytest

from pneumoseg.models.classifier import CLASSIFIER_BACKBONES, build_classifier
from pneumoseg.models.weights import WeightsUnavailableError

IMAGES = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 1), dtype=np.uint8)
SMALL = ("mobilenet_025", "mobilenetv2", "efficientnetb0", "compact")
# Parameters listed in the documentation of Keras, without the top, plus those of one dense layer and its bias.
PARAMETERS = {
    "xception": 20_861_480 + 2048 + 1,
    "nasnetlarge": 84_916_818 + 4032 + 1,
    "inceptionresnetv2": 54_336_736 + 1536 + 1,
    "mobilenet_025": 218_544 + 256 + 1,
    "mobilenetv2": 2_257_984 + 1280 + 1,
    "efficientnetb0": 4_049_564 + 1280 + 1,
    # Weights of the six convolutions, four numbers per channel of each batch normalization, and the dense layer.
    "compact": 24 * 25 * 3 + 9 * (24 * 24 + 24 * 48 + 48 * 48 + 48 * 96 + 96 * 96) + 4 * 2 * (24 + 48 + 96) + 96 + 1,
}


@pytest.mark.parametrize("backbone", SMALL)
def test_small_backbones_keep_the_contract(backbone):
    model = build_classifier(backbone, 64, weights=None)
    from_bytes = np.array(model(IMAGES))
    assert model.input_shape == (None, 64, 64, 1)
    assert from_bytes.shape == (2, 1)
    assert from_bytes.dtype == np.float32
    assert ((from_bytes > 0) & (from_bytes < 1)).all()
    np.testing.assert_array_equal(from_bytes, model(IMAGES.astype("float32")))
    np.testing.assert_allclose(from_bytes, model.predict(IMAGES, verbose=0), atol=1e-5)
    assert model.count_params() == PARAMETERS[backbone]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(set(CLASSIFIER_BACKBONES) - set(SMALL)))
def test_backbones_of_the_paper_build_at_its_size(backbone):
    model = build_classifier(backbone, 1024, weights=None)
    assert model.input_shape == (None, 1024, 1024, 1)
    assert model.count_params() == PARAMETERS[backbone]
    # All three were trained on [-1, 1].
    assert model.get_layer("scaling").scale == [1 / 127.5] * 3
    assert model.get_layer("scaling").offset == [-1] * 3


def test_output_is_float32_under_mixed_precision(mixed_precision):
    model = build_classifier("mobilenet_025", 64, weights=None)
    assert model.get_layer("pooling").compute_dtype == "float16"
    assert np.array(model(IMAGES)).dtype == np.float32


@pytest.mark.parametrize(
    ("backbone", "file", "build"),
    [
        ("mobilenet_025", "mobilenet_2_5_224_tf_no_top.h5", lambda **k: keras.applications.MobileNet(alpha=0.25, **k)),
        ("mobilenetv2", "mobilenet_v2_1.0_224_notop.weights.h5", lambda **k: keras.applications.MobileNetV2(**k)),
    ],
)
def test_official_weights_give_the_features_of_keras_applications(official_weights, backbone, file, build):
    reference = build(include_top=False, weights=None, pooling="avg", input_shape=(64, 64, 3))
    random_features = np.array(reference(np.repeat(IMAGES / 127.5 - 1, 3, axis=-1)))
    reference.load_weights(official_weights / file)
    expected = np.array(reference(np.repeat(IMAGES / 127.5 - 1, 3, axis=-1)))
    model = build_classifier(backbone, 64, weights=official_weights / file)
    features = np.array(keras.Model(model.input, model.get_layer("pooling").output)(IMAGES))
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert np.abs(features - random_features).max() > 0.1


@pytest.mark.parametrize("backbone", ["mobilenetv2", "xception"])
def test_weights_of_another_architecture_are_refused(official_weights, backbone):
    with pytest.raises(ValueError, match=f"does not fit the {backbone} backbone"):
        build_classifier(backbone, 96, weights=official_weights / "mobilenet_2_5_224_tf_no_top.h5")


def test_efficientnet_from_imagenet_is_the_network_that_a_bundle_rebuilds(monkeypatch, tmp_path):
    # With weights="imagenet" Keras adds a layer to EfficientNet. The download is replaced by a local file.
    donor = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(64, 64, 3))
    donor.save_weights(tmp_path / "donor.weights.h5")
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: tmp_path / "donor.weights.h5")
    downloaded = build_classifier("efficientnetb0", 64, weights="imagenet")
    from_path = build_classifier("efficientnetb0", 64, weights=tmp_path / "donor.weights.h5")
    from_path.get_layer("head").set_weights(downloaded.get_layer("head").get_weights())
    np.testing.assert_array_equal(downloaded(IMAGES), from_path(IMAGES))


def test_without_network_the_error_says_how_to_supply_a_file(no_network):
    with pytest.raises(WeightsUnavailableError, match=r"xception.*_notop\.h5.*weights=PATH.*weights=None"):
        build_classifier("xception", 96)


def test_unknown_backbone_lists_the_choices():
    with pytest.raises(ValueError, match=r"'resnet'.*xception, nasnetlarge, inceptionresnetv2"):
        build_classifier("resnet", 64, weights=None)


def test_too_small_a_size_names_the_smallest():
    with pytest.raises(ValueError, match="at least 71"):
        build_classifier("xception", 64, weights=None)
