"""Contexts around imports, next to finders and loaders of all kinds."""

import importlib
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

import pytest

from pneumoseg.import_hook import import_within

NAME = "imported_within"


@pytest.fixture
def entered(tmp_path, monkeypatch):
    """Return the list that the module and the function `noting` append to; the import system is restored at the end."""
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{NAME}.py").write_text("import sys\nsys.noted.append('module')\n")
    monkeypatch.setattr(sys, "noted", [], raising=False)
    yield sys.noted
    sys.modules.pop(NAME, None)


def noting(name):
    @contextmanager
    def context():
        sys.noted.append(name)
        yield
        sys.noted.append(f"end of {name}")

    return context


def test_several_contexts_are_nested_and_last_for_a_reload(entered):
    import_within(NAME, noting("inner"))
    import_within(NAME, noting("outer"))
    nested = ["outer", "inner", "module", "end of inner", "end of outer"]
    module = importlib.import_module(NAME)
    assert entered == nested
    importlib.reload(module)
    assert entered == 2 * nested


def test_a_module_that_is_imported_already_is_left_alone(entered):
    importlib.import_module(NAME)
    import_within(NAME, noting("context"))
    importlib.reload(sys.modules[NAME])
    assert entered == ["module", "module"]


class Unchangeable:
    """A finder of itself as a loader, which has no attributes that could be set."""

    __slots__ = ()

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == NAME else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        sys.noted.append("unchangeable")


@pytest.mark.parametrize(
    ("finder", "noted"),
    [(object(), ["context", "module", "end of context"]), (Unchangeable(), ["unchangeable"])],
)
def test_finders_of_other_kinds_do_not_break_the_import(finder, noted, entered):
    sys.meta_path.insert(0, finder)
    import_within(NAME, noting("context"))
    importlib.import_module(NAME)
    assert entered == noted


def test_a_finder_in_front_goes_first(entered):
    import_within(NAME, noting("context"))
    sys.meta_path.insert(0, Unchangeable())
    importlib.import_module(NAME)
    assert entered == ["unchangeable"]


def test_a_namespace_without_a_loader(entered, tmp_path):
    (tmp_path / f"{NAME}.py").unlink()
    (tmp_path / NAME).mkdir()
    import_within(NAME, noting("context"))
    assert list(importlib.import_module(NAME).__path__) == [str(tmp_path / NAME)]
