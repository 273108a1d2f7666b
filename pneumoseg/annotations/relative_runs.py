"""Annotations as relative run-length codes, the competition's form."""

import os
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pneumoseg import rle
from pneumoseg.annotations.annotations import Annotations
from pneumoseg.annotations.readings import RELATIVE, absolute, doubts_about_runs
from pneumoseg.annotations.run_table import found_runs


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
