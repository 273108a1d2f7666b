"""From stored values to the grey levels a reader sees: modality, values of interest, polarity, eight bits.

Every step is a function of the stored value alone, so all of them are worked out once for each value that the stored
bits can take, at most 65,536 of them, and the image is looked up in the outcome.

Presentation LUT Shape is not read: where an image carries it (PS3.3 sections C.7.6.1 and C.8.11.3) it must be INVERSE
with MONOCHROME1 and IDENTITY with MONOCHROME2, so that obeying both would invert twice.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom.elements import Elements
from pneumoseg.dicom.errors import DamagedError, UnsupportedError
from pneumoseg.dicom.header import PixelFormat

WHITE = 255


def display(
    elements: Elements, pixels: PixelFormat, stored: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.uint8], bool]:
    """Turn stored values into an image as displayed, white being dense.

    The modality LUT or rescale comes first, then the first VOI LUT, or where there is none the first valid window, then
    the inversion of MONOCHROME1. Without VOI LUT or window, unsigned 8-bit values that no rescale changes stay as they
    are, and others are spread from the smallest to the largest in the image. Padding is left out of the spread and is
    black there; elsewhere it is shown as any value, for a value that pads may be one of the image too: 255, say. One
    that the stored bits cannot hold is none of the image, and is black everywhere.

    Args:
        elements: The elements of the file.
        pixels: How its pixels are stored.
        stored: Uint8 or uint16, (rows, columns), the stored bits or `pixels.padding_code`.

    Returns:
        uint8, (rows, columns), zeros where values would be spread but are all alike; and whether it equals `stored`.

    Raises:
        DamagedError: A LUT or rescale that cannot be applied.
        UnsupportedError: A VOI LUT Function, with a window, that the standard does not know.

    Warns:
        UserWarning: A VOI LUT says another number of bits than its data have; see `_white`.
    """
    codes = np.arange(2**pixels.bits_stored)
    half = 2 ** (pixels.bits_stored - 1)
    values = np.where(codes < half, codes, codes - 2 * half) if pixels.signed else codes
    padding = np.zeros(codes.shape, bool)
    modality = _apply_modality(elements, values, stored)
    levels = _apply_voi(elements, modality, stored)
    if levels is None:
        if len(codes) == WHITE + 1 and np.array_equal(modality, codes):
            levels = codes
        else:
            padding = _is_padding(values, pixels)
            levels = _spread(modality, _is_present(stored, values) & ~padding)
            if levels is None:
                return np.zeros(stored.shape, np.uint8), False
    table = np.rint(levels).astype(np.uint8)
    if pixels.photometric == "MONOCHROME1":
        table = WHITE - table
    table[padding] = 0
    unchanged = stored.dtype == np.uint8 and len(codes) == WHITE + 1 and np.array_equal(table, codes)
    image = stored.astype(np.uint8) if unchanged else np.append(table, np.uint8(0))[stored]
    return image, unchanged


def _is_padding(values: NDArray[np.integer], pixels: PixelFormat) -> NDArray[np.bool_]:
    """Tell which stored values are padding."""
    if pixels.padding is None:
        return np.zeros(values.shape, bool)
    first, last = pixels.padding
    return (values >= first) & (values <= last)


def _is_present(stored: NDArray[np.unsignedinteger], values: NDArray[np.number]) -> NDArray[np.bool_]:
    """Tell which of the values that the stored bits can take occur in the image."""
    return np.bincount(stored.ravel(), minlength=len(values))[: len(values)] > 0


def _apply_modality(
    elements: Elements, values: NDArray[np.integer], stored: NDArray[np.unsignedinteger]
) -> NDArray[np.number]:
    """Apply the modality LUT, or else the rescale (PS3.3 section C.11.1), with 1 and 0 for what is absent."""
    item = elements.first_item("ModalityLUTSequence")
    if item is not None:
        return _look_up(item, values, stored)[0]
    slope, intercept = _rescale(elements)
    return values if (slope, intercept) == (1, 0) else values * slope + intercept


def _rescale(elements: Elements) -> tuple[float, float]:
    slope = (elements.numbers("RescaleSlope") or [1.0])[0]
    intercept = (elements.numbers("RescaleIntercept") or [0.0])[0]
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope != 0):
        raise DamagedError(elements.path, f"its rescale has slope {slope:g} and intercept {intercept:g}")
    return slope, intercept


def _apply_voi(
    elements: Elements, values: NDArray[np.number], stored: NDArray[np.unsignedinteger]
) -> NDArray[np.floating] | None:
    """Apply the first VOI LUT, or else the first valid window; None where there is neither."""
    item = elements.first_item("VOILUTSequence")
    if item is not None:
        levels, highest = _look_up(item, values, stored)
        return WHITE * (levels / _white(item, highest)).astype(float)
    function = elements.text("VOILUTFunction").upper() or "LINEAR"
    step = _step(elements)
    narrowest = min(step, 1.0) if function == "LINEAR" else np.finfo(float).tiny
    for center, width in zip(elements.numbers("WindowCenter"), elements.numbers("WindowWidth"), strict=False):
        # Zero or missing widths are common where a writer had nothing to say, and say nothing here.
        if math.isfinite(center) and narrowest <= width < math.inf:
            if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
                raise UnsupportedError(elements.path, f"its VOI LUT Function is {function[:20]!r}")
            exact = function == "LINEAR" and step < 1 and width < 2
            return WHITE * _apply_window(values, center, width, "LINEAR_EXACT" if exact else function)
    return None


def _step(elements: Elements) -> float:
    """Return how far apart neighbouring values are behind the modality LUT, whose entries are whole, or rescale."""
    return 1.0 if elements.first_item("ModalityLUTSequence") is not None else abs(_rescale(elements)[0])


def _apply_window(values: NDArray[np.number], center: float, width: float, function: str) -> NDArray[np.floating]:
    """Map values to 0 to 1 by a window (PS3.3 sections C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2)."""
    if function == "SIGMOID":
        # Beyond 700 the exponential overflows; the quotient is 0 there in any case.
        return 1 / (1 + np.exp(np.minimum(-4 * (values - center) / width, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(float)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _look_up(
    item: Elements, values: NDArray[np.number], stored: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.number], int]:
    """Apply a LUT (PS3.3 sections C.11.1.1 and C.11.2.1.1).

    Returns:
        Its entries for the values, and the highest entry. Data beyond the entries it describes are left alone.
    """
    descriptor, data = item.integers("LUTDescriptor"), item.value("LUTData")
    if len(descriptor) != 3 or descriptor[2] > 16:
        raise DamagedError(item.path, f"a LUT has the descriptor {descriptor}")
    entries = descriptor[0] or 2**16
    if len(data) >= 2 * entries:
        lut = np.frombuffer(data, "<u2" if item.little else ">u2", entries).astype(int)
    elif entries <= len(data) <= entries + 1:
        lut = np.frombuffer(data, np.uint8, entries).astype(int)
    else:
        raise DamagedError(item.path, f"a LUT holds {len(data)} bytes where its descriptor says {entries} entries")
    # A rescale may make numbers beyond every integer; no LUT reaches to these.
    whole = np.clip(np.rint(values), -(2**31), 2**31).astype(int)
    first = _first_mapped(item, whole, whole[_is_present(stored, values)], entries)
    return lut[np.clip(whole - first, 0, entries - 1)], int(lut.max())


def _first_mapped(item: Elements, values: NDArray[np.integer], present: NDArray[np.integer], entries: int) -> int:
    """Return the first value that a LUT maps, signed or not.

    The value representation tells, or, where it is implicit, whether values may be negative. Some writers put -100 as
    the unsigned 65436, so that the other reading is taken where the entries then cover more of the image's values.
    """
    vr = item.found["LUTDescriptor"].vr
    readings = [item.integers("LUTDescriptor", signed)[1] for signed in (False, True)]
    if vr == b"SS" or (vr != b"US" and values.min() < 0):
        readings.reverse()
    return max(readings, key=lambda first: np.count_nonzero((present >= first) & (present < first + entries)))


def _white(item: Elements, highest: int) -> int:
    """Return the entry of a VOI LUT that is white: the largest one that its descriptor's bits can hold.

    Unless the entries contradict them: they need more bits, or fewer by two or more, which leaves over half of the
    range unused, for some writers say 16 of data of 12, and the image would be nearly black. White is then the highest
    entry, as viewers have it: Cornerstone always, DCMTK where it is told to ignore the descriptor's bits or they are
    not 8 to 16. Entries of 8 bits are never brightened.

    Warns:
        UserWarning: The descriptor says another number of bits. The text names the file, so that Python's default
            filter shows it once for each file, from whatever thread and however often that is read.
    """
    bits = item.integers("LUTDescriptor")[2]
    needed = max(highest.bit_length(), 8)
    if needed <= bits < needed + 2 or highest == 0:
        return 2 ** max(bits, 8) - 1
    white = max(highest, 255)
    said = f"its VOI LUT says {bits} bits, but its entries, up to {highest}, have {needed}"
    warnings.warn(f"{item.path}: {said}; {white} is shown as white", stacklevel=3)
    return white


def _spread(values: NDArray[np.number], present: NDArray[np.bool_]) -> NDArray[np.floating] | None:
    """Spread the values present linearly over the grey levels; None where they are fewer than two."""
    shown = values[present]
    if shown.size == 0 or shown.min() == shown.max():
        return None
    return np.clip((values - shown.min()) / (shown.max() - shown.min()), 0, 1) * WHITE
