"""Compilation of networks by XLA, which TensorFlow does on request and JAX always."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def uses_xla(requested: bool) -> bool:
    """Return whether XLA compiles a network on the present Keras backend.

    On TensorFlow that is a choice, because a graph without XLA is fast too. On JAX the choice would be between XLA and
    a network whose operations are called one by one.

    Args:
        requested: Whether the user asks for XLA, the setting `jit_compile`.

    Example:
        >>> uses_xla(False)  # on TensorFlow  # doctest: +SKIP
        False
    """
    import keras

    return requested or keras.backend.backend() == "jax"


def compiled_by_jax(model: "keras.Model", *, training: bool) -> Callable[[Any], tuple[Any, list[Any]]]:
    """Return a network as one function that JAX compiles, once for each shape of a batch.

    Within `all_devices` each device gets a part of the batch.

    Args:
        model: Network on Keras' JAX backend. It stays unchanged, and the function follows changes of its weights.
        training: Whether the layers run as in training.

    Returns:
        A function from a batch of images, as an array or a tensor of TensorFlow, to the outputs and the new values of `model.non_trainable_variables`.

    Example:
        >>> outputs, _ = compiled_by_jax(model, training=False)(images)  # doctest: +SKIP
    """
    import jax

    from pneumoseg.data_parallel import shared_out

    @jax.jit
    def compute(trainable: list[Any], others: list[Any], images: Any) -> tuple[Any, list[Any]]:
        return model.stateless_call(trainable, others, shared_out(images), training=training)

    def call(images: Any) -> tuple[Any, list[Any]]:
        variables = model.trainable_variables, model.non_trainable_variables
        return compute(*([variable.value for variable in part] for part in variables), np.asarray(images))

    return call
