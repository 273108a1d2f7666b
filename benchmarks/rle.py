"""Milliseconds to encode and to decode a 1024 x 1024 mask, compared with a pixel-by-pixel baseline.

Run with: python benchmarks/rle.py
"""

import timeit

import numpy as np

from pneumoseg import rle


def plain_encode(mask: np.ndarray) -> str:
    """Encode a mask with the organisers' loop over pixels, corrected to keep the last run."""
    pairs, run, end = [], 0, 0
    for position, value in enumerate([*mask.T.ravel().tolist(), False]):
        if value:
            run += 1
        elif run:
            pairs += [str(position - run - end), str(run)]
            end, run = position, 0
    return " ".join(pairs) or rle.EMPTY


def milliseconds(function, *arguments, number: int) -> float:
    return 1000 * min(timeit.repeat(lambda: function(*arguments), number=number, repeat=5)) / number


def main() -> None:
    rows, columns = np.mgrid[:1024, :1024]
    mask = ((rows - 500) / 380) ** 2 + ((columns - 700) / 120) ** 2 < 1
    mask &= ((rows - 520) / 380) ** 2 + ((columns - 670) / 120) ** 2 >= 1
    text = rle.encode(mask)
    if plain_encode(mask) != text:
        raise AssertionError("the two encoders disagree")
    encode, decode = milliseconds(rle.encode, mask, number=50), milliseconds(rle.decode, text, number=50)
    plain = milliseconds(plain_encode, mask, number=1)
    print(f"mask of {mask.sum()} px in {len(text.split()) // 2} runs")
    print(f"encode {encode:.2f} ms, decode {decode:.2f} ms, both {encode + decode:.2f} ms")
    print(f"encode is {plain / encode:.0f} times as fast as the pixel loop ({plain:.0f} ms)")


if __name__ == "__main__":
    main()
