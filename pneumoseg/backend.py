"""The backend of Keras, which has to be chosen before Keras is imported."""

import importlib.util
import os
import sys

BACKENDS = ("tensorflow", "jax")


def require_backend(name: str) -> None:
    """Check that a backend of Keras can be chosen.

    Args:
        name: "tensorflow" or "jax".

    Raises:
        ValueError: If it is unknown or not installed.

    Example:
        >>> require_backend("tensorflow")
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}, expected {' or '.join(BACKENDS)}")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"the backend {name} is not installed: pip install 'pneumoseg[{name}]'")


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
    name = name or os.environ.get("KERAS_BACKEND")
    if not name:
        return
    require_backend(name)
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != name:
        raise ValueError(
            f"Keras was imported with the backend {keras.config.backend()}, and {name} is asked for: set "
            f"KERAS_BACKEND={name} before Keras is imported"
        )
    os.environ["KERAS_BACKEND"] = name
