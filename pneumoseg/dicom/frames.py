"""Location of the single frame of encapsulated Pixel Data (PS3.5 section A.4)."""

from typing import NamedTuple

from pneumoseg.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, Elements, read_item
from pneumoseg.image_errors import DamagedError

_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""First bytes of a JPEG frame and of a JPEG 2000 frame. No other fragment begins with them."""


class Frame(NamedTuple):
    """Encoded bytes of a frame.

    Attributes:
        encoded: The bytes.
        offset: Position of the bytes in the content; 0 if they come from several fragments.
    """

    encoded: bytes
    offset: int


def find_frame(elements: Elements) -> Frame:
    """Return the frame of encapsulated Pixel Data: an offset table, empty or not, followed by one or more fragments.

    Items without an offset table are also accepted, as are Pixel Data with an explicit length in place of a final
    delimiter.

    Args:
        elements: Data elements of a file in an encapsulated transfer syntax, with one frame.

    Returns:
        The frame, its fragments joined.

    Raises:
        DamagedError: If the items break the standard, are cut short, or hold more than one frame.
    """
    path = elements.path
    items = _find_items(elements)
    if items and _is_offset_table(elements, items):
        (_, table_length), *items = items
        if table_length > 4:
            raise DamagedError(path, f"its offset table lists {table_length // 4} frames, its header announces 1")
    if not items:
        raise DamagedError(path, "its Pixel Data hold no frame")
    frames = 1 + sum(elements.content.startswith(_STARTS, offset) for offset, _ in items[1:])
    if frames > 1:
        raise DamagedError(path, f"its Pixel Data hold {frames} frames, its header announces 1")
    encoded = b"".join(elements.content[offset : offset + length] for offset, length in items)
    return Frame(encoded, items[0][0] if len(items) == 1 else 0)


def _is_offset_table(elements: Elements, items: list[tuple[int, int]]) -> bool:
    """Return whether the first item is an offset table. Some writers omit it and begin with the first fragment.

    A table is empty or begins with the offset 0. No compressed frame begins so, and an uncompressed frame is a single
    item.
    """
    offset, length = items[0]
    return length <= 4 or (len(items) > 1 and elements.content[offset : offset + 4] == bytes(4))


def _find_items(elements: Elements) -> list[tuple[int, int]]:
    """Return the position and length of the value of each item.

    The items end at their delimiter, or at the end of Pixel Data with an explicit length.
    """
    content, path = elements.content, elements.path
    _, _, _, offset, total = elements.found["PixelData"]
    explicit = total != UNDEFINED_LENGTH
    end = offset + total if explicit else len(content)
    if explicit and total and read_item(content, offset)[0] != ITEM:
        reason = "its transfer syntax is compressed but its Pixel Data are not encapsulated in items"
        raise DamagedError(path, reason)
    items: list[tuple[int, int]] = []
    while offset < end or not explicit:
        tag, length = read_item(content, offset)
        offset += 8
        if tag == SEQUENCE_END and offset <= end:
            break
        if tag != ITEM or offset + length > end:
            raise DamagedError(path, f"its Pixel Data are cut short or broken at byte {offset - 8}")
        items.append((offset, length))
        offset += length
    return items
