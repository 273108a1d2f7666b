"""The competition's relative run-length encoding of masks.

Pixels are numbered column by column: top to bottom, then left to right. A mask is written as pairs `gap length`. The
gap is the number of pixels between the end of the previous run (for the first pair, the first pixel) and this run. The
length is the number of pixels in the run. `-1` stands for an empty mask. The organisers' own encoder loses a run that
ends at the last pixel; this one keeps it.
"""

import numpy as np

EMPTY = "-1"
_DIGITS = 12  # No image has more pixels, and sums of such numbers stay exact in int64.


def encode(mask: np.ndarray) -> str:
    """Return the run-length code of a mask.

    Args:
        mask: Mask, bool, (H, W). Other dtypes are accepted if they hold only 0 and 1.

    Returns:
        The runs as `gap length gap length ...`, or `-1` for an empty mask.

    Raises:
        ValueError: If the mask is not two-dimensional or holds values other than 0 and 1.

    Example:
        >>> encode(np.array([[0, 1], [0, 1]], dtype=bool))
        '2 2'
    """
    mask = _to_bool(mask)
    edges = _find_edges(mask)
    if edges.size == 0:
        return EMPTY
    gaps_and_lengths = np.diff(edges, prepend=0)
    return " ".join(map(str, gaps_and_lengths.tolist()))


def decode(text: str, shape: tuple[int, int] = (1024, 1024)) -> np.ndarray:
    """Return the mask that a run-length code describes.

    Args:
        text: The runs as `gap length gap length ...`, or `-1`. Surrounding white space is ignored.
        shape: Shape (H, W) of the mask, in pixels.

    Returns:
        The mask, bool, (H, W), C-contiguous.

    Raises:
        ValueError: If the text is malformed or a run ends outside the mask. The message names the pair and the reason.

    Example:
        >>> decode("2 2", shape=(2, 2)).astype(int).tolist()
        [[0, 1], [0, 1]]
    """
    rows, columns = shape
    flat = np.zeros(columns * rows, dtype=bool)
    starts, ends = run_bounds(text, shape)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        flat[start:end] = True
    if starts.size == 0:
        return flat.reshape(rows, columns)
    return _to_row_major(flat, rows, starts[0] // rows, -(-ends[-1] // rows))


def decode_rows(texts: list[str], shape: tuple[int, int] = (1024, 1024)) -> np.ndarray:
    """Return the mask of an image with several annotation rows, as the union of its rows.

    Rows may overlap (those of 183 training images of the competition do), so they are combined with OR and never added.

    Args:
        texts: Run-length codes, one per annotation row.
        shape: Shape (H, W) of the mask, in pixels.

    Returns:
        The mask, bool, (H, W); all False for an empty list.

    Raises:
        ValueError: If a row is malformed or one of its runs ends outside the mask. The message names the row, the pair
            and the reason.

    Example:
        >>> decode_rows(["0 1", "0 2"], shape=(2, 2)).astype(int).tolist()
        [[1, 0], [1, 0]]
    """
    mask = np.zeros(shape, dtype=bool)
    for number, text in enumerate(texts, start=1):
        try:
            mask |= decode(text, shape)
        except ValueError as error:
            raise ValueError(f"row {number} of {len(texts)}: {error}") from error
    return mask


def run_bounds(text: str, shape: tuple[int, int] = (1024, 1024)) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and end of each run as absolute positions in column-major pixel order.

    Args:
        text: The runs as `gap length gap length ...`, or `-1`. Surrounding white space is ignored.
        shape: Shape (H, W) of the mask, in pixels.

    Returns:
        Two int64 arrays of equal length: the first pixel of each run, and the pixel after its last. Both are empty for
        `-1`.

    Raises:
        ValueError: If the text is malformed or a run ends outside the mask. The message names the pair and the reason.

    Example:
        >>> starts, ends = run_bounds("1 2 3 1", shape=(3, 3))
        >>> starts.tolist(), ends.tolist()
        ([1, 6], [3, 7])
    """
    numbers = _parse_numbers(text)
    edges = np.cumsum(numbers)
    starts, ends = edges[0::2], edges[1::2]
    _refuse_pairs(numbers[1::2] < 1, numbers, "has a length below 1")
    _refuse_pairs(ends > shape[0] * shape[1], numbers, f"ends beyond the last of {shape[0]} x {shape[1]} pixels")
    return starts, ends


def _to_bool(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}, expected two dimensions (H, W)")
    if mask.dtype != bool:
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(
                "mask has values other than 0 and 1: threshold probabilities first, e.g. probability >= 0.5"
            )
        mask = mask.astype(bool)
    return np.ascontiguousarray(mask)


def _find_edges(mask: np.ndarray) -> np.ndarray:
    """Return the column-major positions at which the value changes: start, end, start, end, ...

    The row-major array is searched as it lies in memory, because transposing it costs more than all other steps
    together.
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


def _to_row_major(flat: np.ndarray, rows: int, first: int, last: int) -> np.ndarray:
    """Return column-major pixels as a C-contiguous mask, moving only the columns `first` to `last` (exclusive)."""
    columns = flat.size // rows
    mask = np.zeros((rows, columns), dtype=bool)
    mask[:, first:last] = flat.reshape(columns, rows)[first:last].T
    return mask


def _parse_numbers(text: str) -> np.ndarray:
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


def _refuse_pairs(wrong: np.ndarray, numbers: np.ndarray, reason: str) -> None:
    if wrong.any():
        pair = int(np.argmax(wrong))
        gap, length = numbers[2 * pair : 2 * pair + 2]
        raise ValueError(f"pair {pair + 1} ({gap} {length}) {reason}")
