"""The manifest: an index of DICOM files and their annotations, with one row per image."""

import logging
import math
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import track

from pneumoseg import rle
from pneumoseg.atomic_write import atomic_write
from pneumoseg.data.annotations import read_annotations, read_id_map
from pneumoseg.data.files import STATE_COLUMNS, file_state, find_dicoms
from pneumoseg.data.masks import has_mask
from pneumoseg.data.patients import ID_MAP, describe_patients, doubts_about_patients
from pneumoseg.identifiers import image_id_of, is_utf8, printable, read_text_table
from pneumoseg.image_errors import ImageError
from pneumoseg.image_header import ImageHeader
from pneumoseg.images import read_with_header

_log = logging.getLogger(__name__)

COLUMNS = {
    "image_id": "str",
    "path": "str",
    "has_pneumothorax": "bool",
    "rle": "str",
    "area_px": "int64",
    "patient_id": "str",
    "patient_source": "str",
    "view": "str",
    "sex": "str",
    "age": "float64",
    "rows": "int64",
    "columns": "int64",
    "pixel_spacing": "float64",
    "pixel_aspect": "float64",
    "frame_offset": "int64",
    "frame_length": "int64",
    "file_bytes": "int64",
    "file_modified": "int64",
}

# Columns that a manifest may lack if it was made by hand or by an earlier version.
_OPTIONAL = (*STATE_COLUMNS, "pixel_aspect")


def index_dataset(
    dicom_dir: str | Path,
    annotations: str | Path,
    *,
    id_map: str | Path | None = None,
    rejected: str | Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Read every file of a data set once, strictly, and join it with its annotations.

    A file that cannot be used does not stop the indexing. It is left out, counted in a warning, and listed with the
    reason in `rejected`. The reasons are: no annotation row, a damaged or unsupported file, a malformed run-length
    code, another usable file of the same name, a path that is not UTF-8, and an annotation without a file.

    Args:
        dicom_dir: Folder with `.dcm` files at any depth, see `find_dicoms`. The image id is the stem of the file name.
        annotations: CSV of run-length codes, see `read_annotations`. Several rows of one image are joined by OR.
        id_map: CSV from image ids to NIH file names, see `read_id_map`. For images that it does not list, the PatientID
            of the DICOM header is used, and a warning counts them. In the competition's files every image has its own
            PatientID.
        rejected: CSV to write, with the columns `image_id`, `path` and `reason`, one row per file that is left out.
        progress: Whether to show a progress bar.

    Returns:
        The manifest, one row per image, sorted by image id, with the columns of `COLUMNS`. `path` is absolute, with
        links not resolved. `rle` is the run-length code of all annotation rows of the image, and `area_px` its number
        of pixels. `age` is in years and `pixel_spacing` in mm, both NaN if unknown. `pixel_aspect` is the height of a
        pixel divided by its width. `frame_offset` and `frame_length` locate the JPEG frame in the file, in bytes; both
        are 0 if the file needs transcoding. `file_bytes` and `file_modified` (nanoseconds since 1970) tell later
        whether the file has changed.

    Raises:
        FileNotFoundError: If the folder or a CSV is missing.
        ValueError: If a CSV is malformed, the id map lists none of the images, or no image can be used.

    Example:
        >>> manifest = index_dataset("dicom-images-train", "train-rle.csv", id_map="nih_id.csv")  # doctest: +SKIP
        >>> summarize(manifest)  # doctest: +SKIP
        '198 images, 57 with a pneumothorax (29%), 170 patients'
    """
    paths = find_dicoms(dicom_dir)
    texts = read_annotations(annotations).groupby("image_id")["rle"].agg(list).to_dict()
    patients = {} if id_map is None else read_id_map(id_map).to_dict()
    annotated = texts.keys() & {image_id_of(path) for path in paths}
    if id_map is not None and annotated:
        _check_id_map(id_map, patients, annotated)
    left_out = _without_file(texts, paths)
    accepted: dict[str, dict] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        entries: Iterable[dict] = pool.map(lambda path: _entry(path, texts, patients), paths)
        for entry in track(entries, "Indexing", len(paths), disable=not progress):
            image_id = entry["image_id"]
            if "reason" in entry:
                left_out.append(entry)
            elif image_id in accepted:
                left_out.append(_left_out(image_id, entry["path"], f"same name as: {accepted[image_id]['path']}"))
            else:
                accepted[image_id] = entry
    summary = _report(left_out, rejected)
    if not accepted:
        raise ValueError(f"{dicom_dir}: none of its {len(paths)} files can be used: {summary}")
    table = pd.DataFrame(accepted.values(), columns=list(COLUMNS)).astype(COLUMNS)
    manifest = table.sort_values("image_id", ignore_index=True)
    for text in doubts_about_patients(manifest):
        warnings.warn(text, stacklevel=2)
    return manifest


def save_manifest(manifest: pd.DataFrame, path: str | Path) -> None:
    """Write a manifest as CSV, whole or not at all.

    Args:
        manifest: Manifest returned by `index_dataset`.
        path: CSV file to write.
    """
    with atomic_write(path) as temporary:
        manifest.to_csv(temporary, index=False)


def load_manifest(path: str | Path) -> pd.DataFrame:
    """Read a manifest written by `save_manifest`.

    A manifest made by hand may lack the `STATE_COLUMNS`. Its files are then read again before each training. It may
    also lack `pixel_aspect`, if all pixels are square.

    Args:
        path: CSV file to read.

    Returns:
        The manifest, see `index_dataset`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or holds a wrong value.

    Example:
        >>> manifest = load_manifest("runs/manifest.csv")  # doctest: +SKIP
        >>> positives = manifest[manifest["has_pneumothorax"]]  # doctest: +SKIP
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such manifest: make one with `pneumoseg index`")
    table = read_text_table(path)
    missing = [column for column in COLUMNS if column not in table and column not in _OPTIONAL]
    if missing:
        raise ValueError(f"{path}: not a manifest, it has no column {', '.join(missing)}: index the data set again")
    if not table["has_pneumothorax"].isin(["True", "False"]).all():
        raise ValueError(f"{path}: has_pneumothorax must be True or False in every row")
    table["has_pneumothorax"] = table["has_pneumothorax"] == "True"
    if "pixel_aspect" not in table:
        table["pixel_aspect"] = "1"
    types = {column: kind for column, kind in COLUMNS.items() if column in table}
    return table.replace({"age": {"": "nan"}, "pixel_spacing": {"": "nan"}}).astype(types)


def summarize(manifest: pd.DataFrame) -> str:
    """Describe a manifest in words: the numbers of images, positives and patients.

    Args:
        manifest: Manifest returned by `index_dataset`.

    Returns:
        One line, followed by any doubts about the patients, see `doubts_about_patients`.

    Example:
        >>> columns = ["image_id", "has_pneumothorax", "patient_id"]
        >>> summarize(pd.DataFrame([("a", True, "p1"), ("b", False, "p2"), ("c", False, "p2")], columns=columns))
        '3 images, 1 with a pneumothorax (33%), 2 patients'
    """
    positives = int(manifest["has_pneumothorax"].sum())
    fraction = f" ({positives / len(manifest):.0%})" if len(manifest) else ""
    words = f"{len(manifest)} images, {positives} with a pneumothorax{fraction}, {describe_patients(manifest)}"
    if "rle" in manifest and not (known := has_mask(manifest)).all():
        words += f", {(~known).sum()} with a label and no mask"
    return "; ".join([words, *doubts_about_patients(manifest)])


def _without_file(texts: dict[str, list[str]], paths: list[Path]) -> list[dict]:
    found = {image_id_of(path) for path in paths}
    return [_left_out(image_id, "", "annotated without a file") for image_id in texts if image_id not in found]


def _left_out(image_id: str, path: str | Path, reason: str) -> dict:
    return {"image_id": printable(image_id), "path": printable(path), "reason": reason}


def _entry(path: Path, texts: dict[str, list[str]], patients: dict[str, str]) -> dict:
    """Return a manifest row, or, with a `reason`, a row of the files that are left out."""
    image_id = image_id_of(path)
    if not is_utf8(path):
        return _left_out(image_id, path, "path is not UTF-8: rename the file or its folder")
    if image_id not in texts:
        return _left_out(image_id, path, "no annotation row")
    try:
        state = file_state(path)
        image, header = read_with_header(path)
    except ImageError as error:
        return _left_out(image_id, path, f"{type(error).__name__}: {error.reason}")
    try:
        mask = rle.decode_rows(texts[image_id], (image.shape[0], image.shape[1]))
    except ValueError as error:
        return _left_out(image_id, path, f"malformed annotation: {error}")
    row = {"image_id": image_id, "path": str(path)} | _label(mask) | _origin(header, patients.get(image_id))
    return row | dict(zip(STATE_COLUMNS, state, strict=True))


def _check_id_map(path: str | Path, patients: dict[str, str], image_ids: set[str]) -> None:
    """Log how many images an id map lists, and raise an error if it lists none."""
    found = len(image_ids & patients.keys())
    counts = f"{found} of {len(image_ids)} annotated images are in {path}, which lists {len(patients)}"
    if not found:
        example = f"the images are named like {min(image_ids)!r}, those of the map like {min(patients, default='')!r}"
        raise ValueError(f"{counts}: {example}. Pass the map of this data set, or index without one")
    _log.info(counts)


def _label(mask: np.ndarray) -> dict:
    return {"has_pneumothorax": bool(mask.any()), "rle": rle.encode(mask), "area_px": int(mask.sum())}


def _origin(header: ImageHeader, mapped_patient: str | None) -> dict:
    return {
        "patient_id": header.patient_id or "" if mapped_patient is None else mapped_patient,
        "patient_source": "header" if mapped_patient is None else ID_MAP,
        "view": header.view or "",
        "sex": header.sex or "",
        "age": math.nan if header.age is None else header.age,
        "rows": header.rows,
        "columns": header.columns,
        "pixel_spacing": math.nan if header.pixel_spacing is None else header.pixel_spacing[0],
        "pixel_aspect": header.pixel_aspect,
        "frame_offset": header.frame_offset,
        "frame_length": header.frame_length,
    }


def _report(left_out: list[dict], path: str | Path | None) -> str:
    """Write the files that were left out to a CSV, warn about them, and return the summary in the warning."""
    table = pd.DataFrame(left_out, columns=["image_id", "path", "reason"])
    if path is not None:
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)
    reasons = table["reason"].str.split(":").str[0].value_counts()
    summary = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if left_out:
        where = f"listed in {path}" if path is not None else "pass rejected=PATH to list them"
        warnings.warn(f"{len(left_out)} images left out ({where}): {summary}", stacklevel=3)
    return summary
