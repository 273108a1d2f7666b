"""Engines that compute a network's probabilities: Keras, and exports for OpenVINO and ONNX Runtime.

Only the module of an engine imports its library, so that an exported pipeline runs without TensorFlow.
"""

import sys

from pneumoseg.engines.engine import Engine
from pneumoseg.engines.export_record import ExportError
from pneumoseg.engines.network import Network

__all__ = ["Engine", "ExportError", "Network"]

# OpenVINO and NNCF tell their makers over the network how they are used, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
