"""The objects of one image."""

import contextlib
import functools
import importlib.util
import logging
import os
import threading
from collections.abc import Sequence

from pydicom.dataset import Dataset

from pneumoseg.dicom import decode_dicom
from pneumoseg.dicom.elements import read_file
from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.picture import make_picture
from pneumoseg.dicom_objects.report import make_report
from pneumoseg.dicom_objects.segmentation import make_segmentation
from pneumoseg.dicom_objects.source import parse_source
from pneumoseg.dicom_objects.study import ObjectIdentity

KINDS = ("seg", "sr", "sc")
"""Kinds of objects: segmentation, structured report, Secondary Capture."""


def make_objects(
    path: str | os.PathLike[str], finding: Finding, kinds: Sequence[str] = KINDS, *, strict: bool = False
) -> dict[str, Dataset]:
    """Return the finding on an image as DICOM objects of the image's study. The file is not changed.

    The UIDs follow from the image, the pipeline, the version and the kind of object; the times do not, so keep the
    objects rather than make them again.

    Args:
        path: Path of the image's DICOM file.
        finding: Finding on it.
        kinds: Kinds of objects to make, see `KINDS`.
        strict: Whether the segmentation leaves out the geometry that viewers need and a radiograph does not have.

    Returns:
        Data sets by kind, in the order of `KINDS`; none of kind "seg" for an empty mask. Save them with
        `save_as(path, enforce_file_format=True)`.

    Raises:
        ValueError: If a kind is unknown, the mask is not of the image's shape, the pipeline has no digest, or highdicom
            is not installed.
        ImageError: If the file gives no image, or is refused, see `read_source`.

    Example:
        >>> for kind, dataset in make_objects("chest.dcm", finding).items():  # doctest: +SKIP
        ...     dataset.save_as(f"{kind}.dcm", enforce_file_format=True)
    """
    _require(finding, kinds)
    name = os.fsdecode(path)
    content = read_file(name)
    source = parse_source(name, content)
    if source.shape != finding.mask.shape:
        raise ValueError(f"{name}: the mask is {finding.mask.shape}, expected the image's {source.shape}")
    image = decode_dicom(name, content)[0] if "sc" in kinds else None
    identify = functools.partial(ObjectIdentity, source, finding)
    made: dict[str, Dataset] = {}
    with _quiet:
        if "seg" in kinds and finding.mask.any():
            made["seg"] = make_segmentation(identify("seg-strict" if strict else "seg"), strict=strict)
        if "sr" in kinds:
            made["sr"] = make_report(identify("sr"))
        if image is not None:
            made["sc"] = make_picture(identify("sc"), image)
    return made


def _require(finding: Finding, kinds: Sequence[str]) -> None:
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"unknown kinds {unknown}, expected some of {', '.join(KINDS)}")
    if not finding.pipeline_digest:
        raise ValueError("the pipeline has no digest: load it from a folder with load_pipeline")
    if importlib.util.find_spec("highdicom") is None:
        raise ValueError("DICOM objects need highdicom, which is not installed: pip install 'pneumoseg[dicom]'")


class _Quiet(contextlib.AbstractContextManager[None]):
    """Context in which highdicom logs no UIDs. The first of several threads sets the level, the last restores it."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("highdicom")
        self._lock = threading.Lock()
        self._threads, self._level = 0, logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._level = self._logger.level
                self._logger.setLevel(logging.CRITICAL)
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._logger.setLevel(self._level)


_quiet = _Quiet()
