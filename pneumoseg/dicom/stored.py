"""From the words that a decoder gives to stored values: which bits count, and which pixels are padding.

Native and lossless words hold what was written, so that what lies outside the stored bits is an overlay or garbage, and
is masked. A lossy codec knows nothing of Bits Stored: where its samples are deeper, it overshoots white and black by a
few values, and these are clamped, for masking them would turn white into black.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom.header import PixelFormat


def mask(words: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Keep the bits from High Bit downward; old files put overlays or nothing above and below them.

    Args:
        words: (rows, columns), as decoded without loss.
        precision: Bits that a word has. One of fewer bits than High Bit announces holds the stored bits alone.
        pixels: How the pixels are stored.

    Returns:
        uint8 or uint16, (rows, columns): the stored bits, two's complement where signed, and `pixels.padding_code`
        where a word is a Pixel Padding Value that the stored bits cannot hold.
    """
    unsigned: NDArray[np.unsignedinteger] = words.view(f"u{words.dtype.itemsize}")
    shift = _shift(precision, pixels)
    codes = _keep_bits(unsigned >> shift if shift else unsigned, pixels)
    if not _may_be_padded(precision, pixels):
        return codes
    numbers = unsigned.astype(np.int32) & (2**precision - 1)
    return _with_padding(codes, _twos_complement(numbers, precision) if pixels.signed else numbers, pixels)


def clamp(samples: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Bring what a lossy codec overshot back to the nearest value that the stored bits can hold.

    Args:
        samples: (rows, columns), as decoded, of the sign that the codestream says.
        precision: Bits that a sample has.
        pixels: How the pixels are stored.

    Returns:
        As `mask` does, padding being the samples nearer to it than to the stored bits.
    """
    if precision <= pixels.bits_stored and (pixels.signed or samples.dtype.kind == "u"):
        return mask(samples, precision, pixels)
    numbers = _meant(samples, precision, pixels)
    shift = _shift(precision, pixels)
    clamped = np.clip(numbers >> shift, *pixels.stored_range)
    codes = _keep_bits(clamped.astype(f"u{samples.dtype.itemsize}"), pixels)
    # Shifted values fill the word, and leave no room for padding that could be told from them once blurred.
    if shift or not _may_be_padded(precision, pixels):
        return codes
    return _with_padding(codes, numbers, pixels, near=True)


def mask_or_clamp(samples: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Mask samples of which nothing says whether their codec was a lossy one, unless clamping gives a smoother seam.

    What overshoots lies next to white or black, and masking tears it away; what lies under an overlay or garbage is
    like the pixels around it, and masking brings it back. So the seam decides: the neighbours of which one is within
    the stored bits and the other is not. Where there is none, a constant high bit say, the samples are masked.

    Args:
        samples: (rows, columns), as decoded, of the sign that the codestream says.
        precision: Bits that a sample has.
        pixels: How the pixels are stored.

    Returns:
        As `mask` or `clamp` does.
    """
    masked = mask(samples, precision, pixels)
    numbers, (low, high) = _meant(samples, precision, pixels) >> _shift(precision, pixels), pixels.stored_range
    outside = (numbers < low) | (numbers > high)
    if not outside.any():  # as in most files: then there is no seam
        return masked
    clamped = clamp(samples, precision, pixels)
    return clamped if _seam(clamped, outside, pixels) < _seam(masked, outside, pixels) else masked


def _seam(codes: NDArray[np.unsignedinteger], outside: NDArray[np.bool_], pixels: PixelFormat) -> int:
    """Add up how far neighbouring pixels differ where one is outside the stored bits and the other is not."""
    numbers = codes.astype(np.int32)
    numbers = _twos_complement(numbers, pixels.bits_stored) if pixels.signed else numbers
    return sum(
        int(np.abs(np.diff(numbers, axis=axis))[np.diff(outside, axis=axis)].sum(dtype=np.int64)) for axis in (0, 1)
    )


def _shift(precision: int, pixels: PixelFormat) -> int:
    return pixels.high_bit + 1 - pixels.bits_stored if precision > pixels.high_bit else 0


def _keep_bits(words: NDArray[Any], pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    bits = pixels.bits_stored
    return words if bits >= 8 * words.dtype.itemsize else words & words.dtype.type(2**bits - 1)


def _twos_complement(numbers: NDArray[np.int32], bits: int) -> NDArray[np.int32]:
    """Read the lowest bits as a signed number."""
    half = 2 ** (bits - 1)
    return ((numbers & (2 * half - 1)) ^ half) - half


def _meant(samples: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.int32]:
    """Give samples the sign of Pixel Representation where the codestream says another.

    Signed values in unsigned samples are two's complement, of the samples' bits or of the stored bits alone. In the
    former case some sample has the top bit, or none is negative and none goes much beyond the largest stored value;
    in the latter the values just below zero lie close to the top of the stored bits. Unsigned values in signed samples
    are the same numbers, those below zero overshot, unless some are so low that they must be large ones wrapped.
    """
    numbers = samples.astype(np.int32)
    if pixels.signed and samples.dtype.kind == "u":
        bits = pixels.bits_stored + _shift(precision, pixels)
        stored_bits_alone = 3 * 2 ** (bits - 2) <= numbers.max() < 2 ** (precision - 1)
        if stored_bits_alone:
            return _twos_complement(np.minimum(numbers, 2**bits - 1), bits)
        return _twos_complement(numbers, precision)
    if not pixels.signed and numbers.min() < -(2**precision) // 4:
        return numbers & (2**precision - 1)
    return numbers


def _may_be_padded(precision: int, pixels: PixelFormat) -> bool:
    """Tell whether words have room for a padding value that the stored bits have not."""
    low, high = pixels.stored_range
    padding = pixels.padding
    return padding is not None and precision > pixels.bits_stored and (padding[0] < low or padding[1] > high)


def _with_padding(
    codes: NDArray[np.unsignedinteger], numbers: NDArray[np.int32], pixels: PixelFormat, near: bool = False
) -> NDArray[np.unsignedinteger]:
    """Mark the words outside the stored bits that are padding, or, if `near`, closer to it than to the stored bits."""
    assert pixels.padding is not None
    (low, high), (first, last) = pixels.stored_range, pixels.padding
    if near and first > high:
        first, last = (first + high + 1) // 2, np.iinfo(np.int32).max
    if near and last < low:
        first, last = np.iinfo(np.int32).min, (last + low) // 2
    outside = (numbers < low) | (numbers > high)
    padding = outside & (numbers >= first) & (numbers <= last)
    return np.where(padding, codes.dtype.type(pixels.padding_code), codes)
