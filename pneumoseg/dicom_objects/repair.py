"""Values of a header, repaired where they break the standard, so that they may be written into other objects."""

import contextlib
import datetime
import re
import string
import unicodedata

from pydicom.charset import CODES_TO_ENCODINGS, ESC, default_encoding, handled_encodings, python_encoding

_AGE = re.compile(r"[0-9]{3}[DWMY]")
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_DATE = re.compile(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})")
_TIME = re.compile(r"([01][0-9]|2[0-3])(?::?([0-5][0-9])(?::?([0-5][0-9])(\.[0-9]{1,6})?)?)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_FRAGMENT = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_PADDING, _NOT_DECODED = f"{string.whitespace}\0", "\ufffd"
_LENGTHS = {"LO": 64, "SH": 16}
_GROUPS, _COMPONENTS, _GROUP_LENGTH = 3, 5, 64


def decode_text(value: bytes, character_set: str) -> str:
    """Return a text as the header means it.

    Where the named character set is unknown, absent or does not fit the bytes, they are read as UTF-8, or else as
    Latin-1, in which every byte is a character.

    Args:
        value: Bytes of the value.
        character_set: Specific Character Set, with values separated by backslashes.

    Example:
        >>> decode_text(b"M\\xfcller", ""), decode_text(b"M\\xc3\\xbcller", "ISO_IR 192")
        ('Müller', 'Müller')
    """
    name = re.sub(r"^ISO[-_ ]?IR[-_ ]?", "ISO_IR ", character_set.split("\\")[0].strip().upper())
    encoding = python_encoding.get(name, default_encoding)
    if ESC in value:
        return "".join(_decode_fragment(fragment, encoding) for fragment in _FRAGMENT.findall(value))
    # ASCII is what a header without a character set claims to be, whatever its texts are.
    for attempt in ("utf-8",) if encoding == default_encoding else (encoding, "utf-8"):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode(attempt)
    return value.decode("latin-1")


def repair_value(text: str, vr: str, *, may_cut: bool = True) -> str:
    r"""Return the first value of a text, valid for its value representation; '' if it cannot be repaired.

    Control characters go. Dates, times, ages, numbers and codes that are not valid become empty, except that the
    separators of old dates and times are removed. Texts and names that are too long are cut or become empty.

    Args:
        text: Value, decoded.
        vr: Value representation: AS, CS, DA, DS, LO, PN, SH or TM.
        may_cut: Whether a part may stand for the text. A part of an identifier may be another one, so it becomes empty
            if it is too long, holds several values or control characters, or could not be decoded.

    Example:
        >>> repair_value("2019.09.04", "DA"), repair_value("38", "AS"), repair_value("f ", "CS")
        ('20190904', '', 'F')
    """
    first = "".join(letter for letter in text.split("\\")[0] if unicodedata.category(letter) != "Cc").strip()
    if vr in _REPAIRS:
        return _REPAIRS[vr](first)
    cut = first[: _LENGTHS[vr]].strip()
    return cut if may_cut or (cut == text.strip(_PADDING) and _NOT_DECODED not in cut) else ""


def _decode_fragment(fragment: bytes, encoding: str) -> str:
    """Return a part of a text with code extensions (PS3.5 section 6.1.2.5), which begins with its escape sequence."""
    code = next((code for code in CODES_TO_ENCODINGS if fragment.startswith(code)), b"")
    named = CODES_TO_ENCODINGS.get(code, encoding)
    return (fragment if named in handled_encodings[:2] else fragment[len(code) :]).decode(named, "replace")


def _repair_date(text: str) -> str:
    match = _DATE.fullmatch(text)
    try:
        return datetime.date(int(match[1]), int(match[3]), int(match[4])).isoformat().replace("-", "") if match else ""
    except ValueError:
        return ""


def _repair_time(text: str) -> str:
    match = _TIME.fullmatch(text)
    return "".join(part or "" for part in match.groups()) if match else ""


def _repair_code(text: str) -> str:
    return text.upper() if _CODE.fullmatch(text.upper()) else ""


def _repair_name(text: str) -> str:
    groups = text.split("=")[:_GROUPS]
    return "=".join("^".join(group.split("^")[:_COMPONENTS])[:_GROUP_LENGTH].strip() for group in groups)


_REPAIRS = {
    "AS": lambda text: text if _AGE.fullmatch(text) else "",
    "CS": _repair_code,
    "DA": _repair_date,
    "DS": lambda text: text if _DECIMAL.fullmatch(text) and len(text) <= 16 else "",
    "PN": _repair_name,
    "TM": _repair_time,
}
