"""Values of a header, repaired where they break the standard, so that they may be written into other objects."""

import codecs
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
# pydicom lacks Latin-9.
_ENCODINGS = python_encoding | dict.fromkeys(("ISO_IR 203", "ISO 2022 IR 203"), "iso8859_15")
_CODES = CODES_TO_ENCODINGS | {b"\x1b-b": "iso8859_15"}
# Forms of multi-byte character sets without escape sequences. UTF-8 hardly ever fits the first one of Chinese and
# Korean, but often fits their extensions.
_UNESCAPED = {
    "iso_ir_58": ("gb2312", "utf-8", "gb18030"),
    "euc_kr": ("euc_kr", "utf-8", "cp949"),
    **dict.fromkeys(("iso2022_jp", "iso2022_jp_2"), ("utf-8", "shift_jis")),
}
# Encodings whose common words may be valid UTF-8: two Katakana, or two Thai consonants.
_LIKE_UTF_8 = frozenset({"shift_jis", "iso_ir_166", "UTF8", "GB18030", "GB2312", "GBK"})
_FRAGMENT = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_PADDING, _NOT_DECODED = f"{string.whitespace}\0", "\ufffd"
_LENGTHS = {"LO": 64, "SH": 16}
_GROUPS, _COMPONENTS, _GROUP_LENGTH = 3, 5, 64


def decode_text(value: bytes, character_set: str, *, is_cut: bool = False) -> str:
    """Return a text as the header means it.

    Without escape sequences, the named character sets are tried, and those of several bytes also in the form in which
    writers store them without such sequences. Bytes that are valid UTF-8 are UTF-8, though the header names a character
    set of single bytes: its accented letters and signs hardly ever come in that order. What fits none of these is read
    as Latin-1, in which every byte is a character.

    Args:
        value: Bytes of the value.
        character_set: Specific Character Set, with values separated by backslashes.
        is_cut: Whether the value goes on, so that its last character may lack bytes; it is left out then.

    Example:
        >>> decode_text(b"M\\xfcller", ""), decode_text(b"M\\xc3\\xbcller", "ISO_IR 192")
        ('Müller', 'Müller')
    """
    encodings = [_find_encoding(name) for name in character_set.split("\\")]
    if ESC in value:
        return "".join(_decode_fragment(fragment, encodings[0]) for fragment in _FRAGMENT.findall(value))
    for attempt in (*(form for encoding in encodings for form in _forms(encoding)), "utf-8"):
        with contextlib.suppress(UnicodeDecodeError):
            return codecs.getincrementaldecoder(attempt)().decode(value, final=not is_cut)
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


def _find_encoding(name: str) -> str:
    name = re.sub(r"^ISO[-_ ]?IR[-_ ]?", "ISO_IR ", name.strip().upper())
    return _ENCODINGS.get(re.sub(r"^ISO[-_ ]?2022[-_ ]?IR[-_ ]?", "ISO 2022 IR ", name), default_encoding)


def _forms(encoding: str) -> tuple[str, ...]:
    """Return the encodings to try for text without escape sequences, in the character set of an encoding."""
    if encoding == default_encoding:
        # ASCII is what a header without a character set claims to be, whatever its texts are.
        return ()
    return _UNESCAPED.get(encoding, (encoding,) if encoding in _LIKE_UTF_8 else ("utf-8", encoding))


def _decode_fragment(fragment: bytes, encoding: str) -> str:
    """Return a part of a text with code extensions (PS3.5 section 6.1.2.5), which begins with its escape sequence."""
    code = next((code for code in _CODES if fragment.startswith(code)), b"")
    named = _CODES.get(code, encoding)
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
