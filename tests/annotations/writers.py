"""Masks and annotations written by code that shares nothing with the readers."""

import json

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.sr.coding import Code

from tests.conftest import write_dicom

PNEUMOTHORAX = Code("36118008", "SCT", "Pneumothorax")
LUNG = Code("39607008", "SCT", "Lung")
_TYPE_2 = (
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientOrientation",
)


def masks_of_all_kinds(seed=0):
    """Return masks by image id: odd and even sizes, empty, full, at random, and touching the first and last pixels."""
    rng = np.random.default_rng(seed)
    masks = {
        "empty": np.zeros((5, 3), bool),
        "full": np.ones((3, 5), bool),
        "row": np.ones((1, 9), bool),
        "column": np.arange(7).reshape(7, 1) > 2,
        "wide": rng.random((6, 17)) > 0.5,
        "high": rng.random((16, 8)) > 0.7,
    }
    for name, pixel in (("first", (0, 0)), ("last", (-1, -1))):
        masks[name] = np.zeros((4, 7), bool)
        masks[name][pixel] = True
    masks["block"] = np.zeros((9, 11), bool)
    masks["block"][5:, 6:] = True
    return masks


def runs(flat):
    """Return the first pixel and the length of each run of True in a list of pixels, one pixel at a time."""
    found = []
    for position, value in enumerate(flat):
        if value and (position == 0 or not flat[position - 1]):
            found.append([position, 0])
        if value:
            found[-1][1] += 1
    return found


def absolute_text(mask, order="columns", first_pixel=1):
    """Return the absolute run-length code of a mask."""
    flat = (mask.T if order == "columns" else mask).ravel().tolist()
    return " ".join(f"{start + first_pixel} {length}" for start, length in runs(flat))


def relative_text(mask):
    """Return the relative run-length code of a mask, by columns."""
    words, end = [], 0
    for start, length in runs(mask.T.ravel().tolist()):
        words += [start - end, length]
        end = start + length
    return " ".join(map(str, words)) or "-1"


def coco_counts(mask):
    """Return the lengths of background and mask in turn, by columns, beginning with background."""
    flat, counts, value = mask.T.ravel().tolist(), [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def write_images(folder, masks):
    """Write an image for each mask as DICOM, named by the id, with a SOP Instance UID of its own; return the UIDs."""
    uids = {}
    for number, (image_id, mask) in enumerate(masks.items(), start=1):
        uids[image_id] = f"1.2.3.4.{number}"
        image = np.full(mask.shape, number, np.uint8)
        write_dicom(folder / f"{image_id}.dcm", image, SOPInstanceUID=uids[image_id])
    return uids


def write_coco(path, masks, segment, categories=("Pneumothorax",)):
    """Write a COCO file; `segment` turns a mask into a segmentation."""
    images = [
        {"id": 10 + number, "file_name": f"train/{name}.png", "height": mask.shape[0], "width": mask.shape[1]}
        for number, (name, mask) in enumerate(masks.items())
    ]
    annotations = [
        {"id": number, "image_id": 10 + number, "category_id": 1, "segmentation": segment(mask)}
        for number, mask in enumerate(masks.values())
        if mask.any()
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
    }
    path.write_text(json.dumps(content))
    return path


def write_seg(path, sources, masks, *, kind="BINARY", segments=(("Pneumothorax", PNEUMOTHORAX),), **elements):
    """Write a SEG object.

    Args:
        path: File to write.
        sources: UIDs of the images.
        masks: Masks, bool, (images, H, W, segments).
        kind: BINARY, LABELMAP or FRACTIONAL.
        segments: Label and property type of each segment.
        **elements: Elements of the headers of the images, by keyword.
    """
    highdicom = pytest.importorskip("highdicom")
    if len(sources) > 1:
        elements = {"FrameOfReferenceUID": "1.2.3.7", "PixelSpacing": [0.2, 0.2], "SliceThickness": 1} | elements
        elements["ImageOrientationPatient"] = [1, 0, 0, 0, 1, 0]
    headers = []
    for number, uid in enumerate(sources):
        position = {"ImagePositionPatient": [0, 0, number]} if len(sources) > 1 else {}
        file = write_dicom(
            path.parent / "sources" / uid,
            np.zeros(masks.shape[1:3], np.uint8),
            SOPInstanceUID=uid,
            StudyInstanceUID="1.2.3.5",
            SeriesInstanceUID="1.2.3.6",
            Modality="CR",
            **elements,
            **position,
        )
        header = pydicom.dcmread(file)
        file.unlink()
        for name in _TYPE_2:
            setattr(header, name, None)
        headers.append(header)
    (path.parent / "sources").rmdir()
    highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=masks.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                number,
                label,
                Code("49755003", "SCT", "Morphologically Abnormal Structure"),
                code,
                highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
            )
            for number, (label, code) in enumerate(segments, start=1)
        ],
        series_instance_uid="1.2.3.8",
        series_number=1,
        sop_instance_uid=f"1.2.3.9.{abs(hash(path.name)) % 10**9}",
        instance_number=1,
        manufacturer="nobody",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
    ).save_as(path)
    return path


def write_mask(path, mask, value=255):
    """Write a mask as an 8-bit grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * np.uint8(value)).save(path)
    return path
