"""The manifest: an index of image files and their annotations, with one row per image."""

import logging
import math
import os
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from pneumoseg import rle
from pneumoseg.annotations import Annotations, read_annotations
from pneumoseg.annotations.annotations import Unusable
from pneumoseg.atomic_write import atomic_write
from pneumoseg.data.files import STATE_COLUMNS, file_state, find_images
from pneumoseg.data.id_map import read_id_map
from pneumoseg.data.manifest_files import read_table, write_table
from pneumoseg.data.masks import UNKNOWN, has_mask
from pneumoseg.data.patients import ID_MAP, describe_patients, doubts_about_patients
from pneumoseg.identifiers import image_id_of, is_utf8, printable
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

_AT_ONCE = 1024  # files that wait for a thread; each one that waits takes memory
_LARGEST_PART = 0.8  # of an image; none of 57 masks of the competition covers more than 0.13
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")
# Columns that a manifest may lack if it was made by hand or by an earlier version.
_OPTIONAL = (*STATE_COLUMNS, "pixel_aspect")
_CAN_BE_UNKNOWN = ("age", "pixel_spacing")


def index_dataset(
    images: str | Path,
    annotations: str | Path | Annotations,
    *,
    id_map: str | Path | None = None,
    unannotated_negative: bool = False,
    rejected: str | Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Read every image of a data set once, strictly, and join it with its annotations.

    A file that cannot be used does not stop the indexing. It is left out, counted in a warning, and listed with the
    reason in `rejected`. The reasons are: no annotation, a damaged or unsupported file, a malformed annotation, a mask
    of another size, another usable file of the same name, a path that is not UTF-8, and an annotation without a file.

    Args:
        images: Folder with image files at any depth, see `find_images`. The image id is the file's name, see
            `image_id_of`.
        annotations: File or folder of annotations, of a format that `read_annotations` recognizes, or the annotations
            that it returned. They name an image by its id or by the SOP Instance UID of its header. If their folder
            lies in that of the images, none of its files is an image.
        id_map: CSV from image ids to patients or NIH file names, see `read_id_map`. For images that it does not list,
            the PatientID of the DICOM header is used, and a warning counts them. In the competition's files every image
            has its own PatientID.
        unannotated_negative: Whether images without an annotation count as negative and are not left out, for
            annotations that hold positives alone.
        rejected: CSV to write, with the columns `image_id`, `path` and `reason`, one row per file that is left out.
        progress: Whether to show a progress bar.

    Returns:
        The manifest, one row per image, sorted by image id, with the columns of `COLUMNS`. `path` is absolute, with
        links not resolved. `rle` is the run-length code of the mask, and `area_px` its number of pixels; for an image
        with a label alone they are '' and 0. `age` is in years and `pixel_spacing` in mm, both NaN if unknown.
        `pixel_aspect` is the height of a pixel divided by its width. `frame_offset` and `frame_length` locate the JPEG
        frame in the file, in bytes; both are 0 if the file needs transcoding. `file_bytes` and `file_modified`
        (nanoseconds since 1970) tell later whether the file has changed.

    Raises:
        FileNotFoundError: If the folder, the annotations or the id map are missing.
        ValueError: If the annotations or the id map are malformed, none of the annotations belongs to an image, the id
            map lists none of the images, or no image can be used.

    Example:
        >>> manifest = index_dataset("dicom-images-train", "train-rle.csv", id_map="nih_id.csv")  # doctest: +SKIP
        >>> summarize(manifest)  # doctest: +SKIP
        '198 images, 57 with a pneumothorax (29%), 170 patients'
    """
    source = annotations if isinstance(annotations, Annotations) else read_annotations(annotations)
    paths, join = _join(Path(images), source, find_images(images).paths, unannotated_negative)
    patients = {} if id_map is None else read_id_map(id_map).to_dict()
    if id_map is not None and join.expected:
        _check_id_map(id_map, patients, join.expected)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = (
            outcome
            for first in range(0, len(paths), _AT_ONCE)
            for outcome in pool.map(lambda path: _outcome(path, join, patients), paths[first : first + _AT_ONCE])
        )
        outcomes = list(track(waiting, "Indexing", len(paths), disable=not progress))
    accepted, left_out = _one_per_image(outcomes)
    matched = join.named | {outcome.key for outcome in outcomes if outcome.key is not None}
    summary = _report(_without_image(join, matched), left_out, rejected)
    seen = ((join.entries[key], shape) for _, key, shape in outcomes if key is not None and shape is not None)
    doubts = source.doubts((entry, shape) for entry, shape in seen if not isinstance(entry, Unusable))
    if not matched:
        raise ValueError(_nothing_matches(images, join, paths, summary))
    if not accepted:
        raise ValueError("; ".join([f"{images}: none of its {len(paths)} files can be used: {summary}", *doubts]))
    if doubts and not any(row["has_pneumothorax"] for row in accepted.values()):
        raise ValueError(f"{images}: none of its positive images can be used: {'; '.join([summary, *doubts])}")
    table = pd.DataFrame(accepted.values(), columns=list(COLUMNS)).astype(COLUMNS)
    manifest = table.sort_values("image_id", ignore_index=True)
    if id_map is not None and not join.expected:
        _check_id_map(id_map, patients, set(manifest["image_id"]))
    for text in (*doubts, *_doubts_about_areas(manifest), *doubts_about_patients(manifest)):
        warnings.warn(text, stacklevel=2)
    return manifest


def save_manifest(manifest: pd.DataFrame, path: str | Path) -> None:
    """Write a manifest as CSV or Parquet, by the suffix, whole or not at all.

    Args:
        manifest: Manifest returned by `index_dataset`.
        path: File to write, `.csv` or `.parquet`.

    Raises:
        ValueError: If the file has another suffix, or is Parquet and pyarrow is not installed.

    Example:
        >>> save_manifest(manifest, "runs/manifest.parquet")  # doctest: +SKIP
    """
    write_table(manifest, path)


def load_manifest(path: str | Path) -> pd.DataFrame:
    """Read a manifest written by `save_manifest`. CSV and Parquet give the same table.

    A manifest made by hand may lack the `STATE_COLUMNS`. Its files are then read again before each training. It may
    also lack `pixel_aspect`, if all pixels are square. Columns that are not in `COLUMNS` are read as text.

    Args:
        path: File to read, `.csv` or `.parquet`.

    Returns:
        The manifest, see `index_dataset`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or holds a wrong value, the file has another suffix, or it is Parquet and
            pyarrow is not installed.

    Example:
        >>> manifest = load_manifest("runs/manifest.csv")  # doctest: +SKIP
        >>> positives = manifest[manifest["has_pneumothorax"]]  # doctest: +SKIP
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such manifest: make one with `pneumoseg index`")
    table = read_table(path, COLUMNS)
    missing = [column for column in COLUMNS if column not in table and column not in _OPTIONAL]
    if missing:
        raise ValueError(f"{path}: not a manifest, it has no column {', '.join(missing)}: index the data set again")
    if "pixel_aspect" not in table:
        table["pixel_aspect"] = 1.0
    for column in table.columns.intersection(list(COLUMNS)):
        table[column] = _typed(table[column], path)
    return table


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


@dataclass(frozen=True)
class _Join:
    """The join of images and annotations, before the images are read.

    Attributes:
        source: The annotations.
        entries: Entry of each annotated image, by image id or SOP Instance UID.
        strays: Annotations that belong to no image, however it is named.
        named: Ids of the images that are annotated by their id.
        uids: SOP Instance UIDs that are annotated and are not the id of an image.
        expected: Ids of the images that will be in the manifest if they can be used, as far as is known yet.
        unannotated_negative: Whether images without an annotation are negative.
    """

    source: Annotations
    entries: Mapping[str, Any]
    strays: list[dict]
    named: set[str]
    uids: set[str]
    expected: set[str]
    unannotated_negative: bool


class _Outcome(NamedTuple):
    """A manifest row, or, with a `reason`, a row of the files that are left out.

    The key is that of the annotation, None if there is none; the shape is (H, W) of the image, None if it was not read.
    """

    row: dict
    key: str | None = None
    shape: tuple[int, int] | None = None


def _join(folder: Path, source: Annotations, paths: list[Path], unannotated_negative: bool) -> tuple[list[Path], _Join]:
    """Return the image files that are not themselves annotations, and the join of them with the annotations."""
    candidates = _outside(source.path, folder, paths)
    real = {path: path.resolve() for path in candidates}
    found = source.find(set(map(image_id_of, candidates)), set(real.values()))
    images = [path for path in candidates if real[path] not in found.files]
    if not images:
        raise ValueError(f"{folder}: all of its {len(paths)} images are annotations of {source.path}: {source.hint()}")
    if len(images) < len(paths):
        _log.info(f"{len(paths) - len(images)} of {len(paths)} files in {folder} are annotations, not images")
    image_ids, own = set(map(image_id_of, images)), {str(real[path]) for path in images}
    strays = [_left_out(*stray) for stray in found.strays if str(Path(stray.path).resolve()) not in own]
    named = found.entries.keys() & image_ids
    uids = {key for key in found.entries.keys() - image_ids if _UID.fullmatch(key)}
    can_match = bool(named or uids)
    negative = unannotated_negative and can_match
    expected = image_ids if negative else named
    return images, _Join(source, found.entries, strays, named, uids, expected, negative)


def _outside(annotations: Path, folder: Path, paths: list[Path]) -> list[Path]:
    """Return the files that do not lie in a folder of annotations, unless that holds all images."""
    place = annotations.resolve()
    if not place.is_dir() or folder.resolve().is_relative_to(place):
        return paths
    parents = {parent: parent.resolve().is_relative_to(place) for parent in {path.parent for path in paths}}
    return [path for path in paths if not parents[path.parent]]


def _outcome(path: Path, join: _Join, patients: dict[str, str]) -> _Outcome:
    image_id = image_id_of(path)
    if not is_utf8(path):
        return _Outcome(_left_out(image_id, path, "path is not UTF-8: rename the file or its folder"))
    key = image_id if image_id in join.named else None
    if key is None and not join.uids and not join.unannotated_negative:
        return _Outcome(_left_out(image_id, path, join.source.absence))
    if key is None and image_id.endswith("_mask") and image_id.removesuffix("_mask") in join.expected:
        return _Outcome(_left_out(image_id, path, "named like the mask of another image"))
    try:
        state = file_state(path)
        image, header = read_with_header(path)
    except ImageError as error:
        # Where annotations name files, one that they do not name is not annotated, whatever UID it would show.
        unwanted = key is None and bool(join.named) and not join.unannotated_negative
        reason = join.source.absence if unwanted else f"{type(error).__name__}: {error.reason}"
        return _Outcome(_left_out(image_id, path, reason), key)
    shape = image.shape[0], image.shape[1]
    if key is None and header.sop_instance_uid in join.uids:
        key = header.sop_instance_uid
    if key is None and not join.unannotated_negative:
        return _Outcome(_left_out(image_id, path, join.source.absence))
    try:
        label = _label(join.source.negative(shape) if key is None else join.source.read(join.entries[key], shape))
    except ValueError as error:
        return _Outcome(_left_out(image_id, path, f"malformed annotation: {error}"), key, shape)
    row = {"image_id": image_id, "path": str(path)} | label | _origin(header, patients.get(image_id))
    return _Outcome(row | dict(zip(STATE_COLUMNS, state, strict=True)), key, shape)


def _one_per_image(outcomes: list[_Outcome]) -> tuple[dict[str, dict], list[dict]]:
    """Return the first usable row of each image id, and the rows of all files that are left out."""
    accepted: dict[str, dict] = {}
    by_key: dict[str | None, str] = {}
    left_out = []
    for row, key, _ in outcomes:
        image_id, path = row["image_id"], row["path"]
        if "reason" in row:
            left_out.append(row)
        elif image_id in accepted:
            left_out.append(_left_out(image_id, path, f"same name as: {accepted[image_id]['path']}"))
        elif key is not None and key in by_key:
            left_out.append(_left_out(image_id, path, f"same SOP Instance UID as: {by_key[key]}"))
        else:
            accepted[image_id], by_key[key] = row, path
    unannotated = sum("reason" not in row and key is None for row, key, _ in outcomes)
    if unannotated:
        _log.info(f"{unannotated} of {len(outcomes)} images have no annotation and count as negative")
    return accepted, left_out


def _without_image(join: _Join, matched: set[str]) -> list[dict]:
    """Return the annotations that belong to none of the images, as rows of the files that are left out."""
    unused = ((key, entry) for key, entry in join.entries.items() if key not in matched)
    return [_left_out(key, join.source.place(entry), "annotated without a file") for key, entry in unused] + join.strays


def _nothing_matches(images: str | Path, join: _Join, paths: list[Path], summary: str) -> str:
    image = min(map(image_id_of, paths))
    strays = (Path(stray["path"]).name or stray["image_id"] for stray in join.strays)
    annotation = min(join.entries or strays, default="")
    names = f"the images are named like {image!r}, the annotations like {annotation!r}" if annotation else summary
    text = f"{images}: no image has an annotation in {join.source.path}: {names}"
    return f"{text}; {hint}" if (hint := join.source.hint()) else text


def _left_out(image_id: str, path: str | Path, reason: str) -> dict:
    return {"image_id": printable(image_id), "path": printable(path), "reason": reason}


def _check_id_map(path: str | Path, patients: dict[str, str], image_ids: set[str]) -> None:
    """Log how many images an id map lists, and raise an error if it lists none."""
    found = len(image_ids & patients.keys())
    counts = f"{found} of {len(image_ids)} annotated images are in {path}, which lists {len(patients)}"
    if not found:
        example = f"the images are named like {min(image_ids)!r}, those of the map like {min(patients, default='')!r}"
        raise ValueError(f"{counts}: {example}. Pass the map of this data set, or index without one")
    _log.info(counts)


def _label(mask: NDArray[np.bool_] | bool) -> dict:
    """Return the columns about the pneumothorax, from a mask or from a label alone."""
    if isinstance(mask, bool):
        return {"has_pneumothorax": mask, "rle": UNKNOWN, "area_px": 0}
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


def _doubts_about_areas(manifest: pd.DataFrame) -> list[str]:
    """Return a sentence if masks cover more of their images than a pneumothorax can."""
    large = manifest[manifest["area_px"] > _LARGEST_PART * manifest["rows"] * manifest["columns"]]
    if large.empty:
        return []
    with_mask = int((manifest["area_px"] > 0).sum())
    return [
        f"{len(large)} of {with_mask} masks cover more than {_LARGEST_PART:.0%} of their images, the first: "
        f"{large['image_id'].iloc[0]}: mask and background may be swapped, look at them with `pneumoseg show-masks`"
    ]


def _typed(column: pd.Series, path: str | Path) -> pd.Series:
    """Return a column of a manifest in its type, from that type or from text."""
    name, kind = str(column.name), COLUMNS[str(column.name)]
    is_text = pd.api.types.is_string_dtype(column)
    if kind == "bool" and is_text:
        if not column.isin(["True", "False"]).all():
            raise ValueError(f"{path}: {name} must be True or False in every row")
        return column == "True"
    if is_text and name in _CAN_BE_UNKNOWN:
        column = column.replace("", "nan")
    try:
        typed = column.astype(kind)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {name} must be {kind} in every row: {error}") from error
    if kind == "float64" and name not in _CAN_BE_UNKNOWN and typed.isna().any():
        raise ValueError(f"{path}: {name} must be a number in every row")
    return typed


def _report(annotations: list[dict], images: list[dict], path: str | Path | None) -> str:
    """Write the annotations and images left out to a CSV, warn about them, and return the summary in the warning."""
    left_out = annotations + images
    table = pd.DataFrame(left_out, columns=["image_id", "path", "reason"])
    if path is not None:
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)
    reasons = table["reason"].str.split(":").str[0].value_counts()
    summary = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if left_out:
        where = f"listed in {path}" if path is not None else "pass rejected=PATH to list them"
        counts = {"images": len(images), "annotations": len(annotations)}
        words = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
        warnings.warn(f"{words} left out ({where}): {summary}", stacklevel=3)
    return summary
