"""Annotations as absolute run-length codes, the usual form of Kaggle: `start length start length ...`."""

import os
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pneumoseg.annotations.annotations import Annotations
from pneumoseg.annotations.readings import RELATIVE, absolute, doubts_about_runs
from pneumoseg.annotations.run_table import found_runs


class AbsoluteRuns(Annotations):
    """Absolute runs: each start is a pixel's number; several rows of one image are joined by OR."""

    format: ClassVar[str] = "absolute-csv"
    absence: ClassVar[str] = "no annotation row"

    def __init__(
        self,
        path: str | os.PathLike[str],
        order: str = "columns",
        first_pixel: int = 1,
    ) -> None:
        """Read the table.

        Args:
            path: CSV of run-length codes, see `found_runs`.
            order: Order in which the pixels are numbered: column by column, or row by row.
            first_pixel: Number of the first pixel.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not such a CSV, or an option has another value.
        """
        if order not in ("columns", "rows") or first_pixel not in (0, 1):
            raise ValueError(
                f"order is 'columns' or 'rows' and first_pixel 0 or 1, got order {order!r} and first_pixel "
                f"{first_pixel!r}"
            )
        super().__init__(path, found_runs(path))
        self._reading = absolute(order, first_pixel)

    def _read(self, entry: list[str], shape: tuple[int, int]) -> NDArray[np.bool_]:
        flat = np.zeros(shape[0] * shape[1], bool)
        for number, text in enumerate(entry, start=1):
            try:
                starts, ends = self._reading.bounds(text, shape)
            except ValueError as error:
                raise ValueError(f"row {number} of {len(entry)}: {error}") from error
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                flat[start:end] = True
        return np.ascontiguousarray(flat.reshape(shape, order="C" if self._reading.by_rows else "F"))

    def doubts(self, seen: Iterable[tuple[list[str], tuple[int, int]]]) -> list[str]:
        """Return a sentence if most masks look like noise, but like regions as relative runs or in the other order."""
        other_order = absolute("columns" if self._reading.by_rows else "rows", 0)
        return doubts_about_runs(self._reading, [RELATIVE, other_order], seen)
