"""Tables of image ids and run-length codes, with two columns or more."""

import os

import pandas as pd

from pneumoseg.annotations.annotations import Found
from pneumoseg.annotations.competition import read_runs
from pneumoseg.annotations.tables import id_column, ids_of, no_column, read_table, run_column


def found_runs(path: str | os.PathLike[str]) -> Found:
    """Read a CSV of run-length codes.

    Args:
        path: CSV with a header that names a column of image ids (such as ImageId, image_id, Image Index, filename or
            SOPInstanceUID) and a column of codes (EncodedPixels or rle), in any case and among any others; or the
            competition's CSV, which may lack the header.

    Returns:
        The codes, as text, of all rows of each image.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a CSV.
    """
    table = _read(path)
    return Found(table.groupby("image_id")["rle"].agg(list).to_dict())


def _read(path: str | os.PathLike[str]) -> pd.DataFrame:
    table = read_table(path)
    ids, runs = id_column(table), run_column(table)
    if ids is not None and runs is not None:
        return pd.DataFrame({"image_id": ids_of(table[ids], path), "rle": table[runs]})
    if table.shape[1] > 2:
        raise no_column(path, table, "of run-length codes (EncodedPixels, rle)" if ids else "of image ids (ImageId)")
    table = read_runs(path)
    return table.assign(image_id=ids_of(table["image_id"], path))
