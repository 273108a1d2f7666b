"""Batches of several processes, each of which loads only the images that its own devices compute with."""

import math

import numpy as np
import pytest

from pneumoseg.data import loaders
from pneumoseg.data.sampling import random_epoch


@pytest.fixture
def as_process(monkeypatch):
    """Makes the loader work as one of several processes with one device each."""

    def become(number, count):
        def rows(images):
            each = math.ceil(images / count)
            return range(min(number * each, images), min((number + 1) * each, images))

        monkeypatch.setattr(loaders, "rows_of_this_process", rows)

    return become


@pytest.mark.parametrize(("size", "processes", "gigabytes"), [(7, 2, 0), (13, 4, 2.5), (64, 3, 0)])
def test_the_processes_load_each_image_once_and_leave_the_others_zero(
    size, processes, gigabytes, manifest, tmp_path, as_process
):
    examples = loaders.segmentation_examples(manifest, 32, cache_dir=tmp_path, decoded_images_gigabytes=gigabytes)
    epoch = random_epoch(manifest["has_pneumothorax"].to_numpy(), 1, seed=5, augmented=False)
    whole = [[array.numpy() for array in batch] for batch in examples.batches(size, epoch)]
    parts = []
    for number in range(processes):
        as_process(number, processes)
        own = examples.batches(size, epoch)
        assert int(own.cardinality()) == math.ceil(len(manifest) / size)
        parts.append([[array.numpy() for array in batch] for batch in own])
    for number, expected in enumerate(whole):
        each = math.ceil(len(expected[0]) / processes)
        for process in range(processes):
            rows = slice(process * each, (process + 1) * each)
            found = parts[process][number]
            for array, other in zip(found, expected, strict=True):
                assert (array.shape, array.dtype) == (other.shape, other.dtype)
                np.testing.assert_array_equal(array[rows], other[rows])
            if process:  # the first row may be there where a process has none
                assert not found[0][1 : rows.start].any()
            assert not found[0][rows.stop :][1 if len(found[0]) <= process * each else 0 :].any()


def test_the_batches_keep_their_structure(manifest, tmp_path, as_process):
    examples = loaders.classification_examples(manifest, 32, cache_dir=tmp_path)
    expected = examples.batches(7).element_spec
    as_process(1, 2)
    assert examples.batches(7).element_spec == expected
