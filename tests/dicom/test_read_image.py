"""Whole files: pydicom's test files, cut and altered files, and threads."""

import random
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pneumoseg.dicom import read_image
from pneumoseg.image_errors import ImageError
from tests.dicom.builders import CORPUS, ENCODINGS, GRADIENT, SEED, dataset, encoded, jpeg, jpeg_dataset, save


def outcome(path: Path) -> str:
    """Return 'image', or the name of the error after checking its file, reason and remedy."""
    try:
        image = read_image(path)
    except ImageError as caught:
        error = caught
    else:
        assert image.dtype == np.uint8
        assert image.ndim == 2
        return "image"
    assert str(error) == f"{path}: {error.reason}. {error.remedy}"
    assert error.reason
    assert error.remedy
    return type(error).__name__


@pytest.mark.parametrize("encoding", [*ENCODINGS, "JPEG"])
def test_a_file_cut_anywhere_is_an_error(tmp_path, encoding):
    pixels = np.random.default_rng(SEED).integers(0, 256, (33, 34), np.uint8)
    path = tmp_path / "image.dcm"
    if encoding == "JPEG":
        save(jpeg_dataset(jpeg(pixels), pixels.shape), path)
    else:
        encoded(pixels, encoding, path)
    content = path.read_bytes()
    assert outcome(path) == "image"
    # The last byte of a deflated file may be padding.
    for length in range(0, len(content) - 1, 3):
        path.write_bytes(content[:length])
        kind = outcome(path)
        assert kind != "image", length
        if length > len(content) - 300:
            assert kind == "DamagedError", length


def test_pydicom_test_files():
    counts = Counter(outcome(path) for path in CORPUS.rglob("*") if path.is_file())
    assert counts == {
        "image": 49,
        "NoPixelsError": 70,
        "UnsupportedError": 41,
        "NotAnImageError": 10,
        "DamagedError": 6,
    }


def test_stored_values_and_windows_agree_with_pydicom():
    agreed = 0
    for path in sorted(CORPUS.rglob("*")):
        if not path.is_file() or outcome(path) != "image" or path.name in ("JPGExtended.dcm", "JPEG-lossy.dcm"):
            continue  # pydicom has no decoder with a permissive licence for 12-bit JPEG
        assert np.array_equal(read_image(path), displayed_by_pydicom(path)), path.name
        agreed += 1
    assert agreed == 47


def displayed_by_pydicom(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pydicom.dcmread(path, force=True)
        modality = pydicom.pixels.apply_modality_lut(image.pixel_array, image)
        levels = pydicom.pixels.apply_voi_lut(modality, image).astype(float)
    low, high = levels.min(), levels.max()
    if "WindowCenter" in image:
        half = 2 ** (image.BitsStored - 1) if image.PixelRepresentation else 0
        ends = np.array([-half, 2**image.BitsStored - 1 - half])
        low, high = ends * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
    elif image.BitsStored == 8:
        low, high = 0, 255
    grey = np.rint((levels - low) / (high - low) * 255).astype(np.uint8)
    return 255 - grey if image.PhotometricInterpretation == "MONOCHROME1" else grey


def test_altered_bytes_give_an_image_or_an_error(tmp_path):
    rng = random.Random(SEED)
    seeds = [path.read_bytes() for path in sorted(CORPUS.glob("*.dcm")) if path.stat().st_size < 12000]
    for encoding in ENCODINGS:
        seeds.append(encoded(GRADIENT, encoding, tmp_path / "seed.dcm").read_bytes())
    seeds.append(save(jpeg_dataset(jpeg(GRADIENT)), tmp_path / "seed.dcm").read_bytes())
    path = tmp_path / "altered.dcm"
    counts: Counter[str] = Counter()
    for _ in range(1000):
        path.write_bytes(alter(rng.choice(seeds), rng))
        counts[outcome(path)] += 1
    assert counts["image"] > 50
    assert counts["DamagedError"] > 200


def alter(content: bytes, rng: random.Random) -> bytes:
    """Return the content with bytes overwritten, a part dropped or doubled, or the end cut off."""
    edited = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        start = rng.randrange(len(content))
        edited[start : start + rng.randrange(1, 64)] = edited[start : start + rng.randrange(64)] * 2
        return bytes(edited)
    # Most edits hit the header, some hit any byte.
    end = min(len(content), 1500) if kind == 2 else len(content)
    for _ in range(rng.choice([1, 2, 5, 20])):
        edited[rng.randrange(min(132, end - 1), end)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(edited)


def test_reading_warns_of_nothing_and_threads_agree(tmp_path):
    paths = sorted(CORPUS.glob("MR_small*.dcm")) * 4
    image = dataset(GRADIENT, SpecificCharacterSet="NONSENSE", PatientAge="038Y")
    odd = save(image, tmp_path / "image.dcm")
    odd.write_bytes(odd.read_bytes().replace(b"038Y", b"38  ").replace(b"1.2.3.4", b"ID_0abc"))
    paths.append(odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = [read_image(path) for path in paths]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(read_image, paths))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
