"""The competition's CSV of image ids and run-length codes, as it stands."""

import os

import pandas as pd

from pneumoseg.identifiers import normalize, read_text_table


def read_runs(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a CSV of image ids and run-length codes.

    Every spelling that the competition published is accepted: `ImageId, EncodedPixels` with a leading space in the
    second name and in ` -1` (stage 1), the same without spaces (stage 2), and a file with a byte-order mark and without
    a header.

    Args:
        path: CSV file to read.

    Returns:
        One row per line of the file, in the same order: `image_id` and `rle`, both str without surrounding white space.
        Ids are normalized by `identifiers.normalize`. The run-length codes are not checked.

    Raises:
        ValueError: If the file does not have two columns, or its header has other names.
        FileNotFoundError: If there is no such file.

    Example:
        >>> read_runs("train-rle.csv")["rle"].iloc[0]  # doctest: +SKIP
        '-1'
    """
    table = read_text_table(path, header=None, skipinitialspace=True)
    if table.shape[1] != 2:
        raise ValueError(f"{path}: expected two columns, ImageId,EncodedPixels, but found {table.shape[1]}")
    table = table.set_axis(["image_id", "rle"], axis=1)
    table = table.apply(lambda column: column.str.strip())
    table["image_id"] = table["image_id"].map(normalize)
    first = table.iloc[0]
    if first.tolist() == ["ImageId", "EncodedPixels"]:
        return table.iloc[1:].reset_index(drop=True)
    if not _is_runs(first["rle"]):
        raise ValueError(f"{path}: the header is {','.join(first)!r}, expected ImageId,EncodedPixels")
    return table


def _is_runs(text: str) -> bool:
    return text == "-1" or text.replace(" ", "").isdigit()
