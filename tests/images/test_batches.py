"""Training batches of pictures, and of DICOM files in colour: equal to those of the originals."""

import numpy as np
import pytest
from PIL import Image

from pneumoseg.data.loaders import segmentation_examples
from pneumoseg.images import read_image
from tests.conftest import write_dicom


def png(image, path):
    Image.fromarray(image).save(path, "PNG")


def tiff(image, path):
    Image.fromarray(np.dstack([image] * 3)).save(path, "TIFF", compression="tiff_lzw")


def colour(image, path):
    write_dicom(
        path,
        image,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        PixelData=np.dstack([image] * 3).tobytes(),
    )


def batches(manifest, cache):
    return [
        tuple(part.numpy() for part in batch)
        for batch in segmentation_examples(manifest, 64, cache_dir=cache).batches(4)
    ]


@pytest.mark.parametrize("write", [png, tiff, colour])
def test_batches_are_equal_bit_by_bit(manifest, tmp_path, write):
    chosen = manifest.iloc[:8]
    copies = [tmp_path / f"{image_id}.dat" for image_id in chosen["image_id"]]
    for source, copy in zip(chosen["path"], copies, strict=True):
        write(read_image(source), copy)
    others = chosen.drop(columns=["file_bytes", "file_modified"])
    others = others.assign(path=list(map(str, copies)), frame_offset=0, frame_length=0)
    ours, theirs = batches(others, tmp_path / "ours"), batches(chosen, tmp_path / "theirs")
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert ours[0][0].max() > 100
