"""Outcomes for the files of a folder, and the JSON that tells them to machines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pneumoseg
from pneumoseg.dicom_objects.maker import CAUTION

_SCHEMA = 1
"""Number of the layout of `result.json`; it grows if a key goes or changes its meaning."""


@dataclass(frozen=True)
class WrittenObject:
    """One object that was written.

    Attributes:
        kind: Kind of the object, one of `dicom_objects.KINDS`.
        file: Name of the file in the output folder.
        series_instance_uid: UID of the object's series.
        sop_instance_uid: UID of the object.
    """

    kind: str
    file: str
    series_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Outcome:
    """The outcome for one file. Missing facts are None.

    Attributes:
        path: Path of the file below the input folder, with slashes.
        state: "done", "refused" (the file is not one that gets results) or "failed" (the cause is unknown or may pass).
        reason: Why there is no result, without any value from the file.
        sop_instance_uid: UID of the image.
        has_pneumothorax: Whether the mask holds any pixel.
        probability: The classifier's probability of pneumothorax.
        area_px: Number of pixels of the mask.
        area_mm2: Area of the mask in mm2, to a hundredth.
        spacing_source: Element that gives the pixel spacing, see `Result`.
        stage: The stage that decided, see `Result`.
        objects: The objects that were written.

    Example:
        >>> Outcome("study/1.dcm", "refused", "NoPixelsError: holds no pixels").has_pneumothorax is None
        True
    """

    path: str
    state: str
    reason: str | None = None
    sop_instance_uid: str | None = None
    has_pneumothorax: bool | None = None
    probability: float | None = None
    area_px: int | None = None
    area_mm2: float | None = None
    spacing_source: str | None = None
    stage: str | None = None
    objects: tuple[WrittenObject, ...] = ()


@dataclass(frozen=True)
class FolderResult:
    """Outcomes for the files of a folder.

    Attributes:
        settings: What the objects depend on: `pipeline`, the digest; `engine`, see `Engine`; `kinds`;
            `strict`.
        outcomes: One outcome per file, in the order of their paths.
        skipped: Files that are not images and folders that were not searched, as paths below the input folder, each
            with the reason.
        unlisted: Number of folders that could not be listed, so that images in them may be missing.
        hidden: Number of warnings that were not shown, by the name of their class.

    Example:
        >>> result = FolderResult({}, [Outcome("1.dcm", "done", has_pneumothorax=True), Outcome("2.dcm", "failed")])
        >>> result.counts["positive"], result.is_complete
        (1, False)
    """

    settings: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    skipped: Sequence[tuple[str, str]] = ()
    unlisted: int = 0
    hidden: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of files by their outcome, and the number of objects that were written."""
        states = Counter(outcome.state for outcome in self.outcomes)
        findings = Counter(outcome.has_pneumothorax for outcome in self.outcomes)
        return {
            "files": len(self.outcomes),
            "positive": findings[True],
            "negative": findings[False],
            "refused": states["refused"],
            "failed": states["failed"],
            "skipped": len(self.skipped),
            "unlisted": self.unlisted,
            "objects": sum(len(outcome.objects) for outcome in self.outcomes),
        }

    @property
    def is_complete(self) -> bool:
        """Whether each file has a result or was refused, and each folder could be listed."""
        return not (self.counts["failed"] or self.unlisted)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `result.json`: text, numbers, lists and None only."""
        return {
            "schema": _SCHEMA,
            "note": CAUTION,
            "version": pneumoseg.__version__,
            **self.settings,
            "complete": self.is_complete,
            "counts": self.counts,
            "hidden_warnings": dict(self.hidden),
            "files": [asdict(outcome) for outcome in self.outcomes],
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
        }
