"""Where the bytes of the one frame of an encapsulated image lie (PS3.5 section A.4)."""

from typing import NamedTuple

from pneumoseg.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, Elements, read_item
from pneumoseg.dicom.errors import DamagedError


class Frame(NamedTuple):
    """The encoded bytes of a frame; their position in the content, 0 where they come from several fragments."""

    encoded: bytes
    offset: int


def find_frame(elements: Elements) -> Frame:
    """Follow the items of Pixel Data to its frame: an offset table, empty or not, then one or more fragments.

    Args:
        elements: The elements of a file in an encapsulated transfer syntax, with one frame.

    Returns:
        The frame, its fragments joined.

    Raises:
        DamagedError: The items are not as the standard has them, are cut short, or hold more frames than one.
    """
    path, pixels = elements.path, elements.found["PixelData"]
    if pixels.length != UNDEFINED_LENGTH:
        raise DamagedError(path, "its transfer syntax is a compressed one but its Pixel Data are not")
    spans = _item_spans(elements, pixels.offset)
    if len(spans) < 2:
        raise DamagedError(path, "its Pixel Data hold no frame")
    (_, table_length), *fragments = spans
    if table_length > 4:
        raise DamagedError(path, f"its offset table lists {table_length // 4} frames where its header says 1")
    encoded = b"".join(elements.content[offset : offset + length] for offset, length in fragments)
    return Frame(encoded, fragments[0][0] if len(fragments) == 1 else 0)


def _item_spans(elements: Elements, offset: int) -> list[tuple[int, int]]:
    """Position and length of the value of each item, up to the delimiter that must close them."""
    spans: list[tuple[int, int]] = []
    while True:
        tag, length = read_item(elements.content, offset)
        if tag == SEQUENCE_END:
            return spans
        offset += 8
        if tag != ITEM or offset + length > len(elements.content):
            raise DamagedError(elements.path, f"its Pixel Data are cut short or broken at byte {offset - 8}")
        spans.append((offset, length))
        offset += length
