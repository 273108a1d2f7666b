"""Engines that compute a network's probabilities: Keras, and exports for OpenVINO and ONNX Runtime.

Only the module of an engine imports its library, so that an exported pipeline runs without TensorFlow.
"""

from pneumoseg.engines.network import Network

__all__ = ["Network"]
