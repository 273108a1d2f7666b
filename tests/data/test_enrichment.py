"""Equations 1 and 2 of the paper, remainders included."""

import numpy as np
import pandas as pd
import pytest

from pneumoseg.data.enrichment import enrich


def labels_of(positives, negatives, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat([True, False], [positives, negatives]))


@pytest.mark.parametrize(
    ("positives", "negatives", "counts"),
    [
        (1000, 5000, [1000] * 4),  # the paper's example
        (2135, 7502, [1342, 1342, 1342, 1341]),  # the competition's training side: sdif 5367
        (10, 21, [3, 3, 3, 2]),
        (3, 50, [12, 12, 12, 11]),  # more copies than positives
        (5, 7, [1, 1, 0, 0]),
        (5, 5, [0, 0, 0, 0]),
    ],
)
def test_set_ends_balanced(positives, negatives, counts):
    labels = labels_of(positives, negatives)
    copies = enrich(labels, 4, seed=0)
    assert np.bincount(copies["transform"], minlength=4).tolist() == counts
    assert positives + len(copies) == negatives
    assert labels[copies["row"]].all()
    times = np.bincount(copies["row"], minlength=len(labels))[labels]
    assert times.max() - times.min() <= 1


def test_no_image_twice_by_one_technique_while_there_are_others():
    copies = enrich(labels_of(50, 150), 4, seed=3)  # 25 copies a transform
    assert not copies.duplicated(["row", "transform"]).any()
    paper = enrich(labels_of(1000, 5000), 4, seed=3)
    assert not paper.duplicated(["row", "transform"]).any()


def test_seed_decides():
    labels = labels_of(20, 60)
    pd.testing.assert_frame_equal(enrich(labels, 4, seed=1), enrich(labels, 4, seed=1))
    assert not enrich(labels, 4, seed=1)["row"].equals(enrich(labels, 4, seed=2)["row"])
    assert enrich(labels, 4, seed=1)["seed"].nunique() == 40


@pytest.mark.parametrize(("positives", "negatives"), [(0, 5), (6, 5)])
def test_nothing_to_balance(positives, negatives):
    with pytest.raises(ValueError, match=f"{positives} of {positives + negatives} images are positive"):
        enrich(labels_of(positives, negatives), 4, seed=0)
