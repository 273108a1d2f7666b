"""Keras models as networks of a pipeline."""

import keras
import numpy as np

from tests.networks import brightest


def test_a_model_is_traced_once_for_all_batch_sizes():
    network = brightest(8)
    network.model.jit_compile = False
    for count in (4, 3, 1, 4):
        images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 8, 8, 1), np.uint8)
        np.testing.assert_allclose(network(images), np.arange(count)[:, None] / 255, rtol=1e-6)
    if keras.backend.backend() == "tensorflow":
        assert network._graph.experimental_get_tracing_count() == 1
