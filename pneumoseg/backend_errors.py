"""Errors of TensorFlow and JAX in one line."""

_OF_JAX = ("JaxRuntimeError", "XlaRuntimeError")  # the same class, which was renamed


IN_TRAINING = "take a smaller batch_size (and gradient_accumulation_steps), or precision: mixed_float16"
"""What a training can do that lacks memory."""


def backend_reason(error: Exception, remedy: str = IN_TRAINING) -> str | None:
    """Return the reason of an error that TensorFlow or JAX raised, and a remedy; None for any other error.

    Both have their own error classes; the first line of their messages names the cause.

    Args:
        error: The error.
        remedy: Remedy if memory was lacking.

    Example:
        >>> backend_reason(KeyError("path"))
    """
    name = type(error).__name__
    library = "JAX" if name in _OF_JAX else "TensorFlow"
    if library == "TensorFlow" and not type(error).__module__.startswith("tensorflow"):
        return None
    text = str(getattr(error, "message", error)).strip().partition("\n")[0]
    if name == "ResourceExhaustedError" or text.startswith("RESOURCE_EXHAUSTED"):
        text += f"; {remedy}"
    return f"{library} stopped ({name}): {text}"


def one_line(error: Exception, remedy: str = IN_TRAINING) -> str:
    """Return the reason of any error in one line; for those of TensorFlow and JAX see `backend_reason`.

    Args:
        error: The error.
        remedy: Remedy if memory was lacking.

    Example:
        >>> one_line(KeyError("path")), one_line(MemoryError())
        ("KeyError: 'path'", 'MemoryError')
    """
    text = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
    return backend_reason(error, remedy) or text
