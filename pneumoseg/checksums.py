"""Checksums that reveal damage and careless edits of files; they are not signatures."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_sha256(content: Mapping[str, Any], own_key: str) -> str:
    """Return the SHA-256 of a JSON object without its own checksum, independent of the layout of the file.

    Args:
        content: The object.
        own_key: Key of the object's own checksum, which is left out.

    Example:
        >>> content_sha256({"a": 1, "sha256": "x"}, "sha256") == content_sha256({"a": 1}, "sha256")
        True
    """
    summed = {key: value for key, value in content.items() if key != own_key}
    return hashlib.sha256(json.dumps(summed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
