"""The names that `import pneumoseg` offers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pneumoseg


@pytest.mark.parametrize("name", pneumoseg.__all__)
def test_every_exported_name_exists_and_is_documented(name):
    assert getattr(pneumoseg, name).__doc__


def test_type_checkers_see_the_exported_names():
    tree = ast.parse(Path(pneumoseg.__file__).read_text())
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    own = {"import_module", "TYPE_CHECKING", "Any", "keep_from_stderr"}
    assert sorted(set(imported) - own) == sorted(pneumoseg.__all__)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = pneumoseg.absent


def test_import_is_light_and_silent():
    code = "import sys, pneumoseg; print([m for m in ('numpy', 'pandas', 'keras', 'tensorflow') if m in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("[]\n", "")
