"""Conversion of Keras models into files that other engines read, in float32."""

import contextlib
import functools
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoseg.engines.export_record import ExportError

if TYPE_CHECKING:
    import keras

_LIBRARIES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime", "tf2onnx")}
# The newest set of operators that tf2onnx knows is 18; NNCF asks for 13 at least.
_OPERATORS = 18
_OUTPUT = "Identity:0"  # TensorFlow's name of what a function returns


def require_libraries(engine: str, precision: str) -> None:
    """Check that Keras runs on TensorFlow, and that the libraries that make an export are installed.

    Args:
        engine: "openvino" or "onnx".
        precision: "float32", "bfloat16" or "int8", which needs another one.

    Raises:
        ExportError: If Keras runs on another backend, whose networks cannot be converted, or a library is missing.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"an export is made from a TensorFlow graph, and Keras runs on {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow; the networks are the same"
        )
    for name in (*_LIBRARIES[engine], *(("nncf",) if precision == "int8" else ())):
        try:
            with quiet():
                importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"{name} cannot be imported ({error}): an export for {engine} needs `pip install 'pneumoseg[{engine}]'`"
            ) from error


def convert_model(model: "keras.Model", engine: str, path: Path) -> None:
    """Write a Keras model for another engine, in float32.

    Args:
        model: Network from images, float32 (batch, size, size, 1), to probabilities.
        engine: "openvino" or "onnx".
        path: File to write, `.xml` or `.onnx`; OpenVINO adds a file `.bin` with the weights.

    Raises:
        ExportError: If the engine's library cannot convert the network.

    Example:
        >>> convert_model(build_classifier("compact", 64, weights=None), "onnx", Path("c.onnx"))  # doctest: +SKIP
    """
    write = _write_openvino if engine == "openvino" else _write_onnx
    try:
        with quiet():
            write(model, path)
    except Exception as error:  # the libraries raise errors of many classes, and all of them mean the same here
        raise ExportError(f"{model.name} cannot be converted for {engine}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """Return the class of an error and the first line of its text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _write_openvino(model: "keras.Model", path: Path) -> None:
    import openvino

    converted = openvino.convert_model(_graph_of(model).get_concrete_function())
    # An intermediate result that nothing uses counts as an output as well.
    for output in converted.outputs:
        if _OUTPUT not in output.get_names():
            converted.remove_result(output.node)
    # OpenVINO halves the precision of the weights unless told otherwise.
    openvino.save_model(converted, path, compress_to_fp16=False)


def _write_onnx(model: "keras.Model", path: Path) -> None:
    import tf2onnx

    function = _graph_of(model)
    signature = function.input_signature
    tf2onnx.convert.from_function(function, input_signature=signature, opset=_OPERATORS, output_path=str(path))


def _graph_of(model: "keras.Model") -> Any:
    import tensorflow as tf

    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")
    compute = functools.partial(model, training=False)
    # AutoGraph, which a model does not need, would leave generated code in the folder of temporary files.
    return tf.function(compute, input_signature=(images,), autograph=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep from the terminal what libraries print, also from C++: progress, advice and the names of devices."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink, contextlib.redirect_stdout(io.StringIO()):
        saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
        try:
            for descriptor, _ in saved:
                os.dup2(sink.fileno(), descriptor)
            yield
        finally:
            for descriptor, copy in saved:
                os.dup2(copy, descriptor)
                os.close(copy)
