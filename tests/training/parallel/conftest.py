import functools

import keras
import pytest

if keras.backend.backend() != "jax":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def large_epsilon():
    """Adam divides a gradient by its size: near 0 its rounding would count as much as a large gradient elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.optimizers, "Adam", functools.partial(keras.optimizers.Adam, epsilon=1e-2))
        yield


@pytest.fixture(scope="session")
def compact_classifier(classifier):
    """Makes the task of a small classifier that trains for three epochs in two phases.

    Its batches have 13 and 7 images, which two devices cannot share evenly.
    """
    phases = [
        {"epochs": 1, "learning_rate": 1e-2, "trainable": "head"},
        {"epochs": 2, "learning_rate": 1e-2, "trainable": "all"},
    ]
    changes = {"plateau": {"factor": 0.5, "patience": 1}, "class_weights": "balanced"}
    return lambda: classifier(phases=phases, batch_size=13, **changes)


@pytest.fixture(scope="session")
def compact_segmenter(segmenter):
    """Makes the task of a small segmenter that trains for three epochs in two phases and averages the last two."""
    phases = [
        {"epochs": 1, "learning_rate": 1e-2, "trainable": "second_half"},
        {"epochs": 2, "learning_rate": 1e-2, "trainable": "all", "cosine": {"cycle_epochs": 2}},
    ]
    return lambda: segmenter(phases=phases, swa={"start_epoch": 2, "end_epoch": 3}, batch_size=5)
