import pytest

from pneumoseg.dicom_objects.repair import decode_text, repair_value


@pytest.mark.parametrize(
    ("value", "character_set", "text"),
    [
        (b"Doe", "", "Doe"),
        (b"M\xfcller", "", "Müller"),
        (b"M\xc3\xbcller", "", "Müller"),
        (b"M\xfcller", "ISO_IR 100", "Müller"),
        (b"M\xc3\xbc", "ISO_IR 100", "Mü"),
        (b"\xc3\xbc\xfc", "ISO_IR 100", "Ã¼ü"),
        ("Ив".encode(), "ISO_IR 144", "Ив"),
        ("Łódź".encode(), "ISO_IR 101", "Łódź"),
        ("Žá€".encode("iso8859-15"), "ISO_IR 203", "Žá€"),
        ("Žá€".encode("iso8859-15"), "ISO 2022 IR 203", "Žá€"),
        (b"A\x1b-b\xa4", "\\ISO 2022 IR 203", "A€"),
        # Two letters of Katakana and of Thai that are also a valid UTF-8 sequence.
        (b"\xd0\xb7", "ISO_IR 13", "\uff90\uff77"),
        (b"\xc3\xa1", "ISO_IR 166", "\u0e23\u0e01"),
        # Multi-byte character sets without escape sequences, and UTF-8 in their place.
        ("王^小東".encode("gbk"), "\\ISO 2022 IR 58", "王^小東"),
        ("王^小东".encode("gb2312"), "\\ISO 2022 IR 58", "王^小东"),
        ("王^小东".encode("gb2312"), "ISO 2022 IR 6\\ISO_2022_IR_58", "王^小东"),
        ("王小".encode(), "\\ISO 2022 IR 58", "王小"),
        ("홍^길동".encode("euc_kr"), "\\ISO 2022 IR 149", "홍^길동"),
        ("홍^길동".encode("euc_kr"), "ISO 2022 IR 149", "홍^길동"),
        ("똠".encode("cp949"), "\\ISO 2022 IR 149", "똠"),
        ("홍길".encode(), "\\ISO 2022 IR 149", "홍길"),
        ("山田^太郎".encode("shift_jis"), "\\ISO 2022 IR 87", "山田^太郎"),
        ("山田^太郎".encode(), "\\ISO 2022 IR 87", "山田^太郎"),
        (b"M\xfcller", "ISO 2022 IR 100\\ISO 2022 IR 58", "Müller"),
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
    ("character_set", "encoding"),
    [("ISO_IR 192", "utf-8"), ("", "utf-8"), ("ISO_IR 100", "utf-8"), ("GB18030", "gb18030"), ("GBK", "gbk")],
)
def test_a_text_that_was_cut_loses_only_its_last_character(character_set, encoding):
    cut = "山田太郎".encode(encoding)[:-1]
    assert decode_text(cut, character_set, is_cut=True) == "山田太"
    # A value that ends so in the file is something else.
    assert decode_text("Åå".encode("latin-1"), "", is_cut=False) == "Åå"


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
