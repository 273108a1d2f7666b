"""The backend of Keras, which has to be chosen before Keras is imported."""

import importlib.util
import os
import sys

BACKENDS = ("tensorflow", "jax")


def choose_backend(name: str | None) -> None:
    """Choose the backend on which Keras trains, before Keras is imported.

    Args:
        name: "tensorflow", which uses one device, or "jax", which uses all devices; None for the one in the environment
            variable `KERAS_BACKEND`, by default TensorFlow.

    Raises:
        ValueError: If the backend is unknown or not installed, or Keras was imported with another one.

    Example:
        >>> choose_backend("jax")  # doctest: +SKIP
    """
    if name is None:
        return
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}, expected {' or '.join(BACKENDS)}")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"the backend {name} is not installed: pip install 'pneumoseg[{name}]'")
    os.environ["KERAS_BACKEND"] = name
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != name:
        raise ValueError(
            f"Keras was imported with the backend {keras.config.backend()}, and {name} is asked for: set "
            f"KERAS_BACKEND={name} before Keras is imported"
        )
