"""Engines that compute a network's probabilities: Keras, and exports for OpenVINO and ONNX Runtime.

Only the module of an engine imports its library, so that an exported pipeline runs without TensorFlow.
"""

import sys

from pneumoseg.engines.engine import Engine
from pneumoseg.engines.export_record import ExportError
from pneumoseg.engines.network import Network

__all__ = ["Engine", "ExportError", "Network"]

# OpenVINO and NNCF report over the network how they are used, unless this package is missing. What happens in a hospital
# is nobody else's business.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
