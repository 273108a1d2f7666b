"""Conversion of networks to other engines, and their quantisation."""

import keras
import numpy as np
import pytest

from pneumoseg.engines.conversion import convert_model
from pneumoseg.engines.export_record import ExportError
from pneumoseg.engines.exports import network_class
from pneumoseg.engines.quantization import quantizable_layers, quantize_network


def network():
    """Return two convolutions of known weights: 4 channels that are multiples of the image, and their sum."""
    image = keras.Input((8, 8, 1))
    first = keras.layers.Conv2D(4, 1, use_bias=False)
    last = keras.layers.Conv2D(1, 1, use_bias=False)
    model = keras.Model(image, last(keras.layers.ReLU()(first(image / 255))), name="sum")
    first.set_weights([np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(1, 1, 1, 4)])
    last.set_weights([np.array([1, 0.001, -1, 1], np.float32).reshape(1, 1, 4, 1)])
    return model


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_layers_that_are_kept_are_computed_as_before(engine, tmp_path):
    make, suffix = network_class(engine)
    paths = {name: tmp_path / f"{name}{suffix}" for name in ("float", "int8", "kept")}
    convert_model(network(), engine, paths["float"])
    images = np.random.default_rng(0).integers(256, size=(5, 8, 8, 1)).astype(np.uint8)
    layers = quantizable_layers(paths["float"])
    assert len(layers) >= 2
    quantize_network(paths["float"], paths["int8"], images)
    quantize_network(paths["float"], paths["kept"], images, kept=layers)
    computed = {name: make(path, "sum", 8, 8, "int8", 4)(images) for name, path in paths.items()}
    expected = images / 255 * (0.1 + 0.2 * 0.001 - 0.3 + 0.4)
    assert computed["float"] == pytest.approx(expected, abs=1e-6)
    assert computed["kept"] == pytest.approx(expected, abs=1e-6)
    error = np.abs(computed["int8"] - expected).max()
    # 0.001 is less than half a step of 1/127, so it is lost; each activation is off by at most half a step of 1/255.
    assert 1e-5 < error < 0.01


@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_a_file_that_cannot_be_quantised_is_an_export_error(suffix, tmp_path):
    (tmp_path / f"c{suffix}").write_bytes(b"no network")
    with pytest.raises(ExportError, match="c cannot be quantised: "):
        quantize_network(tmp_path / f"c{suffix}", tmp_path / f"q{suffix}", np.zeros((1, 8, 8, 1), np.uint8))
