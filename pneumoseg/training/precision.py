"""Numeric precision in which a network is built, and so computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build networks under a dtype policy while the context lasts.

    Args:
        policy: A Keras dtype policy. Under "mixed_float16" `compile` wraps the optimizer into one that scales the loss,
            so that small gradients do not vanish.

    Example:
        >>> with precision("mixed_bfloat16"):
        ...     keras.config.dtype_policy().compute_dtype
        'bfloat16'
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
