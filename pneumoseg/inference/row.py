"""Row of a table of results: the part of a result that is text."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from pneumoseg.image_errors import ImageError
from pneumoseg.inference.result import Result

COLUMNS = (
    "image_id",
    "path",
    "probability",
    "has_pneumothorax",
    "area_px",
    "area_mm2",
    "spacing_source",
    "stage",
    "rle",
    "error",
)
"""Columns of `results.csv`, and keys of a result in JSON."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """The facts about one image that fit into a row of a table. Missing facts are None.

    Attributes:
        image_id: Name that no other row has, see `unique_names`.
        path: Path of the image file.
        stage: The stage that decided, see `Result`.
        probability: The classifier's probability of pneumothorax.
        has_pneumothorax: Whether the mask holds any pixel.
        area_px: Number of pixels of the mask.
        area_mm2: Area of the mask in mm2, to a hundredth.
        spacing_source: Element that gives the pixel spacing, see `Result`.
        rle: The mask's run-length code.
        error: Why the image could not be read, in one line.
        shape: (H, W) of the image; not a column.

    Example:
        >>> row = ResultRow.from_result(Result("a", 0.9, "0 3 5 2", (4, 4), "mask"), "a_2", "b/a.png")
        >>> row.image_id, row.area_px, row.as_dict()["error"]
        ('a_2', 5, None)
    """

    image_id: str
    path: str
    stage: str
    probability: float | None = None
    has_pneumothorax: bool | None = None
    area_px: int | None = None
    area_mm2: float | None = None
    spacing_source: str | None = None
    rle: str | None = None
    error: str | None = None
    shape: tuple[int, int] = (0, 0)

    @classmethod
    def from_result(cls, result: Result, image_id: str, path: str) -> "ResultRow":
        """Create the row of a result.

        Args:
            result: The pipeline's result.
            image_id: Name of the row.
            path: Path of the image file.
        """
        if result.error is not None:
            return cls.of_error(image_id, path, result.error)
        return cls(
            image_id,
            path,
            result.stage,
            _number(result.probability),
            result.has_pneumothorax,
            result.area_px,
            _number(round(result.area_mm2, 2)),
            result.spacing_source or None,
            result.rle,
            shape=result.shape,
        )

    @classmethod
    def of_error(cls, image_id: str, path: str, error: ImageError) -> "ResultRow":
        """Create the row of a file that gives no image."""
        text = f"{error.reason}. {error.remedy}".encode("utf-8", "backslashreplace").decode()
        return cls(image_id, path, "error", error=" ".join(text.split()))

    def as_dict(self) -> dict[str, Any]:
        """Return the values of all `COLUMNS` in their order."""
        values = asdict(self)
        return {name: values[name] for name in COLUMNS}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
