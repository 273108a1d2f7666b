"""One synthetic image as a PNG file."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoseg.synthetic.dicom_file import Encoding, displayed_image


def write_png(path: Path, image: NDArray[np.uint8], encoding: Encoding) -> None:
    """Write one image as it is displayed by the DICOM file of the same encoding, and create its folder if needed.

    Args:
        path: Path of the file to write.
        image: Image, uint8, (rows, columns); dense tissue is white.
        encoding: Encoding of the DICOM file, see `write_dicom`; `damaged` gives a PNG without its second half.
    """
    file = io.BytesIO()
    Image.fromarray(displayed_image(image, encoding)).save(file, "PNG")
    content = file.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[: len(content) // 2] if encoding == "damaged" else content)
