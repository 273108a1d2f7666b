"""Broken frames of lossless JPEG, which gdcm decodes in a separate process."""

import numpy as np
import pytest

from pneumoseg.dicom import read_image
from pneumoseg.image_errors import DamagedError
from tests.dicom.builders import GRADIENT, SEED, encoded, entropy_coded


def test_a_hole_inside_a_frame_of_jpeg_lossless(tmp_path):
    pixels = np.random.default_rng(SEED).integers(0, 4096, (90, 100)).astype("u2")
    path = encoded(pixels, "lossless", tmp_path / "image.dcm", BitsStored=12)
    content = path.read_bytes()
    start = entropy_coded(content) + 2000
    path.write_bytes(content[:start] + bytes(4096) + content[start + 4096 :])
    with pytest.raises(DamagedError, match="finds them corrupt"):
        read_image(path)


@pytest.mark.parametrize(("pixels", "bits"), [(GRADIENT, 8), (GRADIENT.astype("u2") * 16, 12)])
def test_a_frame_that_ends_the_gdcm_process(tmp_path, pixels, bits):
    path = encoded(pixels, "lossless", tmp_path / "image.dcm", BitsStored=bits)
    path.write_bytes(path.read_bytes().replace(b"\xff\xc4\0", b"\x80\xc4\0"))  # gdcm aborts without a Huffman table
    with pytest.raises(DamagedError, match="cannot be decoded"):
        read_image(path)
