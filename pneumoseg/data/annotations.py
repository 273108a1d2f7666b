"""Readers of the competition's CSV files: masks, and the map from image ids to patients."""

from pathlib import Path

import pandas as pd

from pneumoseg.identifiers import normalize, read_text_table


def read_annotations(path: str | Path) -> pd.DataFrame:
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
        >>> read_annotations("train-rle.csv")["rle"].iloc[0]  # doctest: +SKIP
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


def read_id_map(path: str | Path) -> pd.Series:
    """Read the patient of each image from a map between the competition's image ids and NIH file names.

    Args:
        path: CSV file with a header and two columns: the image id, and a name like `00002563_000.png`, in which the
            digits before the underscore are the patient.

    Returns:
        Patient ids, str, indexed by image id.

    Raises:
        ValueError: If the file does not have two columns, lists an image twice, or holds a name of another form.
        FileNotFoundError: If there is no such file.

    Example:
        >>> read_id_map("nih_id.csv")["1.2.276.0.7230010.3.1.4"]  # doctest: +SKIP
        '00002563'
    """
    table = read_text_table(path)
    if table.shape[1] != 2:
        raise ValueError(f"{path}: expected two columns, image id and NIH file name, but found {table.shape[1]}")
    ids, names = (table[column].str.strip() for column in table)
    ids = ids.map(normalize)
    if ids.duplicated().any():
        raise ValueError(f"{path}: image {ids[ids.duplicated()].iloc[0]} is listed twice")
    wrong = ~names.str.fullmatch(r"\d+_\d+(\.\w+)?")
    if wrong.any():
        raise ValueError(f"{path}: {names[wrong].iloc[0]!r} is not an NIH file name like 00002563_000.png")
    return pd.Series(names.str.split("_").str[0].to_numpy(), index=ids.to_numpy(), name="patient_id")


def _is_runs(text: str) -> bool:
    return text == "-1" or text.replace(" ", "").isdigit()
