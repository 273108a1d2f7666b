"""The run-length code, compared with hand-written runs, a brute-force decoder and real annotations."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pneumoseg import rle

MINI = Path(__file__).parents[1] / "../shared/siim-mini"


def brute_force(text, shape):
    flat, position = [0] * (shape[0] * shape[1]), 0
    numbers = [int(word) for word in text.split()]
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += gap
        for _ in range(length):
            flat[position] = 1
            position += 1
    return np.array([[flat[column * shape[0] + row] for column in range(shape[1])] for row in range(shape[0])], bool)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[0, 0], [0, 0]], "-1"),
        ([[1, 1], [1, 1]], "0 4"),
        ([[1, 0], [0, 0]], "0 1"),
        ([[0, 0], [0, 1]], "3 1"),  # ends at the last pixel: the organisers' encoder loses this run
        ([[0, 1], [1, 0]], "1 2"),  # one run across two columns
        ([[1, 1], [0, 0]], "0 1 1 1"),
        ([[0, 1, 0], [1, 0, 1]], "1 2 2 1"),
    ],
)
def test_hand_written_runs(mask, text):
    mask = np.array(mask, dtype=bool)
    assert rle.encode(mask) == text
    np.testing.assert_array_equal(rle.decode(text, mask.shape), mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (5, 8), (13, 4)])
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
def test_round_trip_and_brute_force(shape, fraction):
    rng = np.random.default_rng([*shape, round(100 * fraction)])
    for _ in range(50):
        mask = rng.random(shape) < fraction
        text = rle.encode(mask)
        decoded = rle.decode(text, shape)
        np.testing.assert_array_equal(decoded, mask)
        assert decoded.dtype == bool
        assert decoded.flags.c_contiguous
        if text != rle.EMPTY:
            np.testing.assert_array_equal(brute_force(text, shape), mask)


def test_round_trip_full_size_with_run_at_the_last_pixel():
    rows, columns = np.mgrid[:1024, :1024]
    mask = (rows - 1000) ** 2 + (columns - 1010) ** 2 < 300**2
    assert mask[-1, -1]
    np.testing.assert_array_equal(rle.decode(rle.encode(mask)), mask)


def test_encode_accepts_views_and_other_dtypes():
    mask = np.zeros((6, 4), dtype=np.uint8)
    mask[2:5, 1] = 1
    assert rle.encode(mask) == "8 3"
    assert rle.encode(mask.T[::-1]) == rle.encode(np.ascontiguousarray(mask.T[::-1]))


@pytest.mark.parametrize("array", [np.zeros((2, 2, 1)), np.zeros(4), np.full((2, 2), 0.5), np.full((2, 2), 255)])
def test_encode_refuses_arrays_that_are_not_masks(array):
    with pytest.raises(ValueError, match=r"^mask has"):
        rle.encode(array)


@pytest.mark.parametrize("text", ["-1", " -1", "-1\n", "  -1  "])
def test_all_spellings_of_the_empty_mask(text):
    assert not rle.decode(text, (3, 5)).any()
    assert rle.decode(text, (3, 5)).shape == (3, 5)


def test_surrounding_white_space_and_touching_runs():
    np.testing.assert_array_equal(rle.decode(" 1 1 0 2 \n", (2, 2)), [[0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no runs"),
        ("5", "pair 1: a gap without a length"),
        ("0 1 2", "pair 2: a gap without a length"),
        ("0 1 x 2", "pair 2: 'x' is not"),
        ("0 1.5", "pair 1: '1.5' is not"),
        ("-2 3", "pair 1: '-2' is not"),
        ("-1 -1", "pair 1: '-1' is not"),
        ("1_0 2", "pair 1: '1_0' is not"),
        ("0 1 1 0", r"pair 2 \(1 0\) has a length below 1"),
        ("2 3", r"pair 1 \(2 3\) ends beyond the last of 2 x 2 pixels"),
        ("0 1 999999999999 999999999999", r"pair 2 .* ends beyond"),
        ("0 " + "9" * 40, "pair 1: '99999999999999999999' is not"),
    ],
)
def test_malformed_text_names_the_pair(text, message):
    with pytest.raises(ValueError, match=message):
        rle.decode(text, (2, 2))


def test_rows_are_combined_with_or():
    mask = rle.decode_rows(["0 3", "2 3", "-1"], (3, 3))  # pixels 0-2 and 2-4 of the column-major order
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 0], [1, 0, 0]])
    assert not rle.decode_rows([], (3, 3)).any()
    with pytest.raises(ValueError, match=r"row 2 of 2: pair 1"):
        rle.decode_rows(["0 1", "0 99"], (3, 3))


def test_run_bounds_are_absolute():
    starts, ends = rle.run_bounds("1 2 3 1", (3, 3))
    assert starts.tolist() == [1, 6]
    assert ends.tolist() == [3, 7]


@pytest.mark.skipif(not MINI.exists(), reason="the real subset is not next to the checkout")
def test_real_annotations_round_trip():
    with open(MINI / "train-rle.csv") as file:
        texts = [row[1].strip() for row in list(csv.reader(file))[1:]]
    positive = [text for text in texts if text != rle.EMPTY]
    assert len(positive) == 58
    for text in positive:
        mask = rle.decode(text)
        assert mask.sum() == sum(int(word) for word in text.split()[1::2])
        np.testing.assert_array_equal(rle.decode(rle.encode(mask)), mask)
