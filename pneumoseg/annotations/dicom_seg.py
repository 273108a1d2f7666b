"""Annotations as DICOM Segmentation objects, which name their images by SOP Instance UID."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumoseg.annotations.annotations import PNEUMOTHORAX, Annotations, Found, Stray, Unusable, examples, files_below

_log = logging.getLogger(__name__)
# Segmentation Storage and Label Map Segmentation Storage; the file meta information names it in the first bytes.
_SOP_CLASS = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[47](?![\d.])")
_PNEUMOTHORAX_CODE = ("36118008", "SCT")


class _Frame(NamedTuple):
    """Frame of a file, counted from 1, and the value of its pixels that belong to the mask."""

    path: Path
    number: int
    values: tuple[int, ...]


class _Object(NamedTuple):
    """A SEG object: its file, its data set without pixels, and the numbers and names of its segments."""

    path: Path
    dataset: Any
    segments: dict[int, set[str]]


class DicomSegmentations(Annotations):
    """Segments of one category; frames, segments and files of one image are joined by OR."""

    format: ClassVar[str] = "seg"
    absence: ClassVar[str] = "no segmentation refers to it"

    def __init__(self, path: str | os.PathLike[str], category: str = PNEUMOTHORAX) -> None:
        """Read the headers of the SEG objects.

        Args:
            path: A SEG file or a folder with SEG files, at any depth and with any suffix; other files are skipped and
                counted.
            category: Name of the segment's property type or its label, in upper or lower case. If no file has such a
                segment and each has one segment of the same name, that one is taken.

        Raises:
            FileNotFoundError: If there is no SEG file.
            ValueError: If none can be used, or highdicom is not installed.
        """
        _highdicom()
        super().__init__(path, _found(Path(path), category))

    def place(self, entry: Any) -> str:
        """Return the path of the first SEG object."""
        return str(entry[0].path) if isinstance(entry, list) and entry else ""

    def hint(self) -> str:
        """Return the reminder that images are found by their headers."""
        return "SEG objects name DICOM images by the SOP Instance UID in their headers"

    def _read(self, entry: list[_Frame], shape: tuple[int, int]) -> NDArray[np.bool_]:
        mask = np.zeros(shape, bool)
        for path in dict.fromkeys(frame.path for frame in entry):
            try:
                image = _highdicom().imread(path)
                frames = [(image.get_stored_frame(frame.number), frame) for frame in entry if frame.path == path]
            except Exception as error:  # pydicom and its decoders have many classes of errors
                raise ValueError(f"{path} cannot be read ({error})") from error
            for pixels, frame in frames:
                if pixels.shape != shape:
                    raise ValueError(
                        f"{path} is {pixels.shape[0]} x {pixels.shape[1]} pixels and its image {shape[0]} x {shape[1]}"
                    )
                mask |= np.isin(pixels, frame.values)
        return mask


def is_segmentation(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a DICOM file with a Segmentation or Label Map Segmentation object."""
    with open(path, "rb") as file:
        start = file.read(1024)
    return start[128:132] == b"DICM" and _SOP_CLASS.search(start) is not None


def _found(path: Path, category: str) -> Found:
    files = files_below(path) if path.is_dir() else [path]
    segmentations = [file for file in files if is_segmentation(file)]
    if not segmentations:
        raise FileNotFoundError(f"{path}: no DICOM SEG object among {len(files)} files")
    if len(files) > len(segmentations):
        _log.info(f"{path}: {len(files) - len(segmentations)} of {len(files)} files are not DICOM SEG, not read")
    objects, strays = [], []
    for file in segmentations:
        try:
            objects.append(_open(file))
        except Exception as error:  # pydicom and highdicom have many classes of errors
            strays.append(Stray("", str(file), f"unusable segmentation: {error}"))
    chosen = _chosen_segments(path, objects, category)
    entries: dict[str, list[_Frame] | Unusable] = {}
    for one, numbers in zip(objects, chosen, strict=True):
        if not numbers:
            names = examples({name for names in one.segments.values() for name in names})
            strays.append(Stray("", str(one.path), f"no segment of the category: {category}, only {names}"))
            continue
        try:
            for uid, frame in list(_frames(one, numbers)):
                entries.setdefault(uid, []).extend([frame] if frame else [])  # type: ignore[union-attr]
        except (ValueError, AttributeError, IndexError) as error:
            strays.append(Stray("", str(one.path), f"unusable segmentation: {error}"))
    if not entries:
        first = f", the first: {strays[0].path}: {strays[0].reason}" if strays else ""
        raise ValueError(f"{path}: none of its {len(segmentations)} SEG objects can be used{first}")
    return Found(entries, frozenset(file.resolve() for file in segmentations), strays)


def _open(path: Path) -> _Object:
    # `segread` refuses the Pixel Measures of some files that highdicom itself wrote; `imread` does not check them.
    dataset = _highdicom().imread(path, lazy_frame_retrieval=True)
    kind = dataset.SegmentationType
    if kind not in ("BINARY", "LABELMAP"):
        raise ValueError(f"SegmentationType is {kind}, expected BINARY or LABELMAP: export a binary segmentation")
    segments = {int(item.SegmentNumber): _names(item) for item in dataset.SegmentSequence}
    segments.pop(0, None)  # the background of a label map
    return _Object(path, dataset, segments)


def _names(segment: Any) -> set[str]:
    """Return the names of a segment in lower case: its label and the meaning of its property type."""
    types = segment.get("SegmentedPropertyTypeCodeSequence") or []
    codes = {(str(item.get("CodeValue")), str(item.get("CodingSchemeDesignator"))) for item in types}
    names = {str(segment.get("SegmentLabel", "")), *(str(item.get("CodeMeaning", "")) for item in types)}
    coded = {PNEUMOTHORAX} if _PNEUMOTHORAX_CODE in codes else set()
    return {name.strip().lower() for name in names if name} | coded


def _chosen_segments(path: Path, objects: list[_Object], category: str) -> list[set[int]]:
    """Return the numbers of the segments of a category in each object."""
    wanted = category.lower()
    chosen = [{number for number, names in one.segments.items() if wanted in names} for one in objects]
    single = [next(iter(one.segments.values())) for one in objects if len(one.segments) == 1]
    if not any(chosen) and objects and len(single) == len(objects) and set.intersection(*single):
        _log.info(f"{path}: no segment {category}, taking the only one, {examples(set.intersection(*single))}")
        return [set(one.segments) for one in objects]
    return chosen


def _frames(one: _Object, numbers: set[int]) -> Iterator[tuple[str, _Frame | None]]:
    """Yield the UID of each image and a frame of its mask; None for an image without a frame, whose mask is empty."""
    dataset, is_label_map = one.dataset, one.dataset.SegmentationType == "LABELMAP"
    referenced = _referenced(dataset)
    yield from ((uid, None) for uid in referenced)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    for position, group in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        segment = _first(group, "SegmentIdentificationSequence") or _first(shared, "SegmentIdentificationSequence")
        if not is_label_map and int(segment.ReferencedSegmentNumber) not in numbers:
            continue
        uids = _sources(group) or _sources(shared) or (referenced if len(referenced) == 1 else [])
        if not uids:
            raise ValueError(f"frame {position} does not name its image, and the object refers to {len(referenced)}")
        values = tuple(sorted(numbers)) if is_label_map else (1,)
        yield from ((uid, _Frame(one.path, position, values)) for uid in uids)


def _referenced(dataset: Any) -> list[str]:
    """Return the UIDs of the images that a whole object refers to."""
    series = dataset.get("ReferencedSeriesSequence") or []
    items = [item for one in series for item in one.get("ReferencedInstanceSequence") or []]
    return list(dict.fromkeys(str(item.ReferencedSOPInstanceUID) for item in items))


def _sources(group: Any) -> list[str]:
    derivations = group.get("DerivationImageSequence") or []
    return [str(item.ReferencedSOPInstanceUID) for one in derivations for item in one.get("SourceImageSequence") or []]


def _first(group: Any, name: str) -> Any:
    return next(iter(group.get(name) or []), None)


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise ValueError(
            "DICOM SEG annotations need highdicom, which is not installed: pip install 'pneumoseg[dicom]'"
        ) from error
    return highdicom
