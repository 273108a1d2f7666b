import keras
import numpy as np
import pytest

from pneumoseg.models.segmenter import ARCHITECTURES, SEGMENTER_BACKBONES, _segmentation_models, build_segmenter
from pneumoseg.models.weights import WeightsUnavailableError

IMAGES = np.random.default_rng(5).integers(0, 256, (2, 96, 96, 1), dtype=np.uint8)


# Parameters of the segmentation-models network with backbone mobilenet, one class and the default decoder.
PARAMETERS = {"fpn": 6_103_105, "unet": 8_336_337, "linknet": 4_546_065, "pspnet": 1_855_937}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_keep_the_contract(architecture):
    model = build_segmenter(architecture, "mobilenet", 96, weights=None, decoder_filters=32)
    from_bytes = np.array(model(IMAGES))
    assert model.input_shape == (None, 96, 96, 1)
    assert from_bytes.shape == (2, 96, 96, 1)
    assert from_bytes.dtype == np.float32
    assert ((from_bytes >= 0) & (from_bytes <= 1)).all()
    np.testing.assert_array_equal(from_bytes, model(IMAGES.astype("float32")))
    assert model.count_params() < PARAMETERS[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_decoder_filters_it_is_the_network_of_the_library(architecture):
    model = build_segmenter(architecture, "mobilenet", 96, weights=None)
    assert model.count_params() == PARAMETERS[architecture]


def test_backbones_are_those_of_the_library_without_densenet():
    library = _segmentation_models().get_available_backbone_names()
    assert set(SEGMENTER_BACKBONES) == {name for name in library if "densenet" not in name} | {"compact"}


# One backbone of each family; the mobile ones are used in the other tests.
@pytest.mark.parametrize("backbone", ["vgg16", "resnet18", "seresnet50", "inceptionv3", "efficientnetb0"])
def test_backbone_families_build_and_predict(backbone):
    model = build_segmenter("fpn", backbone, 96, weights=None, decoder_filters=16)
    assert model(IMAGES[:1]).shape == (1, 96, 96, 1)


@pytest.mark.slow
def test_the_network_of_the_paper_builds_at_its_size():
    model = build_segmenter("fpn", "inceptionresnetv2", 512, weights=None)
    library = _segmentation_models().FPN("inceptionresnetv2", classes=1, encoder_weights=None)
    assert model.output_shape == (None, 512, 512, 1)
    assert model.count_params() == library.count_params() == 57_522_273


def test_output_is_float32_under_mixed_precision(mixed_precision):
    model = build_segmenter("fpn", "mobilenet", 32, weights=None, decoder_filters=16)
    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    probability = np.array(model(IMAGES[:, :32, :32]))
    assert network.layers[-1].compute_dtype == "float16"
    assert probability.dtype == np.float32
    assert np.isfinite(probability).all()


def test_encoder_takes_the_official_weights(official_weights):
    path = official_weights / "mobilenet_v2_1.0_224_notop.weights.h5"
    reference = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(96, 96, 3))
    reference.load_weights(path)
    expected = np.array(reference(np.repeat(IMAGES / 127.5 - 1, 3, axis=-1)))
    model = build_segmenter("fpn", "mobilenetv2", 96, weights=path, decoder_filters=16)
    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    encoder = keras.Model(network.input, network.get_layer("out_relu").output)
    features = np.array(encoder(np.repeat(IMAGES / 127.5 - 1, 3, axis=-1)))
    assert expected.std() > 0.1
    np.testing.assert_allclose(features, expected, atol=1e-4)


@pytest.mark.parametrize("backbone", ["mobilenet", "resnet18"])
def test_weights_of_another_architecture_are_refused(official_weights, backbone):
    with pytest.raises(ValueError, match=f"does not fit the {backbone} backbone"):
        build_segmenter("unet", backbone, 96, weights=official_weights / "mobilenet_2_5_224_tf_no_top.h5")


@pytest.mark.parametrize(("backbone", "file"), [("resnet18", "resnet18_imagenet"), ("mobilenetv2", "mobilenet_v2")])
def test_without_network_the_error_says_how_to_supply_a_file(no_network, backbone, file):
    with pytest.raises(WeightsUnavailableError, match=rf"{backbone}.*{file}.*\.h5.*weights=PATH.*weights=None"):
        build_segmenter("fpn", backbone, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "deeplab"}, "'deeplab'.*fpn, unet, linknet, pspnet"),
        ({"backbone": "xception"}, "'xception'.*inceptionresnetv2"),
        ({"backbone": "densenet121"}, "densenet121 of segmentation-models cannot be built with Keras 3"),
        ({"image_size": 100}, "image_size=100: fpn needs a positive multiple of 32"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": "96"}, "image_size=.96."),
        ({"architecture": "pspnet", "image_size": 128}, "pspnet needs a positive multiple of 48"),
        ({"decoder_filters": 24}, "decoder_filters=24: expected a multiple of 16"),
        ({"decoder_filters": 0}, "decoder_filters=0"),
        ({"decoder_filters": 2048}, "decoder_filters=2048"),
    ],
)
def test_wrong_arguments_are_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_segmenter(**{"backbone": "mobilenetv2", "image_size": 96, "weights": None, **arguments})


def test_compact_unet_keeps_the_contract():
    model = build_segmenter("unet", "compact", 64, weights=None)
    images = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 1), dtype=np.uint8)
    output = np.array(model(images))
    assert output.shape == (2, 64, 64, 1)
    assert output.dtype == np.float32
    np.testing.assert_array_equal(output, model(images.astype("float32")))
    encoder = 24 * 25 * 3 + 9 * (24 * 24 + 24 * 48 + 48 * 48 + 48 * 96 + 96 * 96)
    decoder = 9 * ((96 + 48) * 48 + (48 + 24) * 24 + (24 + 3) * 16) + 16 + 1
    normalisation = 4 * (2 * (24 + 48 + 96) + 48 + 24 + 16)
    assert model.count_params() == encoder + decoder + normalisation


@pytest.mark.parametrize("arguments", [{"architecture": "fpn"}, {"weights": "imagenet"}, {"decoder_filters": 32}])
def test_compact_needs_its_own_arguments(arguments):
    with pytest.raises(ValueError, match="compact needs architecture='unet'"):
        build_segmenter(
            **({"architecture": "unet", "backbone": "compact", "image_size": 64, "weights": None} | arguments)
        )
