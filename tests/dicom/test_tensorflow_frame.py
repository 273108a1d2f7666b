"""The position of the JPEG frame that TensorFlow decodes to exactly the image that is read."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from pneumoseg.dicom import read_dicom
from tests.dicom.builders import GRADIENT, SEED, jpeg, jpeg_dataset, lookup_table, save

REAL = Path(__file__).parents[2] / "../shared/siim-mini"


def decode_with_tensorflow(path: Path, offset: int, length: int) -> np.ndarray:
    tf = pytest.importorskip("tensorflow")
    frame = tf.strings.substr(tf.io.read_file(str(path)), offset, length)
    return tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE").numpy()[..., 0]


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("quality", [30, 90, 95])
@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_the_frame_decodes_to_the_image(tmp_path, table, quality, syntax):
    noise = np.random.default_rng(SEED).integers(0, 256, (45, 61), np.uint8)
    frame = jpeg(noise, quality)
    path = save(jpeg_dataset(frame, noise.shape, table), tmp_path / "image.dcm", syntax)
    image, header = read_dicom(path)
    content = path.read_bytes()
    assert content[header.frame_offset :][: len(frame)] == frame
    assert header.frame_length == len(frame) + len(frame) % 2
    assert np.array_equal(decode_with_tensorflow(path, header.frame_offset, header.frame_length), image)


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({"WindowCenter": 128, "WindowWidth": 256}, True),  # this window maps 0 to 255 onto themselves
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, True),
        ({"PixelPaddingValue": 0}, True),
        ({"WindowCenter": 100, "WindowWidth": 51}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, False),
        ({"RescaleSlope": 2, "RescaleIntercept": 0}, False),
        ({"VOILUTSequence": lookup_table([2, 0, 8], [0, 255])}, False),
        ({"PixelPaddingValue": 255}, True),
    ],
)
def test_only_an_unchanged_frame_has_a_position(tmp_path, attributes, kept):
    path = save(jpeg_dataset(jpeg(GRADIENT), **attributes), tmp_path / "image.dcm")
    image, header = read_dicom(path)
    assert (header.frame_offset > 0) == (header.frame_length > 0) == kept
    if kept:
        assert np.array_equal(decode_with_tensorflow(path, header.frame_offset, header.frame_length), image)


def test_a_sequential_frame_of_eight_bits_may_be_marked_extended(tmp_path):
    frame = jpeg(GRADIENT).replace(b"\xff\xc0", b"\xff\xc1")
    path = save(jpeg_dataset(frame), tmp_path / "image.dcm")
    image, header = read_dicom(path)
    assert header.frame_offset > 0
    assert np.array_equal(decode_with_tensorflow(path, header.frame_offset, header.frame_length), image)


def test_a_progressive_frame_is_read_but_has_no_position(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(GRADIENT).save(buffer, "JPEG", progressive=True)
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1):
        image, header = read_dicom(save(jpeg_dataset(buffer.getvalue()), tmp_path / "image.dcm", syntax))
        assert np.array_equal(image, np.asarray(Image.open(buffer)))
        assert (header.frame_offset, header.frame_length) == (0, 0)


def test_a_frame_in_two_fragments_is_read_but_has_no_position(tmp_path):
    frame = jpeg(GRADIENT)
    image = jpeg_dataset(frame)
    image.PixelData = encapsulate([frame], fragments_per_frame=2)
    pixels, header = read_dicom(save(image, tmp_path / "image.dcm"))
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(frame))))
    assert (header.frame_offset, header.frame_length) == (0, 0)


def test_a_frame_of_more_bits_than_are_stored_has_no_position(tmp_path):
    pixels = np.zeros(GRADIENT.shape, np.uint8)
    pixels[:, :13] = 127
    frame = jpeg(pixels, 40)
    decoded = np.asarray(Image.open(io.BytesIO(frame)))
    assert decoded.max() > 127
    # This window maps 0 to 127 onto themselves.
    image = jpeg_dataset(frame, BitsStored=7, WindowCenter=128, WindowWidth=256)
    displayed, header = read_dicom(save(image, tmp_path / "image.dcm"))
    assert np.array_equal(displayed, np.minimum(decoded, 127))
    assert (header.frame_offset, header.frame_length) == (0, 0)


@pytest.mark.skipif(not REAL.is_dir(), reason="the competition's files are not here")
def test_real_files():
    paths = sorted(REAL.rglob("*.dcm"))[::25]
    assert paths
    for path in paths:
        image, header = read_dicom(path)
        assert image.shape == (1024, 1024)
        assert image.std() > 5
        assert header.frame_offset > 0
        assert np.array_equal(decode_with_tensorflow(path, header.frame_offset, header.frame_length), image)
