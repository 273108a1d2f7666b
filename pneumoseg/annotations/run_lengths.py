"""Annotations as tables of run-length codes: relative ones, the competition's, or absolute ones, the usual form."""

import os
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumoseg import rle
from pneumoseg.annotations.annotations import Annotations, Found
from pneumoseg.annotations.competition import read_runs
from pneumoseg.annotations.readings import RELATIVE, absolute, doubts_about_runs
from pneumoseg.annotations.tables import id_column, no_column, read_table, rows_by_image, run_column


class RelativeRuns(Annotations):
    """Relative runs, `gap length gap length ...` by columns, see `rle`; several rows of one image are joined by OR."""

    format: ClassVar[str] = "csv"
    absence: ClassVar[str] = "no annotation row"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the table.

        Args:
            path: CSV of run-length codes, see `found_runs`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not such a CSV.
        """
        super().__init__(path, found_runs(path))

    def _read(self, entry: list[str], shape: tuple[int, int]) -> NDArray[np.bool_]:
        return rle.decode_rows(entry, shape)

    def doubts(self, seen: Iterable[tuple[list[str], tuple[int, int]]]) -> list[str]:
        """Return a sentence if most masks look like noise, but like regions as absolute runs."""
        return doubts_about_runs(RELATIVE, [absolute("columns", 0), absolute("rows", 0)], seen)


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


def found_runs(path: str | os.PathLike[str]) -> Found:
    """Read a CSV of run-length codes.

    Args:
        path: CSV with a header that names a column of image ids (such as ImageId, image_id, Image Index, filename or
            SOPInstanceUID) and a column of codes (EncodedPixels or rle), in any case and among any others; or the
            competition's CSV, which may lack the header.

    Returns:
        The codes, as text, of all rows of each image, see `rows_by_image`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a CSV.
    """
    return Found(rows_by_image(*_read(path), path))


def _read(path: str | os.PathLike[str]) -> tuple[pd.Series, pd.Series]:
    """Return the column of image ids and that of codes."""
    table = read_table(path)
    ids, runs = id_column(table), run_column(table)
    if ids is not None and runs is not None:
        return table[ids], table[runs]
    if table.shape[1] > 2:
        raise no_column(path, table, "of run-length codes (EncodedPixels, rle)" if ids else "of image ids (ImageId)")
    table = read_runs(path)
    return table["image_id"], table["rle"]
