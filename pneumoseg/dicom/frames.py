"""Where the bytes of the one frame of an encapsulated image lie (PS3.5 section A.4)."""

from typing import NamedTuple

from pneumoseg.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, Elements, read_item
from pneumoseg.dicom.errors import DamagedError

_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""How frames of the JPEG family and of JPEG 2000 begin, and no other fragment does."""


class Frame(NamedTuple):
    """The encoded bytes of a frame; their position in the content, 0 where they come from several fragments."""

    encoded: bytes
    offset: int


def find_frame(elements: Elements) -> Frame:
    """Follow the items of Pixel Data to its frame: an offset table, empty or not, then one or more fragments.

    Read too: items without an offset table, and Pixel Data that give their length instead of a delimiter at the end.

    Args:
        elements: The elements of a file in an encapsulated transfer syntax, with one frame.

    Returns:
        The frame, its fragments joined.

    Raises:
        DamagedError: The items are not as the standard has them, are cut short, or hold more frames than one.
    """
    path = elements.path
    spans = _item_spans(elements)
    if spans and _is_offset_table(elements, spans):
        (_, table_length), *spans = spans
        if table_length > 4:
            raise DamagedError(path, f"its offset table lists {table_length // 4} frames where its header says 1")
    if not spans:
        raise DamagedError(path, "its Pixel Data hold no frame")
    frames = 1 + sum(elements.content.startswith(_STARTS, offset) for offset, _ in spans[1:])
    if frames > 1:
        raise DamagedError(path, f"its Pixel Data hold {frames} frames where its header says 1")
    encoded = b"".join(elements.content[offset : offset + length] for offset, length in spans)
    return Frame(encoded, spans[0][0] if len(spans) == 1 else 0)


def _is_offset_table(elements: Elements, spans: list[tuple[int, int]]) -> bool:
    """Tell whether the first item is an offset table, which some writers leave out, and not the frame's first fragment.

    A table is empty or begins with the offset 0; no compressed frame does, and a frame that is not compressed has one
    item only.
    """
    offset, length = spans[0]
    return length <= 4 or (len(spans) > 1 and elements.content[offset : offset + 4] == bytes(4))


def _item_spans(elements: Elements) -> list[tuple[int, int]]:
    """Position and length of the value of each item.

    The items end with the delimiter that must close them, or where Pixel Data of explicit length do.
    """
    content, path = elements.content, elements.path
    _, _, _, offset, total = elements.found["PixelData"]
    explicit = total != UNDEFINED_LENGTH
    end = offset + total if explicit else len(content)
    if explicit and total and read_item(content, offset)[0] != ITEM:
        reason = "its transfer syntax is a compressed one but its Pixel Data are not encapsulated in items"
        raise DamagedError(path, reason)
    spans: list[tuple[int, int]] = []
    while offset < end or not explicit:
        tag, length = read_item(content, offset)
        offset += 8
        if tag == SEQUENCE_END and offset <= end:
            break
        if tag != ITEM or offset + length > end:
            raise DamagedError(path, f"its Pixel Data are cut short or broken at byte {offset - 8}")
        spans.append((offset, length))
        offset += length
    return spans
