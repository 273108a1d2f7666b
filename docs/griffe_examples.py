"""Show the `Example:` sections of docstrings as examples; Griffe knows only the plural."""

import re
from typing import Any

import griffe


class SingularExamples(griffe.Extension):
    """Rename `Example:` sections while docstrings are read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the sections of one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
