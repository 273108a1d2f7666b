"""Recognition of a format of annotations, and the one function that reads all of them."""

import logging
import os
from pathlib import Path
from typing import Any

from pneumoseg.annotations.annotations import PNEUMOTHORAX, Annotations, Unusable, files_below
from pneumoseg.annotations.coco import CocoSegmentations
from pneumoseg.annotations.dicom_seg import DicomSegmentations, is_segmentation
from pneumoseg.annotations.labels import Labels, label_column
from pneumoseg.annotations.mask_pictures import SUFFIXES, MaskPictures
from pneumoseg.annotations.readings import look_absolute
from pneumoseg.annotations.run_lengths import AbsoluteRuns, RelativeRuns, found_runs
from pneumoseg.annotations.tables import no_column, read_table, run_column

_log = logging.getLogger(__name__)

_READERS = {
    reader.format: reader
    for reader in (RelativeRuns, AbsoluteRuns, MaskPictures, CocoSegmentations, DicomSegmentations, Labels)
}
FORMATS = tuple(_READERS)
"""Names of the formats."""

_OPTIONS = {
    "order": ("absolute-csv",),
    "first_pixel": ("absolute-csv",),
    "mask_name": ("masks",),
    "category": ("coco", "seg", "labels"),
}


def read_annotations(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    order: str | None = None,
    first_pixel: int | None = None,
    mask_name: str | None = None,
    category: str | None = None,
) -> Annotations:
    """Read the annotations of a data set.

    Args:
        path: File or folder of annotations.
        format: Name of the format: csv (relative run-length codes, the competition's), absolute-csv (absolute ones),
            masks (a folder of mask pictures), coco (a COCO JSON file), seg (DICOM SEG, a file or a folder), labels (a
            CSV of labels alone). None recognizes it by the content and logs the result.
        order: Order of the pixels of absolute runs, columns (the default) or rows. The two cannot be told apart on
            square images.
        first_pixel: Number of the first pixel of absolute runs, 1 (the default) or 0.
        mask_name: Pattern of the names of mask pictures, see `MaskPictures`.
        category: Name of the finding in COCO, SEG and labels, in upper or lower case. By default pneumothorax, or the
            only finding that there is; if it is given, it is an error if there is no such finding.

    Returns:
        The annotations, without any mask in memory.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the format is not known, not recognized, or not that of the file; if an option belongs to another
            format; or if the library of the format is not installed.

    Example:
        >>> annotations = read_annotations("train.csv", "absolute-csv", order="rows", first_pixel=0)  # doctest: +SKIP
        >>> manifest = index_dataset("images", annotations)  # doctest: +SKIP
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file or folder of annotations")
    given = {"order": order, "first_pixel": first_pixel, "mask_name": mask_name, "category": category}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if format is None:
        format = _format_of(Path(path), options)
        _log.info(f"{path}: recognized as {format}, name another format with --annotations-format if it is not")
    if format not in _READERS:
        raise ValueError(f"annotations of format {format!r}, expected one of {', '.join(FORMATS)}")
    if wrong := [name for name in options if format not in _OPTIONS[name]]:
        raise ValueError(
            f"{path}: {wrong[0]} is an option of the format {' or '.join(_OPTIONS[wrong[0]])}, not of {format}: leave "
            "it out, or name the format with --annotations-format"
        )
    if Path(path).is_dir() and format not in ("masks", "seg"):
        raise ValueError(f"{path} is a folder: annotations of format {format} are a file, masks and seg are folders")
    if format == "masks" and not Path(path).is_dir():
        raise ValueError(f"{path} is a file: annotations of format masks are a folder of pictures")
    return _READERS[format](path, **options)


def _format_of(path: Path, options: dict[str, Any]) -> str:
    if path.is_dir():
        return _format_of_folder(path)
    if is_segmentation(path):
        return "seg"
    with open(path, "rb") as file:
        start = file.read(100).removeprefix(b"\xef\xbb\xbf").lstrip()
    return "coco" if start.startswith((b"{", b"[")) else _format_of_table(path, options)


def _format_of_folder(path: Path) -> str:
    files = files_below(path)
    if any(is_segmentation(file) for file in files):
        return "seg"
    if any(file.suffix.lower() in SUFFIXES for file in files):
        return "masks"
    raise ValueError(f"{path}: neither mask pictures nor DICOM SEG among its {len(files)} files")


def _format_of_table(path: Path, options: dict[str, Any]) -> str:
    """Tell runs from labels by the header, and absolute from relative runs by the options or by the numbers."""
    table = read_table(path)
    category = options.get("category")
    if run_column(table) is None and (label_column(table, category) or label_column(table)) is not None:
        return "labels"
    if run_column(table) is None and table.shape[1] > 2:
        wanted = (
            f"of run-length codes (EncodedPixels, rle) or labels ({category or PNEUMOTHORAX}, label, Finding Labels)"
        )
        raise no_column(path, table, wanted)
    if options.keys() & {"order", "first_pixel"}:
        return "absolute-csv"
    rows = found_runs(path).entries.values()
    texts = (text for texts in rows if not isinstance(texts, Unusable) for text in texts)
    if not look_absolute(texts):
        return "csv"
    _log.warning(
        f"{path}: absolute runs, taken as numbered by columns from 1: look at masks with `pneumoseg show-masks`, and "
        "give --order and --first-pixel if they are not; on square images nothing else can tell"
    )
    return "absolute-csv"
