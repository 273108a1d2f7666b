"""Tests of the conversion of Keras models into the files of other engines."""

import keras
import numpy as np
import pytest

from pneumoseg.engines.conversion import convert_model, require_libraries
from pneumoseg.engines.export_record import ExportError
from pneumoseg.engines.exports import network_class
from pneumoseg.models.segmenter import build_segmenter


# OpenVINO finds an unused intermediate result in the first, which counted as an output, and five in the second.
@pytest.mark.parametrize(
    ("engine", "architecture", "size"), [("openvino", "fpn", 64), ("openvino", "pspnet", 48), ("onnx", "fpn", 64)]
)
def test_a_converted_segmenter_gives_the_probabilities_of_keras_alone(engine, architecture, size, tmp_path):
    keras.utils.set_random_seed(0)
    model = build_segmenter(architecture, "mobilenet", size, None, 16)
    make, suffix = network_class(engine)
    convert_model(model, engine, tmp_path / f"segmenter_1{suffix}")
    network = make(tmp_path / f"segmenter_1{suffix}", "segmenter", size, model.count_params(), "float32")
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 1), np.uint8)
    np.testing.assert_allclose(network(images), model.predict_on_batch(images), atol=1e-6)


def test_networks_on_jax_are_not_converted(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="Keras runs on jax: set KERAS_BACKEND=tensorflow"):
        require_libraries("openvino", "float32")
