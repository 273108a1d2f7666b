"""Annotations as DICOM Segmentation objects, which name their images by SOP Instance UID."""

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumoseg.annotations.annotations import PNEUMOTHORAX, Annotations, Found, Stray, Unusable, examples, files_below

_log = logging.getLogger(__name__)
# Segmentation Storage and Label Map Segmentation Storage; the file meta information names it in the first bytes.
_SOP_CLASS = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[47](?![\d.])")
# Tag of Referenced SOP Instance UID, and the length of its value, with or without the type of the value.
_REFERENCE = re.compile(rb"\x08\x00\x55\x11(?:UI(..)|(..)\x00\x00)", re.DOTALL)
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

    def __init__(self, path: str | os.PathLike[str], category: str | None = None) -> None:
        """Read the headers of the SEG objects.

        Args:
            path: A SEG file or a folder with SEG files, at any depth and with any suffix; other files are skipped and
                counted.
            category: Name of the segment's property type or its label, in upper or lower case. None stands for
                pneumothorax or, if no file has such a segment and each has one segment of the same name, for that one.

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
    """Return whether a file is a DICOM file with a Segmentation or Label Map Segmentation object.

    A file that cannot be read, such as a link to nowhere, is not one.
    """
    try:
        start = _start(path)
    except OSError:
        return False
    return start[128:132] == b"DICM" and _SOP_CLASS.search(start) is not None


def _start(path: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a file; an error if it is not a regular file, which might never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("not a regular file")
    with open(path, "rb") as file:
        return file.read(1024)


def _unreadable(files: Iterable[Path]) -> Iterator[Stray]:
    for file in files:
        try:
            _start(file)
        except OSError as error:
            yield Stray("", str(file), f"cannot be opened: {error.strerror or error}")


def _found(path: Path, category: str | None) -> Found:
    files = files_below(path) if path.is_dir() else [path]
    segmentations = [file for file in files if is_segmentation(file)]
    strays = list(_unreadable(sorted(set(files).difference(segmentations))))
    if not segmentations:
        first = f", the first of {len(strays)} unreadable ones: {strays[0].path}" if strays else ""
        raise FileNotFoundError(f"{path}: no DICOM SEG object among {len(files)} files{first}")
    if others := len(files) - len(segmentations) - len(strays):
        _log.info(f"{path}: {others} of {len(files)} files are not DICOM SEG, not read")
    objects, unusable = list[_Object](), list[Stray]()
    for file in segmentations:
        try:
            objects.append(_open(file))
        except Exception as error:  # pydicom and highdicom have many classes of errors
            unusable.append(Stray("", str(file), f"unusable segmentation: {error}"))
    chosen, wanted = _chosen_segments(path, objects, category), category or PNEUMOTHORAX
    entries: dict[str, list[_Frame] | Unusable] = {}
    for one, numbers in zip(objects, chosen, strict=True):
        if not numbers:
            names = examples({name for names in one.segments.values() for name in names})
            strays.append(Stray("", str(one.path), f"no segment of the category: {wanted}, only {names}"))
            continue
        try:
            for uid, frame in list(_frames(one, numbers)):
                entries.setdefault(uid, []).extend([frame] if frame else [])  # type: ignore[union-attr]
        except (ValueError, AttributeError, IndexError) as error:
            unusable.append(Stray("", str(one.path), f"unusable segmentation: {error}"))
    strays = unusable + strays
    if not entries:
        first = f", the first: {strays[0].path}: {strays[0].reason}" if strays else ""
        raise ValueError(f"{path}: none of its {len(segmentations)} SEG objects can be used{first}")
    for _, place, reason in unusable:
        entries |= {uid: Unusable(f"{place} {reason}") for uid in _uids_in(place)}
    return Found(entries, frozenset(file.resolve() for file in segmentations), strays)


def _uids_in(path: str) -> list[str]:
    """Return the UIDs of all objects that a DICOM file refers to, be it damaged or not.

    The elements are found by their tag, because the file of an unusable object may end anywhere.
    """
    content = Path(path).read_bytes()
    uids = []
    for match in _REFERENCE.finditer(content):
        size = int.from_bytes(match[1] or match[2], "little")
        uids.append(content[match.end() : match.end() + size].rstrip(b"\0 "))
    return [uid.decode() for uid in dict.fromkeys(uids) if re.fullmatch(rb"[0-9.]{1,64}", uid)]


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


def _chosen_segments(path: Path, objects: list[_Object], category: str | None) -> list[set[int]]:
    """Return the numbers of the segments of a category in each object."""
    wanted = (category or PNEUMOTHORAX).lower()
    chosen = [{number for number, names in one.segments.items() if wanted in names} for one in objects]
    single = [next(iter(one.segments.values())) for one in objects if len(one.segments) == 1]
    is_single = bool(objects) and len(single) == len(objects)
    if category is None and not any(chosen) and is_single and set.intersection(*single):
        _log.info(f"{path}: no segment {wanted}, taking the only one, {examples(set.intersection(*single))}")
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
