import urllib.error
from pathlib import Path

import keras
import pytest

WEIGHTS = Path(__file__).parents[2] / "../shared/weights"


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Let Keras find neither a cached file nor a server."""

    def refuse(url, *_):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)


@pytest.fixture(scope="session")
def official_weights():
    """Return the folder of small ImageNet weights next to the checkout, or skip the test."""
    if not WEIGHTS.is_dir():
        pytest.skip("no ImageNet weights next to the checkout")
    return WEIGHTS
