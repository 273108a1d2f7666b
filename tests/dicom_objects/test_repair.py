import pytest

from pneumoseg.dicom_objects.repair import decode_text, repair_value


@pytest.mark.parametrize(
    ("value", "character_set", "text"),
    [
        (b"Doe", "", "Doe"),
        (b"M\xfcller", "", "Müller"),
        (b"M\xc3\xbcller", "", "Müller"),
        (b"M\xfcller", "ISO_IR 100", "Müller"),
        (b"M\xc3\xbc", "ISO_IR 100", "MÃ¼"),
        (b"M\xfcller", "ISO_IR 6", "Müller"),
        (b"M\xfcller", "ISO_IR 192", "Müller"),
        (b"M\xfcller", "iso-ir 100", "Müller"),
        (b"M\xfcller", "EBCDIC", "Müller"),
        (b"\xb8\xd2", "ISO_IR 144", "Ив"),
        (b"\xd4\xcf\xc0\xa4", "ISO_IR 13", "\uff94\uff8f\uff80\uff64"),
        (b"\xcd\xf5\xd0\xa1", "GB18030", "王小"),
        # PS3.5 sections H.3.1 and I.2.
        (
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "\\ISO 2022 IR 87",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "\\ISO 2022 IR 149",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        (b"a\x1bZb\xff", "ISO 2022 IR 100", "a\x1bZbÿ"),
    ],
)
def test_text_is_decoded(value, character_set, text):
    assert decode_text(value, character_set) == text


@pytest.mark.parametrize(
    ("text", "vr", "repaired"),
    [
        ("20190904", "DA", "20190904"),
        ("2019-09-04", "DA", "20190904"),
        ("2019.09-04", "DA", ""),
        ("20190230", "DA", ""),
        ("00000101", "DA", ""),
        ("00010101", "DA", "00010101"),
        ("101112.123456", "TM", "101112.123456"),
        ("10:11:12.5", "TM", "101112.5"),
        ("10", "TM", "10"),
        ("1011", "TM", "1011"),
        ("2411", "TM", ""),
        ("101112.", "TM", ""),
        ("038Y", "AS", "038Y"),
        ("38", "AS", ""),
        ("38Y", "AS", ""),
        ("٠٣٨Y", "AS", ""),
        ("٢٠١٩٠٩٠٤", "DA", ""),
        ("١٠", "TM", ""),
        ("chest ", "CS", "CHEST"),
        ("CHEST-PA", "CS", ""),
        ("A" * 17, "CS", ""),
        ("2.5", "DS", "2.5"),
        ("-1e3", "DS", "-1e3"),
        ("1,5", "DS", ""),
        ("1" * 17, "DS", ""),
        ("a" * 70, "LO", "a" * 64),
        ("a" * 20, "SH", "a" * 16),
        ("one\\two", "LO", "one"),
        (" a\tb\x1b\x85c ", "LO", "abc"),
        ("a^b^c^d^e^f=g=h=i", "PN", "a^b^c^d^e=g=h"),
        ("=".join(["x" * 70] * 2), "PN", "=".join(["x" * 64] * 2)),
        ("", "PN", ""),
    ],
)
def test_values_are_repaired(text, vr, repaired):
    assert repair_value(text, vr) == repaired


@pytest.mark.parametrize(
    ("text", "vr", "repaired"),
    [
        ("1" * 17, "SH", ""),
        ("1" * 16, "SH", "1" * 16),
        (" 12 34 \0", "LO", "12 34"),
        ("12\0\0", "LO", "12"),
        ("\t12\r\n", "LO", "12"),
        ("12\\34", "LO", ""),
        ("12\\", "LO", ""),
        ("\\34", "LO", ""),
        ("12\x0034", "LO", ""),
        ("12\t34", "SH", ""),
        ("12\x1b34", "SH", ""),
        ("12\x8534", "SH", ""),
        ("12\ufffd34", "SH", ""),
    ],
)
def test_identifiers_are_whole_or_empty(text, vr, repaired):
    assert repair_value(text, vr, may_cut=False) == repaired
