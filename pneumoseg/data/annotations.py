"""The competition's CSV files of masks, in every spelling they come in."""

from pathlib import Path

import pandas as pd

from pneumoseg.identifiers import normalize, read_text_table


def read_annotations(path: str | Path) -> pd.DataFrame:
    """Read a CSV of image ids and run-length codes.

    Accepts what the competition published: `ImageId, EncodedPixels` with a leading space in the second name and in
    ` -1` (stage 1), the same without the spaces (stage 2), and a file with a byte-order mark and no header at all.

    Args:
        path: The CSV.

    Returns:
        One row per line of the file, in its order: `image_id` and `rle`, both str, outer white space removed, ids in
        the form of `identifiers.normalize`. The runs themselves are not checked here.

    Raises:
        ValueError: If the file has not two columns, or a header that names something else.
        FileNotFoundError: If there is no such file.
    """
    table = read_text_table(path, header=None, skipinitialspace=True)
    if table.shape[1] != 2:
        raise ValueError(f"{path}: expected two columns, ImageId,EncodedPixels, and found {table.shape[1]}")
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
    """Read a map from the competition's image ids to NIH file names, from which the patient is known.

    Args:
        path: A CSV with a header and two columns: image id, and a name like `00002563_000.png`, whose digits before
            the underscore are the patient.

    Returns:
        Patient ids (str), indexed by image id.

    Raises:
        ValueError: If the file has not two columns, names an image twice, or holds a name of another form.
    """
    table = read_text_table(path)
    if table.shape[1] != 2:
        raise ValueError(f"{path}: expected two columns, image id and NIH file name, and found {table.shape[1]}")
    ids, names = (table[column].str.strip() for column in table)
    ids = ids.map(normalize)
    if ids.duplicated().any():
        raise ValueError(f"{path}: image {ids[ids.duplicated()].iloc[0]} stands in it twice")
    wrong = ~names.str.fullmatch(r"\d+_\d+(\.\w+)?")
    if wrong.any():
        raise ValueError(f"{path}: {names[wrong].iloc[0]!r} is no NIH file name, expected one like 00002563_000.png")
    return pd.Series(names.str.split("_").str[0].to_numpy(), index=ids.to_numpy(), name="patient_id")


def _is_runs(text: str) -> bool:
    return text == "-1" or text.replace(" ", "").isdigit()
