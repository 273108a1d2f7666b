import keras
import numpy as np
import pytest

from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.scaling import CONVENTIONS, scaled_input
from pneumoseg.models.segmenter import _CONVENTION, _segmentation_models

GREY = np.random.default_rng(7).integers(0, 256, (2, 5, 5, 1), dtype=np.uint8)
RGB = np.repeat(GREY, 3, axis=-1).astype("float32")


def _scaled(convention: str, images: np.ndarray) -> np.ndarray:
    return np.array(keras.Model(*scaled_input(images.shape[1], convention))(images))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_backbone_gets_the_scaling_of_its_library(convention):
    scaled = _scaled(convention, GREY)
    backbones = [name for name, own in _CONVENTION.items() if own == convention]
    assert backbones
    for backbone in backbones:
        expected = _segmentation_models().get_preprocessing(backbone)(RGB.copy())
        np.testing.assert_allclose(scaled, expected, atol=2e-5, err_msg=backbone)


def test_scaling_of_black_and_white_by_hand():
    ends = np.array([0, 255], "uint8").reshape(2, 1, 1, 1)
    assert _scaled("tf", ends).ravel().tolist() == [-1, -1, -1, 1, 1, 1]
    np.testing.assert_allclose(
        _scaled("torch", ends)[1, 0, 0], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-5
    )


@pytest.mark.parametrize(("backbone", "module"), [("mobilenet_025", "mobilenet"), ("mobilenetv2", "mobilenet_v2")])
def test_classifier_scales_as_keras_applications_does(backbone, module):
    expected = getattr(keras.applications, module).preprocess_input(RGB.copy())
    model = build_classifier(backbone, 32, weights=None)
    images = np.pad(GREY, [(0, 0), (0, 27), (0, 27), (0, 0)])
    scaled = np.array(keras.Model(model.input, model.get_layer("scaling").output)(images))
    np.testing.assert_allclose(scaled[:, :5, :5], expected, atol=1e-6)


def test_scaling_is_not_rounded_under_mixed_precision(mixed_precision):
    scaled = _scaled("torch", GREY)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(
        scaled, _segmentation_models().get_preprocessing("efficientnetb0")(RGB.copy()), atol=2e-5
    )
