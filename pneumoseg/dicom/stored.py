"""Stored values from decoded words: the bits that count, and the pixels that are padding.

Native and lossless words are exactly those that were written. Bits outside the stored bits are an overlay or garbage
and are masked. A lossy codec does not know Bits Stored: where its samples are deeper, values overshoot white and black
by a little. These are clamped, because masking would turn white into black.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom.header import PixelFormat


def mask_bits(words: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Return the stored bits of words, from High Bit downward; old files have overlays or nothing above and below them.

    Args:
        words: Words decoded without loss, integer, (rows, columns).
        precision: Number of bits of a word. A word of fewer bits than High Bit announces holds only the stored bits.
        pixels: Storage format of the pixels.

    Returns:
        The stored bits, uint8 or uint16, (rows, columns), in two's complement if signed. A word that is a Pixel Padding
        Value that the stored bits cannot hold becomes `pixels.padding_code`.
    """
    unsigned: NDArray[np.unsignedinteger] = words.view(f"u{words.dtype.itemsize}")
    shift = _shift(precision, pixels)
    codes = _keep_bits(unsigned >> shift if shift else unsigned, pixels)
    if not _can_hold_padding(precision, pixels):
        return codes
    numbers = unsigned.astype(np.int32) & (2**precision - 1)
    return _mark_padding(codes, _twos_complement(numbers, precision) if pixels.signed else numbers, pixels)


def clamp(samples: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Return the stored bits of samples after clamping the overshoot of a lossy codec to the nearest stored value.

    Args:
        samples: Decoded samples, integer, (rows, columns), with the sign that the codestream announces.
        precision: Number of bits of a sample.
        pixels: Storage format of the pixels.

    Returns:
        The stored bits, uint8 or uint16, (rows, columns), in two's complement if signed. A sample that is nearer to a
        Pixel Padding Value outside the stored range than to that range becomes `pixels.padding_code`.
    """
    if precision <= pixels.bits_stored and (pixels.signed or samples.dtype.kind == "u"):
        return mask_bits(samples, precision, pixels)
    numbers = _apply_sign(samples, precision, pixels)
    shift = _shift(precision, pixels)
    clamped = np.clip(numbers >> shift, *pixels.stored_range)
    codes = _keep_bits(clamped.astype(f"u{samples.dtype.itemsize}"), pixels)
    # Shifted values fill the word, so lossy compression makes padding indistinguishable from them.
    if shift or not _can_hold_padding(precision, pixels):
        return codes
    return _mark_padding(codes, numbers, pixels, near=True)


def mask_or_clamp(samples: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Return the stored bits of samples that may or may not come from a lossy codec.

    Overshoot lies next to white or black, and masking separates it from its neighbours. Pixels under an overlay or
    garbage resemble their neighbours, and masking restores this. The decision uses neighbours of which only
    one is inside the stored range: the samples are clamped only if this makes the steps between them smaller. Without
    such neighbours, for example under a constant high bit, the samples are masked.

    Args:
        samples: Decoded samples, integer, (rows, columns), with the sign that the codestream announces.
        precision: Number of bits of a sample.
        pixels: Storage format of the pixels.

    Returns:
        The result of `mask_bits` or `clamp`, uint8 or uint16, (rows, columns).
    """
    masked = mask_bits(samples, precision, pixels)
    numbers, (low, high) = _apply_sign(samples, precision, pixels) >> _shift(precision, pixels), pixels.stored_range
    outside = (numbers < low) | (numbers > high)
    if not outside.any():  # The usual case.
        return masked
    clamped = clamp(samples, precision, pixels)
    smoother = _sum_border_steps(clamped, outside, pixels) < _sum_border_steps(masked, outside, pixels)
    return clamped if smoother else masked


def _sum_border_steps(codes: NDArray[np.unsignedinteger], outside: NDArray[np.bool_], pixels: PixelFormat) -> int:
    """Return the sum of the steps between neighbouring pixels of which only one is in the stored range."""
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
    """Return the lowest bits as a signed number."""
    half = 2 ** (bits - 1)
    return ((numbers & (2 * half - 1)) ^ half) - half


def _apply_sign(samples: NDArray[np.integer], precision: int, pixels: PixelFormat) -> NDArray[np.int32]:
    """Return samples with the sign of Pixel Representation if the codestream announces the other sign.

    Signed values in unsigned samples are in two's complement, either of all bits of the sample or of the stored bits
    alone. In the first case some sample has its top bit set, or no value is negative and none is far above the largest
    stored value. In the second case the values just below zero lie close to the top of the stored bits. Unsigned values
    in signed samples are the same numbers, and those below zero are overshoot, unless some are so low that they must be
    large numbers that wrapped around.
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


def _can_hold_padding(precision: int, pixels: PixelFormat) -> bool:
    """Return whether words can hold a padding value that the stored bits cannot."""
    low, high = pixels.stored_range
    padding = pixels.padding
    return padding is not None and precision > pixels.bits_stored and (padding[0] < low or padding[1] > high)


def _mark_padding(
    codes: NDArray[np.unsignedinteger], numbers: NDArray[np.int32], pixels: PixelFormat, near: bool = False
) -> NDArray[np.unsignedinteger]:
    """Return the codes with padding marked: words outside the stored range that are padding values.

    With `near`, words outside the stored range that are closer to a padding value than to this range are padding too.
    """
    assert pixels.padding is not None
    (low, high), (first, last) = pixels.stored_range, pixels.padding
    if near and first > high:
        first, last = (first + high + 1) // 2, np.iinfo(np.int32).max
    if near and last < low:
        first, last = np.iinfo(np.int32).min, (last + low) // 2
    outside = (numbers < low) | (numbers > high)
    padding = outside & (numbers >= first) & (numbers <= last)
    return np.where(padding, codes.dtype.type(pixels.padding_code), codes)
