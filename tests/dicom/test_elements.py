"""Data elements: value representations, byte orders, nested sequences, limits and files that are not DICOM."""

import os
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pneumoseg.dicom import (
    DamagedError,
    ImageError,
    NoPixelsError,
    NotAnImageError,
    TooLargeError,
    UnsupportedError,
    elements,
    read_dicom,
    read_image,
)
from tests.dicom.builders import GRADIENT, SEED, dataset, encoded, save


@pytest.mark.parametrize("text", [b"nan ", b"inf ", b"x ", b"1e999 "])
def test_a_window_that_is_not_a_number_is_ignored(tmp_path, text):
    path = save(
        dataset(np.array([[50, 80, 200]], "u2"), WindowCenter=100, WindowWidth="51.000"), tmp_path / "image.dcm"
    )
    path.write_bytes(path.read_bytes().replace(b"51.000", text.ljust(6)))
    assert read_image(path).tolist() == [[0, 51, 255]]


@pytest.mark.parametrize(("vr", "code"), [("FD", "d"), ("FL", "f"), ("US", "H"), ("SS", "h"), ("UL", "L"), ("SL", "l")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_windows(tmp_path, vr, code, order):
    image = dataset(np.array([[50, 80, 200]], f"{order}u2"), WindowCenter="10.0", WindowWidth="5.10")
    path = save(image, tmp_path / "image.dcm", uid.ExplicitVRBigEndian if order == ">" else None)
    content = path.read_bytes()
    for text, number in ((b"10.0", 100), (b"5.10", 51)):
        value = struct.pack(order + code, number)
        header = b"DS" + struct.pack(order + "H", 4) + text
        assert content.count(header) == 1
        content = content.replace(header, vr.encode() + struct.pack(order + "H", len(value)) + value)
    path.write_bytes(content)
    assert read_image(path).tolist() == [[0, 28, 255]]


def test_decimal_commas(tmp_path):
    path = save(
        dataset(np.array([[50, 80, 200]], "u2"), WindowCenter="100.0", WindowWidth="51.000"), tmp_path / "image.dcm"
    )
    path.write_bytes(path.read_bytes().replace(b"51.000", b"51,000").replace(b"100.0", b"100,0"))
    assert read_image(path).tolist() == [[0, 28, 255]]


@pytest.mark.parametrize("encoding", ["implicit", "explicit", "big endian"])
@pytest.mark.parametrize("keep", ["meta", "data set"])
def test_without_preamble(tmp_path, encoding, keep):
    path = encoded(GRADIENT, encoding, tmp_path / "image.dcm")
    content = path.read_bytes()
    meta_length = struct.unpack_from("<L", content, 140)[0]
    path.write_bytes(content[132 if keep == "meta" else 144 + meta_length :])
    assert np.array_equal(read_image(path), GRADIENT)


@pytest.mark.parametrize("encoding", ["implicit", "explicit", "big endian"])
def test_a_bare_data_set_may_begin_at_any_group(tmp_path, encoding):
    path = encoded(GRADIENT, encoding, tmp_path / "image.dcm")
    content = path.read_bytes()
    samples = b"\0\x28\0\2" if encoding == "big endian" else b"\x28\0\2\0"
    path.write_bytes(content[content.index(samples) :])
    assert np.array_equal(read_image(path), GRADIENT)


def unknown_sequence(*elements_of_items: bytes) -> bytes:
    """Return a private element of unknown VR and undefined length, with items of undefined length."""
    items = [b"\xfe\xff\0\xe0\xff\xff\xff\xff" + item + b"\xfe\xff\x0d\xe0\0\0\0\0" for item in elements_of_items]
    return b"\x09\0\1\x10UN\0\0\xff\xff\xff\xff" + b"".join(items) + b"\xfe\xff\xdd\xe0\0\0\0\0"


def test_items_of_unknown_sequences_may_be_in_either_vr(tmp_path):
    implicit = b"\x28\0\x10\0\2\0\0\0\1\0"
    explicit = b"\x28\0\x10\0US\2\0\1\0"
    # The length of the second element, 0x4c54 = 19540, looks like the value representation LT.
    letters = implicit + b"\x29\0\x10\x10TL\0\0" + b"\xee" * 0x4C54
    content = save(dataset(GRADIENT), tmp_path / "image.dcm").read_bytes()
    start = content.index(b"\x28\0\2\0US")
    for items in ([], [b""], [implicit], [explicit], [letters], [implicit, explicit, b"", letters, explicit]):
        path = tmp_path / "unknown.dcm"
        path.write_bytes(content[:start] + unknown_sequence(*items) + content[start:])
        assert np.array_equal(read_image(path), GRADIENT)


def test_a_voi_lut_of_unknown_vr(tmp_path):
    # The length of the LUT data, 0x4c54 = 19540, looks like the value representation LT.
    entries = 0x4C54 // 2
    descriptor = struct.pack("<HHL3H", 0x28, 0x3002, 6, entries, 0, 16)
    data = struct.pack("<HHL", 0x28, 0x3006, 2 * entries) + bytes(2 * entries - 2) + b"\xff\xff"
    item = b"\xfe\xff\0\xe0" + struct.pack("<L", len(descriptor + data)) + descriptor + data
    sequence = b"\x28\0\x10\x30UN\0\0" + struct.pack("<L", len(item)) + item
    path = save(dataset(np.array([[0, 1, entries]], "u2")), tmp_path / "image.dcm")
    path.write_bytes(path.read_bytes().replace(b"\xe0\x7f\x10\0OW", sequence + b"\xe0\x7f\x10\0OW"))
    assert read_image(path).tolist() == [[0, 0, 255]]


def test_nested_sequences_are_skipped(tmp_path):
    icon = dataset(np.zeros((2, 2), np.uint8))
    del icon.file_meta
    icon.is_undefined_length_sequence_item = True
    outer = Dataset()
    outer.IconImageSequence = Sequence([icon])
    outer["IconImageSequence"].is_undefined_length = True
    image = dataset(GRADIENT, ReferencedImageSequence=Sequence([outer, outer]))
    image["ReferencedImageSequence"].is_undefined_length = True
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        assert np.array_equal(read_image(save(image, tmp_path / "image.dcm", syntax)), GRADIENT)


def test_text_that_is_not_utf_8_is_latin_1(tmp_path):
    path = save(dataset(GRADIENT, PatientID="Muessler"), tmp_path / "image.dcm")
    path.write_bytes(path.read_bytes().replace(b"Muessler", b"M\xfc\xdfler  "))
    assert read_dicom(path)[1].patient_id == "Müßler"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", NotAnImageError),
        (b"plain text, no image\n" * 50, NotAnImageError),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), NotAnImageError),
        (bytes(1000), NotAnImageError),
        (random.Random(SEED).randbytes(5000), NotAnImageError),
        (b"\x10\0\x10\0PN\x04\0Ross", NotAnImageError),
        (bytes(128) + b"DICM", NoPixelsError),
        (bytes(128) + b"DICM" + b"\x02\0\x10\0UI\xff\xff1.2", DamagedError),
    ],
)
def test_files_that_are_not_dicom(tmp_path, content, error):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(error, match="file"):
        read_image(path)


@pytest.mark.parametrize("name", ["absent.dcm", "", "null\0byte", "x" * 5000])
def test_paths_that_cannot_be_opened(tmp_path, name):
    with pytest.raises(ImageError) as caught:
        read_image(os.path.join(tmp_path, name))
    assert type(caught.value) is ImageError


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_read_permission(tmp_path):
    path = save(dataset(GRADIENT), tmp_path / "image.dcm")
    path.chmod(0)
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(path)


def test_floating_point_pixels(tmp_path):
    image = dataset(GRADIENT, PixelData=None, FloatPixelData=bytes(4 * GRADIENT.size))
    with pytest.raises(UnsupportedError, match="floating-point"):
        read_image(save(image, tmp_path / "image.dcm"))


def test_a_file_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(elements, "MAX_FILE_BYTES", 500)
    with pytest.raises(TooLargeError, match="expected at most 500"):
        read_image(save(dataset(GRADIENT), tmp_path / "image.dcm"))


def test_a_deflate_bomb_is_not_expanded(tmp_path, monkeypatch):
    monkeypatch.setattr(elements, "MAX_INFLATED_BYTES", 2**20)
    path = save(dataset(GRADIENT), tmp_path / "image.dcm", uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    begin = 144 + struct.unpack_from("<L", content, 140)[0]
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(content[:begin] + squeeze.compress(bytes(64 * 2**20)) + squeeze.flush())
    del squeeze
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="expands"):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_deflated_file_that_does_not_end(tmp_path):
    path = save(dataset(GRADIENT), tmp_path / "image.dcm", uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    begin = 144 + struct.unpack_from("<L", content, 140)[0]
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    whole = zlib.decompress(content[begin:], wbits=-zlib.MAX_WBITS)
    # Every byte of the data set can be inflated, but nothing marks the end of the stream.
    path.write_bytes(content[:begin] + squeeze.compress(whole) + squeeze.flush(zlib.Z_FULL_FLUSH))
    with pytest.raises(DamagedError, match="deflated data set is cut short"):
        read_image(path)
