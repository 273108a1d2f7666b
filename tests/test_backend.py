"""The choice of Keras' backend, in processes that have not imported Keras."""

import subprocess
import sys

import pytest

from pneumoseg import backend

CHOICE = "import os; from pneumoseg.backend import choose_backend; {}; print(os.environ.get('KERAS_BACKEND'))"


@pytest.mark.parametrize(
    ("code", "chosen"),
    [
        ("choose_backend('jax')", "jax"),
        ("choose_backend(None)", "tensorflow"),
        ("import sys; choose_backend('jax'); assert 'keras' not in sys.modules", "jax"),
    ],
)
def test_a_backend_is_chosen_before_keras_is_imported(code, chosen, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    run = subprocess.run([sys.executable, "-c", CHOICE.format(code)], capture_output=True, text=True, check=True)
    assert run.stdout == f"{chosen}\n"


@pytest.mark.parametrize("name", ["torch", "jacks"])
def test_a_backend_of_the_environment_is_checked(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", name)
    with pytest.raises(ValueError, match=f"unknown backend '{name}', expected tensorflow or jax"):
        backend.choose_backend(None)


def test_another_backend_than_that_of_an_imported_keras_is_refused(monkeypatch):
    import keras

    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    other = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
    with pytest.raises(ValueError, match=f"set KERAS_BACKEND={other} before Keras is imported"):
        backend.choose_backend(other)
    assert backend.os.environ["KERAS_BACKEND"] == keras.backend.backend()


def test_a_missing_backend_names_its_extra(monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the backend jax is not installed: pip install 'pneumoseg\[jax\]'"):
        backend.require_backend("jax")
