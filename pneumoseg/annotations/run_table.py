"""Tables of image ids and run-length codes, with two columns or more."""

import os

import pandas as pd

from pneumoseg.annotations.annotations import Found
from pneumoseg.annotations.competition import read_runs
from pneumoseg.annotations.tables import id_column, no_column, read_table, rows_by_image, run_column


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
