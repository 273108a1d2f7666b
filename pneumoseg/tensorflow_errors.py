"""Errors of TensorFlow in one line."""


def tensorflow_reason(error: Exception) -> str | None:
    """Return the reason of an error that TensorFlow raised, and a remedy; None for any other error.

    TensorFlow has its own error classes; the first line of their messages names the cause.

    Example:
        >>> tensorflow_reason(KeyError("path"))
    """
    if not type(error).__module__.startswith("tensorflow"):
        return None
    text = str(getattr(error, "message", error)).strip().partition("\n")[0]
    if type(error).__name__ == "ResourceExhaustedError":
        text += "; take a smaller batch_size (and gradient_accumulation_steps), or precision: mixed_float16"
    return f"TensorFlow stopped ({type(error).__name__}): {text}"
