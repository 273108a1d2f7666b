"""Errors of the backends in one line."""

import pytest
import tensorflow as tf

from pneumoseg.backend_errors import backend_reason


class XlaRuntimeError(RuntimeError):
    """The name that JAX's error had before."""


def of_jax(text):
    return pytest.importorskip("jax").errors.JaxRuntimeError(text)


@pytest.mark.parametrize("make", [of_jax, XlaRuntimeError])
def test_jax_without_memory_has_the_remedy_of_tensorflow(make):
    reason = backend_reason(make("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"))
    assert "JAX stopped" in reason
    assert "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.; take a smaller batch_size" in reason
    assert "more" not in reason


def test_other_errors_of_the_backends_have_no_remedy():
    assert backend_reason(of_jax("INTERNAL: no")).endswith("): INTERNAL: no")
    assert backend_reason(tf.errors.InternalError(None, None, "no")) == "TensorFlow stopped (InternalError): no"


def test_errors_of_others_are_left_alone():
    assert backend_reason(RuntimeError("RESOURCE_EXHAUSTED: of a shop")) is None
