"""Masks as annotation files, in each format that `pneumoseg index` reads."""

import csv
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

AnnotationFormat = Literal["csv", "absolute-csv", "masks", "coco", "seg", "labels"]

CATEGORY = "pneumothorax"
"""Name of the only category of a COCO file."""

# A fixed date, so that the same masks give the same bytes.
_DATE, _TIME = "19010101", "000000.00"

# Elements that highdicom copies from the header of the image and that a bare file lacks (Type 2, may be empty).
_COPIED = (
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "PatientOrientation",
)  # fmt: skip


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the regions that are outlined on it.

    Attributes:
        image_id: Image id.
        path: Image file. A COCO file holds its name, and DICOM SEG the UIDs in its header.
        shape: (H, W) of the image, in pixels.
        runs: One array per outlined region, int64, (n, 2): start and length of each run, counted from 0 down the
            columns. Regions may overlap. Empty in a negative image.

    Example:
        >>> image = AnnotatedImage.of("a", Path("a.png"), (2, 3), [np.array([[0, 1, 0], [0, 1, 1]], bool)])
        >>> image.runs
        [array([[2, 2], [5, 1]])]
    """

    image_id: str
    path: Path
    shape: tuple[int, int]
    runs: list[NDArray[np.int64]]

    @classmethod
    def of(
        cls, image_id: str, path: Path, shape: tuple[int, int], regions: Iterable[NDArray[np.bool_]]
    ) -> "AnnotatedImage":
        """Return an image with regions given as masks, each bool, (H, W)."""
        return cls(image_id, path, shape, [_runs(region) for region in regions])

    @property
    def regions(self) -> list[NDArray[np.bool_]]:
        """The outlined regions, each bool, (H, W)."""
        return [_region(runs, self.shape) for runs in self.runs]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The union of all regions, bool, (H, W)."""
        return np.any(self.regions, axis=0) if self.runs else np.zeros(self.shape, bool)


def write_annotations(
    annotation_format: AnnotationFormat, folder: Path, part: str, images: Iterable[AnnotatedImage]
) -> None:
    """Write the masks of images in one of the formats.

    ::

        csv            <part>-rle.csv        relative runs, column-major; of the part `train` with the spaces of stage 1
        absolute-csv   <part>-absolute.csv   starts and lengths, column-major, counted from 1; `-1` if empty
        masks          masks-<part>/<image id>.png    0 and 255
        coco           <part>-coco.json      one annotation per region, every other one as a compressed run-length code
        seg            seg-<part>/<image id>.dcm      one binary segmentation per positive image
        labels         <part>-labels.csv     `image_id,has_pneumothorax`, 0 or 1

    Args:
        annotation_format: One of the formats above.
        folder: Existing folder to write to.
        part: Name of a part of the data set, such as `train`.
        images: Images, negative ones included.

    Raises:
        ValueError: If the library that writes the format is not installed, or, for `seg`, if an image file has no
            valid UIDs.

    Example:
        >>> write_annotations("coco", Path("data"), "train", images)  # doctest: +SKIP
    """
    require_library(annotation_format)
    _WRITERS[annotation_format](folder, part, images)


def require_library(annotation_format: AnnotationFormat) -> None:
    """Raise ValueError unless the optional library that writes a format is installed; names the remedy."""
    library, extra = {"coco": ("pycocotools", "coco"), "seg": ("highdicom", "dicom")}.get(annotation_format, ("", ""))
    if library and importlib.util.find_spec(library) is None:
        raise ValueError(
            f"the format {annotation_format} is written by {library}, which is not installed: "
            f"pip install 'pneumoseg[{extra}]'"
        )


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return start and length of each run of a mask, down the columns; int64, (n, 2)."""
    # Padded, so that a run through the last pixel has an end.
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    borders = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2)
    return np.column_stack([borders[:, 0], borders[:, 1] - borders[:, 0]])


def _region(runs: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    flat = np.zeros(shape[0] * shape[1], bool)
    for start, length in runs:
        flat[start : start + length] = True
    return flat.reshape(shape, order="F")


def _gaps(runs: NDArray[np.int64]) -> list[int]:
    """Return the gap before each run and its length, one after the other."""
    return np.diff(np.column_stack([runs[:, 0], runs.sum(axis=1)]).ravel(), prepend=0).tolist()


def _relative(runs: NDArray[np.int64]) -> str:
    """Return the competition's code of a region."""
    return _text(_gaps(runs))


def _absolute(runs: NDArray[np.int64]) -> str:
    """Return the code of a region that most Kaggle competitions use: starts counted from 1, and lengths."""
    return _text((runs + np.array([1, 0])).ravel().tolist())


def _text(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _rows(
    images: Iterable[AnnotatedImage], encode: Callable[[NDArray[np.int64]], str], prefix: str = ""
) -> list[tuple[str, str]]:
    """Return the rows of a table of codes: one per region, `-1` for a negative image."""
    return [
        (image.image_id, prefix + code) for image in images for code in [encode(runs) for runs in image.runs] or ["-1"]
    ]


def _write_csv(folder: Path, part: str, images: Iterable[AnnotatedImage]) -> None:
    # The competition's second stage dropped the spaces of the first.
    space = " " if part == "train" else ""
    write_table(folder / f"{part}-rle.csv", ("ImageId", f"{space}EncodedPixels"), _rows(images, _relative, space))


def _write_absolute_csv(folder: Path, part: str, images: Iterable[AnnotatedImage]) -> None:
    write_table(folder / f"{part}-absolute.csv", ("ImageId", "EncodedPixels"), _rows(images, _absolute))


def _write_masks(folder: Path, part: str, images: Iterable[AnnotatedImage]) -> None:
    masks = folder / f"masks-{part}"
    masks.mkdir()
    for image in images:
        Image.fromarray(image.mask.astype(np.uint8) * 255).save(masks / f"{image.image_id}.png")


def _write_labels(folder: Path, part: str, images: Iterable[AnnotatedImage]) -> None:
    rows = [(image.image_id, str(int(bool(image.runs)))) for image in images]
    write_table(folder / f"{part}-labels.csv", ("image_id", "has_pneumothorax"), rows)


def _write_coco(folder: Path, part: str, images: Iterable[AnnotatedImage]) -> None:
    listed, annotations = [], list[dict[str, Any]]()
    for number, image in enumerate(images, 1):
        height, width = image.shape
        listed.append({"id": number, "file_name": image.path.name, "width": width, "height": height})
        for runs in image.runs:
            annotations.append(_coco_annotation(len(annotations) + 1, number, runs, image.shape))
    category = {"id": 1, "name": CATEGORY, "supercategory": ""}
    content = {"images": listed, "annotations": annotations, "categories": [category]}
    (folder / f"{part}-coco.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _coco_annotation(number: int, image: int, runs: NDArray[np.int64], shape: tuple[int, int]) -> dict[str, Any]:
    # Polygons would not give every pixel back. Both kinds of runs occur, so that both are read.
    from pycocotools import mask as coco

    gaps = _gaps(runs)
    rest = shape[0] * shape[1] - sum(gaps)  # COCO codes go on to the last pixel
    plain = {"counts": [*gaps, rest] if rest else gaps, "size": list(shape)}
    compressed = coco.frPyObjects(plain, *shape)
    text = {"counts": compressed["counts"].decode("ascii"), "size": list(shape)}
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 1,
        "area": int(runs[:, 1].sum()),
        "bbox": coco.toBbox(compressed).tolist(),
        "segmentation": plain if number % 2 else text,
    }


def _write_segmentations(folder: Path, part: str, images: Iterable[AnnotatedImage]) -> None:
    segmentations = folder / f"seg-{part}"
    segmentations.mkdir()
    for image in images:
        if image.runs:
            _write_segmentation(segmentations / f"{image.image_id}.dcm", image)


def _write_segmentation(path: Path, image: AnnotatedImage) -> None:
    import highdicom
    from highdicom.sr import CodedConcept
    from pydicom.uid import generate_uid

    source = _source_header(image.path)
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Pneumothorax",
        segmented_property_category=CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
        segmented_property_type=CodedConcept("36118008", "SCT", "Pneumothorax"),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    series, instance, dimension = (
        generate_uid(entropy_srcs=[source.SOPInstanceUID, purpose]) for purpose in ("series", "instance", "dimension")
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The string .* is unlikely to represent the intended person name")
        segmentation = highdicom.seg.Segmentation(
            [source],
            image.mask[None],
            highdicom.seg.SegmentationTypeValues.BINARY,
            [segment],
            series_instance_uid=series,
            series_number=2,
            sop_instance_uid=instance,
            instance_number=1,
            manufacturer="pneumoseg",
            manufacturer_model_name="pneumoseg",
            software_versions="1",
            device_serial_number="1",
        )
    _fix(segmentation, dimension)
    segmentation.save_as(path)


def _source_header(path: Path) -> "Dataset":
    """Return the header of an image as highdicom accepts it."""
    import pydicom
    from pydicom.uid import UID

    header = pydicom.dcmread(path, stop_before_pixels=True)
    uids = {name: str(header.get(name, "")) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    wrong = [f"{name} {uid!r}" for name, uid in uids.items() if not UID(uid).is_valid]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)}: a segmentation can refer to valid UIDs only")
    # With a spacing, highdicom writes Pixel Measures that its own reader refuses; an age like 38 is not a valid one.
    for name in ("PixelSpacing", "FrameOfReferenceUID", "PatientAge"):
        if name in header:
            delattr(header, name)
    for name in _COPIED:
        if name not in header:
            setattr(header, name, "")
    return header


def _fix(segmentation: "Dataset", dimension: str) -> None:
    """Replace what highdicom takes from the clock or draws at random."""
    segmentation.InstanceCreationDate = segmentation.ContentDate = _DATE
    segmentation.InstanceCreationTime = segmentation.ContentTime = _TIME
    segmentation.ContributingEquipmentSequence[0].ContributionDateTime = _DATE
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimension
    for index in segmentation.DimensionIndexSequence:
        index.DimensionOrganizationUID = dimension


_WRITERS: dict[AnnotationFormat, Callable[[Path, str, Iterable[AnnotatedImage]], None]] = {
    "csv": _write_csv,
    "absolute-csv": _write_absolute_csv,
    "masks": _write_masks,
    "coco": _write_coco,
    "seg": _write_segmentations,
    "labels": _write_labels,
}
