"""Contexts around the import of a module, whoever imports it first."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_Context = Callable[[], AbstractContextManager[None]]


def import_within(name: str, context: _Context) -> None:
    """Run a module within a context if it is imported from now on; without effect if it already is.

    Args:
        name: Name of the module.
        context: Function that returns the context.

    Example:
        >>> import_within("tensorflow", contextlib.nullcontext)  # doctest: +SKIP
    """
    if name not in sys.modules:
        sys.meta_path.insert(0, _Finder(name, context))


class _Finder:
    """Finder of one module for `sys.meta_path`, which finds what the finders behind it find."""

    def __init__(self, name: str, context: _Context) -> None:
        self._name, self._context = name, context

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(name, path, target) for finder in behind if hasattr(finder, "find_spec"))
        spec = next(filter(None, specs), None)
        if spec is not None:
            with suppress(AttributeError):  # without a loader, or with one that cannot be changed, nothing changes
                execute = _within(self._context, spec.loader.exec_module)  # type: ignore[union-attr]
                spec.loader.exec_module = execute  # type: ignore[union-attr, method-assign]
        return spec


def _within(context: _Context, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    @wraps(execute)
    def run(module: ModuleType) -> None:
        with context():
            execute(module)

    return run
