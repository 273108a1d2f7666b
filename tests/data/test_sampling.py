"""What an epoch shows: counts, shares, no replacement, and nothing but seed and number decide."""

import numpy as np
import pandas as pd
import pytest

from pneumoseg.data.sampling import UNCHANGED, enriched_epoch, random_epoch, scheduled_fraction

LABELS = np.arange(100) < 20


def test_every_image_once():
    epoch = random_epoch(LABELS, 3, seed=0)
    assert sorted(epoch.rows) == list(range(100))
    assert list(epoch.rows) != list(range(100))
    assert (epoch.transforms == UNCHANGED).all()
    assert (random_epoch(LABELS, 3, seed=0, augmented=True).transforms == 0).all()


def test_seed_and_number_decide_alone():
    first, again = (random_epoch(LABELS, 7, seed=1, augmented=True) for _ in range(2))
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.seeds, again.seeds)
    for other in (random_epoch(LABELS, 8, seed=1, augmented=True), random_epoch(LABELS, 7, seed=2, augmented=True)):
        assert not np.array_equal(first.rows, other.rows)
        assert not np.intersect1d(first.seeds, other.seeds).size
    assert np.unique(first.seeds).size == 100


@pytest.mark.parametrize(("share", "negatives"), [(0.8, 5), (0.5, 20), (0.4, 30), (0.2, 80), (0.1, 80)])
def test_share_of_positives(share, negatives):
    epoch = random_epoch(LABELS, 0, seed=0, positive_fraction=share)
    assert np.unique(epoch.rows).size == epoch.rows.size  # without replacement
    assert LABELS[epoch.rows].sum() == 20  # every positive
    assert (~LABELS[epoch.rows]).sum() == negatives


def test_other_negatives_each_epoch():
    negatives = [set(random_epoch(LABELS, n, seed=0, positive_fraction=0.5).rows) - set(range(20)) for n in range(30)]
    assert len({frozenset(chosen) for chosen in negatives}) == 30
    assert set.union(*negatives) == set(range(20, 100))


def test_share_of_no_positive():
    with pytest.raises(ValueError, match="none of 5 is positive"):
        random_epoch(np.zeros(5, bool), 0, seed=0, positive_fraction=0.5)


def test_share_slides_in_equal_steps():
    assert [scheduled_fraction(0.8, 0.4, n, 5) for n in range(5)] == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4])
    assert scheduled_fraction(0.8, 0.4, 0, 1) == 0.8


def test_copies_are_shown_beside_all_images_and_look_the_same_each_epoch():
    copies = pd.DataFrame({"row": [4, 9, 4], "transform": [0, 1, 1], "seed": [11, 12, 13]})
    shown = []
    for number in range(2):
        epoch = enriched_epoch(10, copies, number, seed=0)
        examples = list(zip(epoch.rows, epoch.transforms, epoch.seeds, strict=True))
        plain = [row for row, transform, _ in examples if transform == UNCHANGED]
        assert sorted(plain) == list(range(10))
        assert sorted(e for e in examples if e[1] != UNCHANGED) == [(4, 0, 11), (4, 1, 13), (9, 1, 12)]
        shown.append(examples)
    assert shown[0] != shown[1]
