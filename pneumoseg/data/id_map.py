"""Maps from image ids to patients."""

import os

import pandas as pd

from pneumoseg.identifiers import image_id_of, read_text_table

_PATIENT_NAMES = ("patient_id", "patient")


def read_id_map(path: str | os.PathLike[str]) -> pd.Series:
    """Read the patient of each image.

    Args:
        path: CSV file with a header and two columns: the image id or file name, and the patient. Under the heading
            `patient_id` or `patient` the second column is taken as it is. Under any other it holds NIH file names like
            `00002563_000.png`, in which the digits before the underscore are the patient.

    Returns:
        Patient ids, str, indexed by image id, see `identifiers.image_id_of`.

    Raises:
        ValueError: If the file does not have two columns, lists an image twice, names no patient for one, or holds an
            NIH file name of another form.
        FileNotFoundError: If there is no such file.

    Example:
        >>> read_id_map("nih_id.csv")["1.2.276.0.7230010.3.1.4"]  # doctest: +SKIP
        '00002563'
    """
    table = read_text_table(path)
    if table.shape[1] != 2:
        raise ValueError(
            f"{path}: expected two columns, image id and NIH file name or patient_id, but found {table.shape[1]}"
        )
    ids, names = (table[column].str.strip() for column in table)
    ids = ids.map(image_id_of)
    if ids.duplicated().any():
        raise ValueError(f"{path}: image {ids[ids.duplicated()].iloc[0]} is listed twice")
    patients = names if table.columns[1].strip().lower() in _PATIENT_NAMES else _nih_patients(names, path)
    if (patients == "").any():
        raise ValueError(f"{path}: image {ids[patients == ''].iloc[0]} has no patient: complete or delete the line")
    return pd.Series(patients.to_numpy(), index=ids.to_numpy(), name="patient_id")


def _nih_patients(names: pd.Series, path: str | os.PathLike[str]) -> pd.Series:
    wrong = ~names.str.fullmatch(r"\d+_\d+(\.\w+)?")
    if wrong.any():
        raise ValueError(
            f"{path}: {names[wrong].iloc[0]!r} is not an NIH file name like 00002563_000.png: head the column "
            "patient_id if it names patients"
        )
    return names.str.split("_").str[0]
