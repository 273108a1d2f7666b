"""Tests of the networks that OpenVINO and ONNX Runtime compute, against values worked out by hand."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pneumoseg.engines import ExportError, openvino_network
from pneumoseg.engines.onnx_network import OnnxNetwork
from pneumoseg.engines.openvino_network import OpenVinoNetwork
from tests.engines.exports import SIZE, save_onnx, save_openvino

LIBRARIES = {
    "openvino": (OpenVinoNetwork, save_openvino, ".xml"),
    "onnx": (OnnxNetwork, save_onnx, ".onnx"),
}


@pytest.fixture(params=LIBRARIES)
def make(request, tmp_path):
    """Return a function from a kind of network to such a network."""
    network, save, suffix = LIBRARIES[request.param]

    def make(kind, precision="float32", batch_size=2):
        path = tmp_path / f"{kind}{suffix}"
        save(path, kind)
        return network(path, f"{kind}_by_hand", SIZE, 1, precision, batch_size)

    return make


def images(*values):
    """Return black images with one pixel of each value, at another place in each."""
    made = np.zeros((len(values), SIZE, SIZE, 1), np.uint8)
    for number, value in enumerate(values):
        made[number, number, 2 * number] = value
    return made


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_probabilities_are_those_worked_out_by_hand_in_order(make, count):
    values = [255, 51, 0, 102, 7][:count]
    batch = images(*values)
    chances, maps = make("classifier")(batch), make("segmenter")(batch)
    assert (chances.shape, chances.dtype) == ((count, 1), np.float32)
    assert chances[:, 0] == pytest.approx(np.array(values) / 255, abs=1e-7)
    assert (maps.shape, maps.dtype) == ((count, SIZE, SIZE, 1), np.float32)
    assert np.abs(maps - batch / 255).max() < 1e-7


def test_an_output_stays_when_the_next_batch_is_computed(make):
    network = make("segmenter")
    first = network(images(255, 51))
    network(images(9, 9))
    assert first[1, 1, 2, 0] == pytest.approx(0.2)


def test_a_view_that_is_not_contiguous_is_computed_as_it_is_seen(make):
    batch = images(255, 51)
    assert np.abs(make("segmenter")(batch[:, :, ::-1]) - batch[:, :, ::-1] / 255).max() < 1e-7


def test_threads_that_share_a_network_get_the_outputs_of_their_own_images(make):
    network = make("segmenter", batch_size=4)
    batches = [np.full((1 + value % 5, SIZE, SIZE, 1), value, np.uint8) for value in range(1, 201)]
    with ThreadPoolExecutor(4) as threads:
        for batch, output in zip(batches, threads.map(network, batches), strict=True):
            assert np.abs(output - batch / 255).max() < 1e-7


def test_facts_of_a_network(make):
    network = make("classifier", "int8")
    assert (network.name, network.image_size, network.parameters) == ("classifier_by_hand", SIZE, 1)
    assert network.precision == "int8"
    assert network.library.startswith(("OpenVINO 20", "ONNX Runtime 1."))


@pytest.mark.parametrize("engine", LIBRARIES)
def test_a_file_that_the_library_cannot_run_is_an_error_that_names_it(engine, tmp_path):
    network, _, suffix = LIBRARIES[engine]
    path = tmp_path / f"classifier_1{suffix}"
    path.write_bytes(b"not a network")
    with pytest.raises(
        ExportError, match=rf"classifier_1\{suffix}: O.* cannot run it \(.+\): export the pipeline again"
    ):
        network(path, "x", SIZE, 1, "float32")
    with pytest.raises(ExportError, match="cannot run it"):
        network(tmp_path / f"missing{suffix}", "x", SIZE, 1, "float32")


@pytest.mark.parametrize(("engine", "module"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_a_missing_library_is_an_error_that_names_the_extra(engine, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExportError, match=rf"pip install 'pneumoseg\[{engine}\]'$"):
        LIBRARIES[engine][0](tmp_path / "x", "x", SIZE, 1, "float32")


def hint(network):
    return str(network._alone[0].get_compiled_model().get_property("INFERENCE_PRECISION_HINT"))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_openvino_never_lowers_float32_by_itself(precision, tmp_path):
    save_openvino(tmp_path / "c.xml", "classifier")
    network = OpenVinoNetwork(tmp_path / "c.xml", "c", SIZE, 1, precision)
    assert "float32" in hint(network)


def test_bfloat16_is_computed_where_the_cpu_can_and_else_float32(tmp_path, monkeypatch):
    save_openvino(tmp_path / "c.xml", "classifier")
    monkeypatch.setattr(openvino_network, "cpu_capabilities", lambda: ["FP32", "INT8"])
    network = OpenVinoNetwork(tmp_path / "c.xml", "c", SIZE, 1, "bfloat16")
    assert network.precision == "float32"
    assert "float32" in hint(network)
    monkeypatch.setattr(openvino_network, "cpu_capabilities", lambda: ["FP32", "BF16", "INT8"])
    assert openvino_network.computed_precision("bfloat16") == "bfloat16"
    assert openvino_network.computed_precision("int8") == "int8"


def test_the_cpu_is_fast_in_float32():
    assert "FP32" in openvino_network.cpu_capabilities()
