"""Data that several tests share: a small generated data set and DICOM files made by hand."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

MINI = Path(__file__).parents[1] / "../shared/siim-mini"

# Needs tensorflow-addons, which the environment of the tests has not.
collect_ignore = ["oracles/reference.py"]


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Free what JAX has compiled for the tests of a module, which takes gigabytes over all of them."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def mini():
    """Return the folder of the real subset, or skip the test if it is missing."""
    if not MINI.exists():
        pytest.skip("the real subset is not next to the checkout")
    return MINI


@pytest.fixture
def gpu_listed(monkeypatch):
    """Make Keras choose XLA by default, as it does if a GPU is listed."""
    import keras

    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    """Return the folder of a generated data set of 128 x 128 pixels: 40 training and 12 test images."""
    from pneumoseg.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("generated")
    write_dataset(folder, train=40, test=12, size=128, seed=7)
    return folder


@pytest.fixture(scope="session")
def manifest(generated):
    """Return the manifest of the generated training images."""
    from pneumoseg.data.index import index_dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return index_dataset(
            generated / "dicom-images-train", generated / "train-rle.csv", id_map=generated / "nih_id.csv"
        )


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """Return the folder of a pipeline of untrained networks that lets every image pass and keeps every pixel."""
    from pneumoseg.inference import assemble_pipeline
    from tests.inference.test_folder import save_classifier, save_segmenter

    folder = tmp_path_factory.mktemp("pipeline")
    save_classifier(folder / "c")
    save_segmenter(folder / "s", 0.5)
    options = {"classifier_threshold": 0, "mask_threshold": 0, "minimum_area": 0}
    assemble_pipeline(folder / "c", folder / "s", folder / "p", **options)
    return folder / "p"


@pytest.fixture(scope="module")
def ray_cluster():
    """Connect to the Ray that runs already, or else to one of two CPUs; connections within tests find it."""
    pytest.importorskip("ray")
    from pneumoseg.cluster import connect

    with connect(cpus=2) as ray:
        yield ray


def write_dicom(path, image, **elements):
    """Write an image, uint8 or uint16, as an uncompressed DICOM file, with further elements given by keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * image.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = image.tobytes() + b"\0" * (image.nbytes % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def manifest_of(paths, images, codes):
    """Return a manifest of uncompressed files, made by hand."""
    return pd.DataFrame(
        {
            "image_id": [path.stem for path in paths],
            "path": [str(path) for path in paths],
            "has_pneumothorax": [code != "-1" for code in codes],
            "rle": codes,
            "area_px": [sum(map(int, code.split()[1::2])) for code in codes],
            "patient_id": [f"p{number}" for number in range(len(paths))],
            "patient_source": "header",
            "view": "PA",
            "sex": "F",
            "age": 50.0,
            "rows": [image.shape[0] for image in images],
            "columns": [image.shape[1] for image in images],
            "pixel_spacing": 0.2,
            "frame_offset": np.int64(0),
            "frame_length": np.int64(0),
        }
    )


def predictions_of(folder, maps, masks, probabilities, **columns):
    """Return cached predictions made by hand; an image without a map counts as unreadable.

    Args:
        folder: Folder in which the maps are written.
        maps: Probability maps of the segmenter, uint8, (size, size) each, or None.
        masks: True masks, bool, (H, W) each.
        probabilities: Probabilities of the classifier, (n,).
        **columns: Values that replace columns of the manifest.
    """
    from pneumoseg import rle
    from pneumoseg.predictions import Predictions

    (folder / "maps").mkdir(parents=True)
    names = [f"i{number}" for number in range(len(maps))]
    files = [folder / "maps" / f"{name}.png" for name in names]
    for file, prob_map_u8 in zip(files, maps, strict=True):
        if prob_map_u8 is not None:
            Image.fromarray(prob_map_u8).save(file)
    manifest = manifest_of([folder / f"{name}.dcm" for name in names], masks, [rle.encode(mask) for mask in masks])
    return Predictions(
        folder=folder,
        maps=files,
        manifest=manifest.assign(**columns),
        probability=np.asarray(probabilities, float),
        errors=["damaged" if prob_map_u8 is None else "" for prob_map_u8 in maps],
        networks={},
        flip=False,
        seconds=0.5,
    )
