"""The competition's relative run-length code.

A mask is read column by column (top to bottom, then left to right) and written as pairs `gap length`: how many
pixels lie between the end of the run before (for the first pair, the first pixel) and this run, and how many pixels
the run has. `-1` is the empty mask. The organisers' own encoder loses a run that ends at the last pixel; this one
does not.
"""

import numpy as np

EMPTY = "-1"
_DIGITS = 12  # no grid has more pixels, and sums of such numbers stay exact in int64


def encode(mask: np.ndarray) -> str:
    """Write a mask as runs.

    Args:
        mask: bool, (H, W). Other dtypes are accepted if they hold only 0 and 1.

    Returns:
        `gap length gap length ...`, or `-1` for a mask without a pixel.

    Raises:
        ValueError: If the mask is not two-dimensional or holds values other than 0 and 1.

    Example:
        >>> encode(np.array([[0, 1], [0, 1]], dtype=bool))
        '2 2'
    """
    mask = _as_mask(mask)
    edges = _edges(mask)
    if edges.size == 0:
        return EMPTY
    gaps_and_lengths = np.diff(edges, prepend=0)
    return " ".join(map(str, gaps_and_lengths.tolist()))


def decode(text: str, shape: tuple[int, int] = (1024, 1024)) -> np.ndarray:
    """Read a mask from its runs.

    Args:
        text: `gap length gap length ...`, or `-1`; surrounding white space is ignored.
        shape: (H, W) of the mask's grid.

    Returns:
        bool, (H, W), C-contiguous.

    Raises:
        ValueError: If the text is malformed or a run leaves the grid; the message names the pair and the reason.
    """
    rows, columns = shape
    flat = np.zeros(columns * rows, dtype=bool)
    starts, ends = spans(text, shape)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        flat[start:end] = True
    if starts.size == 0:
        return flat.reshape(rows, columns)
    return _transposed(flat, rows, starts[0] // rows, -(-ends[-1] // rows))


def decode_rows(texts: list[str], shape: tuple[int, int] = (1024, 1024)) -> np.ndarray:
    """Read the mask of an image that has several annotation rows: a pixel belongs to it if any row holds it.

    Rows may overlap (183 images of the competition's training set do), so they are OR-ed, never added.

    Args:
        texts: One run-length text a row.
        shape: (H, W) of the mask's grid.

    Returns:
        bool, (H, W); empty for an empty list.

    Raises:
        ValueError: As `decode`, saying in which row.
    """
    mask = np.zeros(shape, dtype=bool)
    for number, text in enumerate(texts, start=1):
        try:
            mask |= decode(text, shape)
        except ValueError as error:
            raise ValueError(f"row {number} of {len(texts)}: {error}") from error
    return mask


def spans(text: str, shape: tuple[int, int] = (1024, 1024)) -> tuple[np.ndarray, np.ndarray]:
    """Read the runs as absolute positions in the column-major pixel order.

    Args:
        text: As for `decode`.
        shape: (H, W) of the mask's grid.

    Returns:
        Two int64 arrays of one length: each run's first pixel, and the pixel after its last. Both empty for `-1`.

    Raises:
        ValueError: As `decode`.
    """
    numbers = _numbers(text)
    edges = np.cumsum(numbers)
    starts, ends = edges[0::2], edges[1::2]
    _check(numbers[1::2] < 1, numbers, "has a length below 1")
    _check(ends > shape[0] * shape[1], numbers, f"ends beyond the last of {shape[0]} x {shape[1]} pixels")
    return starts, ends


def _as_mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions (H, W), this array has shape {mask.shape}")
    if mask.dtype != bool:
        if not np.isin(mask, (0, 1)).all():
            raise ValueError("a mask holds only 0 and 1: binarise a probability first, e.g. probability >= 0.5")
        mask = mask.astype(bool)
    return np.ascontiguousarray(mask)


def _edges(mask: np.ndarray) -> np.ndarray:
    """Positions, column-major, at which the value changes: start, end, start, end, ...

    Works on the row-major array as it lies in memory, since transposing a megabyte costs more than all the rest.
    """
    rows, columns = mask.shape
    if mask.size == 0:
        return np.zeros(0, dtype=np.int64)
    changes = np.empty(mask.shape, dtype=bool)
    np.not_equal(mask[1:], mask[:-1], out=changes[1:])
    changes[0, 0] = mask[0, 0]
    np.not_equal(mask[0, 1:], mask[-1, :-1], out=changes[0, 1:])
    row, column = np.divmod(np.flatnonzero(changes), columns)
    edges = np.sort(column * rows + row)
    return np.append(edges, mask.size) if mask[-1, -1] else edges


def _transposed(flat: np.ndarray, rows: int, first: int, last: int) -> np.ndarray:
    """Column-major pixels as a C-contiguous mask, moving only the columns `first` to `last`, exclusive."""
    columns = flat.size // rows
    mask = np.zeros((rows, columns), dtype=bool)
    mask[:, first:last] = flat.reshape(columns, rows)[first:last].T
    return mask


def _numbers(text: str) -> np.ndarray:
    words = text.split()
    if words == [EMPTY]:
        return np.zeros(0, dtype=np.int64)
    if not words:
        raise ValueError("no runs: write -1 for an empty mask")
    joined = "".join(words)
    if not (joined.isascii() and joined.isdigit() and max(map(len, words)) <= _DIGITS):
        position, word = next((p, w) for p, w in enumerate(words) if not _is_count(w))
        raise ValueError(f"pair {position // 2 + 1}: {word[:20]!r} is not a whole number of pixels")
    if len(words) % 2:
        raise ValueError(f"pair {len(words) // 2 + 1}: a gap without a length, the text holds {len(words)} numbers")
    return np.array(list(map(int, words)), dtype=np.int64)


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= _DIGITS


def _check(wrong: np.ndarray, numbers: np.ndarray, reason: str) -> None:
    if wrong.any():
        pair = int(np.argmax(wrong))
        gap, length = numbers[2 * pair : 2 * pair + 2]
        raise ValueError(f"pair {pair + 1} ({gap} {length}) {reason}")
