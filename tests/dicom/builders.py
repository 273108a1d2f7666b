"""Builders of DICOM files: datasets made by hand, in every encoding that is read."""

import io
import struct
import warnings
from pathlib import Path

import gdcm
import numpy as np
import openjpeg
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from pneumoseg.dicom import read_image

CORPUS = Path(pydicom.__file__).parent / "data/test_files"
SEED = 20190904
GRADIENT = np.add.outer(np.arange(37) * 4, np.arange(34) * 3).astype(np.uint8)


def dataset(pixels: np.ndarray, **attributes) -> Dataset:
    """Return an uncompressed greyscale image with the given attributes; attributes set to None are left out."""
    bits = 8 * pixels.dtype.itemsize
    signed = int(pixels.dtype.kind == "i")
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.SOPClassUID = uid.SecondaryCaptureImageStorage
    image.SOPInstanceUID = "1.2.3.4"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = bits
    image.HighBit, image.PixelRepresentation = bits - 1, signed
    image.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    image["PixelData"].VR = "OW" if bits == 16 else "OB"
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    if attributes.get("BitsStored") and "HighBit" not in attributes:
        image.HighBit = attributes["BitsStored"] - 1
    return image


def save(image: Dataset, path: Path, syntax: str | None = None) -> Path:
    if syntax is not None:
        image.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save_as(path, enforce_file_format=True)
    return path


def lookup_table(descriptor: list[int], data: list[int] | np.ndarray, vr: str = "US", dtype: str = "<u2") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, descriptor)
    item.add_new("LUTData", "OW", np.array(data, dtype).tobytes())
    return Sequence([item])


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def jpeg_dataset(frame: bytes, shape: tuple[int, int] = GRADIENT.shape, table: bool = True, **attributes) -> Dataset:
    image = dataset(np.zeros(shape, np.uint8), **attributes)
    image.PixelData = encapsulate([frame], has_bot=table)
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    return image


def displayed(tmp_path: Path, pixels: list | np.ndarray, dtype: str = "u2", **attributes) -> list:
    return read_image(save(dataset(np.array(pixels, dtype), **attributes), tmp_path / "image.dcm")).tolist()


NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}
COMPRESSED = {"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless, "JPEG 2000": uid.JPEG2000Lossless}
LOSSLESS = {"lossless": "JPEGLosslessProcess14", "lossless SV1": "JPEGLosslessProcess14_1"}
ENCODINGS = [*NATIVE, *COMPRESSED, *LOSSLESS]


def gdcm_encoded(path: Path, syntax: int) -> Path:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def encoded(pixels: np.ndarray, encoding: str, path: Path, **attributes) -> Path:
    image = dataset(pixels, **attributes)
    if encoding == "JPEG 2000":
        frame = openjpeg.encode(pixels, bits_stored=image.BitsStored, photometric_interpretation=2)
        image.PixelData = encapsulate([bytes(frame)])
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    elif encoding in COMPRESSED:
        image.compress(COMPRESSED[encoding], generate_instance_uid=False)
    if encoding == "big endian" and pixels.itemsize == 2:
        image.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    save(image, path, NATIVE.get(encoding))
    return gdcm_encoded(path, getattr(gdcm.TransferSyntax, LOSSLESS[encoding])) if encoding in LOSSLESS else path


def with_bits(path: Path, stored: int, high: int) -> Path:
    """Return the file with another BitsStored and HighBit and unchanged pixels."""
    image = pydicom.dcmread(path)
    image.BitsStored, image.HighBit = stored, high
    return save(image, path)


def entropy_coded(frame: bytes) -> int:
    """Return the position at which the compressed data of a single-scan frame begin."""
    start = frame.index(b"\xff\xda")
    return start + 2 + struct.unpack_from(">H", frame, start + 2)[0]
