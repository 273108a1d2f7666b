"""Grey levels as displayed, from stored values: modality LUT, VOI LUT or window, inversion, and 8 bits.

Every step depends on the stored value alone. So the grey level of each value that the stored bits can take, at most
65,536 of them, is computed once, and the image is a lookup in this table.

Presentation LUT Shape is not read. If an image has it (PS3.3 sections C.7.6.1 and C.8.11.3), it must be INVERSE with
MONOCHROME1 and IDENTITY with MONOCHROME2, so obeying both would invert twice.
"""

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from pneumoseg.dicom.elements import Elements
from pneumoseg.dicom.header import PixelFormat
from pneumoseg.image_errors import DamagedError, UnsupportedError

WHITE = 255


def display(
    elements: Elements, pixels: PixelFormat, stored: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.uint8], bool]:
    """Return an image as displayed, with dense tissue white.

    The modality LUT or rescale is applied first, then the first VOI LUT or else the first valid window, then the
    inversion of MONOCHROME1. Without a VOI LUT or window, unsigned 8-bit values that no rescale changes stay unchanged,
    and other values are stretched linearly from the smallest to the largest value of the image.

    Padding is left out of the stretched range and shown black. Without stretching it is shown like any other value,
    because a padding value, such as 255, may be a value of the image as well. Padding that the stored bits cannot hold
    is not a value of the image and is always black.

    Args:
        elements: Data elements of the file.
        pixels: Storage format of the pixels.
        stored: Stored bits or `pixels.padding_code`, uint8 or uint16, (rows, columns).

    Returns:
        The image, uint8, (rows, columns), all zeros if values would be stretched but are equal; and whether the image
        equals `stored`.

    Raises:
        DamagedError: If a LUT or the rescale cannot be applied.
        UnsupportedError: If there is a window with a VOI LUT Function that the standard does not define.

    Warns:
        UserWarning: If the entries of a VOI LUT contradict its descriptor; see `_white_entry`.
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
            levels = _stretch(modality, _is_present(stored, values) & ~padding)
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
    """Return which stored values are padding."""
    if pixels.padding is None:
        return np.zeros(values.shape, bool)
    first, last = pixels.padding
    return (values >= first) & (values <= last)


def _is_present(stored: NDArray[np.unsignedinteger], values: NDArray[np.number]) -> NDArray[np.bool_]:
    """Return which of the values that the stored bits can take occur in the image."""
    return np.bincount(stored.ravel(), minlength=len(values))[: len(values)] > 0


def _apply_modality(
    elements: Elements, values: NDArray[np.integer], stored: NDArray[np.unsignedinteger]
) -> NDArray[np.number]:
    """Apply the modality LUT or else the rescale (PS3.3 section C.11.1), by default with slope 1 and intercept 0."""
    item = elements.first_item("ModalityLUTSequence")
    if item is not None:
        return look_up(item, values, stored)[0]
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
    """Apply the first VOI LUT or else the first valid window; return None if there is neither."""
    item = elements.first_item("VOILUTSequence")
    if item is not None:
        levels, highest = look_up(item, values, stored)
        return WHITE * (levels / _white_entry(item, highest)).astype(float)
    function = elements.text("VOILUTFunction").upper() or "LINEAR"
    step = _value_step(elements)
    narrowest = min(step, 1.0) if function == "LINEAR" else np.finfo(float).tiny
    for center, width in zip(elements.numbers("WindowCenter"), elements.numbers("WindowWidth"), strict=False):
        # Many writers store a width of zero, or none, if they know no window; such windows are ignored.
        if math.isfinite(center) and narrowest <= width < math.inf:
            if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
                raise UnsupportedError(elements.path, f"its VOI LUT Function is {function[:20]!r}")
            exact = function == "LINEAR" and step < 1 and width < 2
            return WHITE * _apply_window(values, center, width, "LINEAR_EXACT" if exact else function)
    return None


def _value_step(elements: Elements) -> float:
    """Return the difference between neighbouring values after the modality LUT (entries are integers) or rescale."""
    return 1.0 if elements.first_item("ModalityLUTSequence") is not None else abs(_rescale(elements)[0])


def _apply_window(values: NDArray[np.number], center: float, width: float, function: str) -> NDArray[np.floating]:
    """Map values to [0, 1] by a window (PS3.3 sections C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2)."""
    if function == "SIGMOID":
        # The exponential overflows above 709; the grey level is 0 from 700 on in any case.
        return 1 / (1 + np.exp(np.minimum(-4 * (values - center) / width, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(float)
    return np.clip((values - center) / width + 0.5, 0, 1)


def look_up(
    item: Elements, values: NDArray[np.number], stored: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.number], int]:
    """Apply a LUT (PS3.3 sections C.11.1.1 and C.11.2.1.1).

    Args:
        item: Elements with the LUT Descriptor and the LUT Data.
        values: Value of each code that the stored bits can take.
        stored: Codes of the image, uint8 or uint16.

    Returns:
        The entries for the values, and the highest entry. Data after the entries that the descriptor announces are
        ignored.

    Raises:
        DamagedError: If the descriptor or the number of entries is impossible.
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
        raise DamagedError(item.path, f"a LUT holds {len(data)} bytes, its descriptor announces {entries} entries")
    # A rescale may give numbers beyond the range of integers; no LUT reaches these.
    whole = np.clip(np.rint(values), -(2**31), 2**31).astype(int)
    first = _first_mapped_value(item, whole, whole[_is_present(stored, values)], entries)
    return lut[np.clip(whole - first, 0, entries - 1)], int(lut.max())


def _first_mapped_value(item: Elements, values: NDArray[np.integer], present: NDArray[np.integer], entries: int) -> int:
    """Return the first value that a LUT maps, read as signed or unsigned.

    The value representation decides, or, if it is implicit, whether values may be negative. Some writers store -100 as
    the unsigned 65436, so the other reading is taken if the entries then cover more of the image's values.
    """
    vr = item.found["LUTDescriptor"].vr
    readings = [item.integers("LUTDescriptor", signed)[1] for signed in (False, True)]
    if vr == b"SS" or (vr != b"US" and values.min() < 0):
        readings.reverse()
    return max(readings, key=lambda first: np.count_nonzero((present >= first) & (present < first + entries)))


def _white_entry(item: Elements, highest: int) -> int:
    """Return the entry of a VOI LUT that is shown as white: the largest that the descriptor's bits can hold.

    If the entries contradict the descriptor, white is the highest entry. They do if they need more bits, or fewer by
    two or more, which leaves over half of the range unused: some writers announce 16 bits for data of 12, and the
    image would be nearly black. Viewers do the same: Cornerstone always, DCMTK if it is told to ignore the descriptor's
    bits or if they are not 8 to 16. Entries of 8 bits are never brightened.

    Warns:
        UserWarning: If the entries contradict the descriptor. The text names the file, so Python's default filter shows
            it once per file, in any thread and however often the file is read.
    """
    bits = item.integers("LUTDescriptor")[2]
    needed = max(highest.bit_length(), 8)
    if needed <= bits < needed + 2 or highest == 0:
        return 2 ** max(bits, 8) - 1
    white = max(highest, 255)
    problem = f"its VOI LUT announces {bits} bits, but its entries, up to {highest}, need {needed}"
    warnings.warn(f"{item.path}: {problem}; {white} is shown as white", stacklevel=3)
    return white


def _stretch(values: NDArray[np.number], present: NDArray[np.bool_]) -> NDArray[np.floating] | None:
    """Stretch values linearly from the range present in the image to [0, 255]; return None if fewer than two occur."""
    shown = values[present]
    if shown.size == 0 or shown.min() == shown.max():
        return None
    return np.clip((values - shown.min()) / (shown.max() - shown.min()), 0, 1) * WHITE
