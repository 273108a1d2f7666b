"""Quantisation of converted networks to 8 bits after training, with NNCF."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from pneumoseg.engines.conversion import quiet
from pneumoseg.engines.export_record import ExportError

# Products, and the other operations that NNCF quantises: sums, scalings and means.
_PRODUCTS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul", "Conv", "ConvTranspose", "Gemm"}
_OTHERS = {"Add", "Multiply", "Mul", "ReduceMean", "AvgPool", "AveragePool", "GlobalAveragePool"}
_OPERATIONS = _PRODUCTS | _OTHERS


def quantize_network(source: Path, target: Path, images: np.ndarray, *, kept: Collection[str] = ()) -> None:
    """Write a copy of a converted network that computes in 8 bits, but for the layers that are kept in float32.

    Weights are quantised per channel, activations by the ranges that they have on the calibration images.

    Args:
        source: Converted network in float32, `.xml` of OpenVINO or `.onnx`.
        target: File to write, with the same suffix.
        images: Calibration images, uint8, (n, size, size, 1).
        kept: Names of the layers that stay in float32, of those that `quantizable_layers` lists.

    Raises:
        ExportError: If NNCF cannot quantise the network.

    Example:
        >>> quantize_network(Path("float/c.onnx"), Path("c.onnx"), images)  # doctest: +SKIP
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    advanced = AdvancedQuantizationParameters(
        # The ranges that give the least error. NNCF's own choice, the mean of each image's extremes, cuts off the
        # values of the images that matter.
        activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
        # NNCF's quick correction looks at one constant image, whose rounding it takes for a bias.
        disable_bias_correction=True,
    )
    try:
        with quiet():
            network = _read(source)
            dataset = nncf.Dataset(range(len(images)), _feed(network, images))
            quantized = nncf.quantize(
                network,
                dataset,
                # Asymmetric ranges where activations have both signs, such as the image itself.
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=list(kept)),
                advanced_parameters=advanced,
            )
            _write(quantized, target)
    except Exception as error:  # NNCF raises errors of many classes, and all of them mean the same here
        raise ExportError(f"{source.stem} cannot be quantised: {type(error).__name__}: {error}") from error


def quantizable_layers(path: Path) -> list[str]:
    """Return the names of the layers that are computed in 8 bits, in the order of computation.

    Args:
        path: Converted network in float32.
    """
    network = _read(path)
    if path.suffix == ".onnx":
        return [node.name for node in network.graph.node if node.op_type in _OPERATIONS]
    operations = network.get_ordered_ops()
    return [each.get_friendly_name() for each in operations if each.get_type_name() in _OPERATIONS]


def copy_network(source: Path, target: Path) -> None:
    """Write a copy of a converted network as it is.

    Args:
        source: Converted network in float32, `.xml` of OpenVINO or `.onnx`.
        target: File to write, with the same suffix.
    """
    _write(_read(source), target)


def _read(path: Path) -> Any:
    if path.suffix == ".onnx":
        import onnx

        return onnx.load(path)
    import openvino

    return openvino.Core().read_model(path)


def _write(network: Any, path: Path) -> None:
    if path.suffix == ".onnx":
        import onnx

        onnx.save(network, path)
        return
    import openvino

    openvino.save_model(network, path, compress_to_fp16=False)


def _feed(network: Any, images: np.ndarray) -> Any:
    """Return the function that makes a network's input from the number of an image."""

    def image(number: int) -> np.ndarray:
        return images[number : number + 1].astype(np.float32)

    if hasattr(network, "graph"):
        name = network.graph.input[0].name
        return lambda number: {name: image(number)}
    return image
