"""Name and unique identifiers of the objects that this package makes."""

import uuid

MAKER = "pneumoseg"
"""Manufacturer and model of the objects."""
CAUTION = "Research only, not for diagnosis"
"""Text that is written into each report and picture."""

_NAMESPACE = uuid.UUID("78d36885-d5a3-4567-9fd7-adebbf75ef18")


def derive_uid(*parts: str) -> str:
    """Return a UID that is the same whenever the parts are (PS3.5 section B.2).

    Args:
        parts: Texts that together name one thing.

    Example:
        >>> derive_uid("1.2.3", "report") == derive_uid("1.2.3", "report")
        True
    """
    # The separator occurs in no part, so that different parts never give the same text.
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(parts)).int}"
