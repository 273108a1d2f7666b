"""Index a folder of DICOM files and its annotations into a manifest: one row an image."""

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
from pneumoseg.data.manifest import Manifest
from pneumoseg.data.patients import ID_MAP, doubts_about_patients
from pneumoseg.dicom import DicomError, DicomHeader, read_dicom
from pneumoseg.identifiers import image_id_of, is_utf8, printable, read_text_table

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
    "frame_offset": "int64",
    "frame_length": "int64",
    "file_bytes": "int64",
    "file_modified": "int64",
}


def index_dataset(
    dicom_dir: str | Path,
    annotations: str | Path,
    *,
    id_map: str | Path | None = None,
    rejected: str | Path | None = None,
    progress: bool = False,
) -> Manifest:
    """Read every file of a data set once, strictly, and join it with its annotations.

    A file that cannot be used never stops the run: it is left out, counted in a warning and, with `rejected`, listed
    with its reason. The reasons are no annotation row, a damaged or unsupported file, malformed runs, a usable file
    of the same name before it, a path that is not UTF-8, and an annotation without a file.

    Args:
        dicom_dir: Folder with `.dcm` files at any depth, see `find_dicoms`; the image id is the file's stem.
        annotations: CSV of run-length codes, see `read_annotations`. Rows of one image are OR-ed.
        id_map: CSV from image ids to NIH file names, see `read_id_map`. The DICOM header's PatientID stands in for
            an image that it does not list, with a warning that counts them; in the competition's files that is another
            one for every image.
        rejected: Where to write the CSV `image_id, path, reason` of what was left out.
        progress: Whether to show a progress bar.

    Returns:
        The manifest: one row per image, sorted by image id, with the columns of `COLUMNS`. `path` is the file's as it
        was found, made absolute, links left as they are; `rle` holds all annotation rows of the image as one code,
        `area_px` its pixels; `age` is in years and `pixel_spacing` in mm (NaN where unknown); `frame_offset` and
        `frame_length` are the bytes of the JPEG frame, 0 where a file needs transcoding; `file_bytes` and
        `file_modified` (in ns since 1970) tell later whether the file is still the one that was read.

    Raises:
        FileNotFoundError: If the folder or a CSV is missing.
        ValueError: If a CSV is not of its form, the id map lists none of the images, or not a single image is left.
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
    manifest = Manifest(table.sort_values("image_id", ignore_index=True))
    for text in doubts_about_patients(manifest):
        warnings.warn(text, stacklevel=2)
    return manifest


def save_manifest(manifest: pd.DataFrame, path: str | Path) -> None:
    """Write a manifest as CSV, whole or not at all."""
    with atomic_write(path) as temporary:
        manifest.to_csv(temporary, index=False)


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest that `save_manifest` wrote.

    One made by hand may lack the `STATE_COLUMNS`: its files are then read again before each training.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or holds what it should not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such manifest, make one with `pneumoseg index`")
    table = read_text_table(path)
    missing = [column for column in COLUMNS if column not in table and column not in STATE_COLUMNS]
    if missing:
        raise ValueError(f"{path}: not a manifest, it has no column {', '.join(missing)}; index the data set anew")
    if not table["has_pneumothorax"].isin(["True", "False"]).all():
        raise ValueError(f"{path}: has_pneumothorax holds something else than True and False")
    table["has_pneumothorax"] = table["has_pneumothorax"] == "True"
    types = {column: kind for column, kind in COLUMNS.items() if column in table}
    return Manifest(table.replace({"age": {"": "nan"}, "pixel_spacing": {"": "nan"}}).astype(types))


def _without_file(texts: dict[str, list[str]], paths: list[Path]) -> list[dict]:
    found = {image_id_of(path) for path in paths}
    return [_left_out(image_id, "", "annotated without a file") for image_id in texts if image_id not in found]


def _left_out(image_id: str, path: str | Path, reason: str) -> dict:
    return {"image_id": printable(image_id), "path": printable(path), "reason": reason}


def _entry(path: Path, texts: dict[str, list[str]], patients: dict[str, str]) -> dict:
    """One manifest row, or a row of what is left out (with a `reason`)."""
    image_id = image_id_of(path)
    if not is_utf8(path):
        return _left_out(image_id, path, "path is not UTF-8: rename the file or its folder")
    if image_id not in texts:
        return _left_out(image_id, path, "no annotation row")
    try:
        state = file_state(path)
        image, header = read_dicom(path)
    except DicomError as error:
        return _left_out(image_id, path, f"{type(error).__name__}: {error.reason}")
    try:
        mask = rle.decode_rows(texts[image_id], (image.shape[0], image.shape[1]))
    except ValueError as error:
        return _left_out(image_id, path, f"malformed annotation: {error}")
    row = {"image_id": image_id, "path": str(path)} | _label(mask) | _origin(header, patients.get(image_id))
    return row | dict(zip(STATE_COLUMNS, state, strict=True))


def _check_id_map(path: str | Path, patients: dict[str, str], image_ids: set[str]) -> None:
    """Count both sides of the join with an id map; refuse one that lists no image."""
    found = len(image_ids & patients.keys())
    counts = f"{found} of {len(image_ids)} annotated images are in {path}, which lists {len(patients)}"
    if not found:
        example = f"the images are named like {min(image_ids)!r}, the map's like {min(patients, default='')!r}"
        raise ValueError(f"{counts}: {example}. Name the map of this data set, or index without one")
    _log.info(counts)


def _label(mask: np.ndarray) -> dict:
    return {"has_pneumothorax": bool(mask.any()), "rle": rle.encode(mask), "area_px": int(mask.sum())}


def _origin(header: DicomHeader, mapped_patient: str | None) -> dict:
    return {
        "patient_id": header.patient_id or "" if mapped_patient is None else mapped_patient,
        "patient_source": "header" if mapped_patient is None else ID_MAP,
        "view": header.view or "",
        "sex": header.sex or "",
        "age": math.nan if header.age is None else header.age,
        "rows": header.rows,
        "columns": header.columns,
        "pixel_spacing": math.nan if header.pixel_spacing is None else header.pixel_spacing[0],
        "frame_offset": header.frame_offset,
        "frame_length": header.frame_length,
    }


def _report(left_out: list[dict], path: str | Path | None) -> str:
    """List what was left out, warn of it, and give the summary in the warning."""
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
