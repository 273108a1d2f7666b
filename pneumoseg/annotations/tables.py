"""Tables of annotations: which column is which, and the image ids in them."""

import os
import re
import warnings

import pandas as pd

from pneumoseg.annotations.annotations import Unusable, examples
from pneumoseg.identifiers import image_id_of, normalize, read_text_table

# In lower case, letters and digits alone; the first that a table has is taken.
_ID_NAMES = (
    "imageid",
    "imageindex",
    "sopinstanceuid",
    "imageuid",
    "dicomid",
    "imagename",
    "filename",
    "imagefilename",
    "imagepath",
    "image",
    "file",
    "path",
    "id",
    "name",
)
_RUN_NAMES = ("encodedpixels", "rle", "maskrle", "rlemask", "runs")


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a CSV whose first line names the columns.

    Returns:
        The table, all columns str, names and values without surrounding white space.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a CSV in UTF-8, or its lines are longer than the header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # Without `index_col=False`, lines that are longer than the header would shift the columns.
            table = read_text_table(path, skipinitialspace=True, index_col=False)
        except pd.errors.ParserWarning as error:
            raise ValueError(f"{path}: a line has more values than the header names columns") from error
    return table.rename(columns=str.strip).apply(lambda column: column.str.strip())


def id_column(table: pd.DataFrame) -> str | None:
    """Return the name of the column of image ids, None if no column is named like one.

    Example:
        >>> id_column(pd.DataFrame(columns=["Patient ID", "Image Index"]))
        'Image Index'
    """
    return _named(table, _ID_NAMES)


def run_column(table: pd.DataFrame) -> str | None:
    """Return the name of the column of run-length codes, None if no column is named like one.

    Example:
        >>> run_column(pd.DataFrame(columns=["id", "Encoded_Pixels"]))
        'Encoded_Pixels'
    """
    return _named(table, _RUN_NAMES)


def column_called(table: pd.DataFrame, name: str) -> str | None:
    """Return the column with a name, whatever its case, spaces and signs; None if there is none.

    Example:
        >>> column_called(pd.DataFrame(columns=["Path", "Pneumothorax"]), "pneumothorax")
        'Pneumothorax'
    """
    return _named(table, (plain(name),))


def plain(name: str) -> str:
    """Return a name in lower case, letters and digits alone.

    Example:
        >>> plain("Image Index")
        'imageindex'
    """
    return re.sub(r"[\W_]+", "", name).lower()


def ids_of(column: pd.Series, path: str | os.PathLike[str]) -> pd.Series:
    """Return the image ids in a column: its values without folders and without the suffix of an image file.

    Args:
        column: Column of a table.
        path: File of the table, for the message.

    Raises:
        ValueError: If a value is empty.
    """
    if (column == "").any():
        line = int((column == "").to_numpy().argmax()) + 2
        raise ValueError(f"{path}: line {line} has no image id in column {column.name}: complete or delete the line")
    return column.map(image_id_of)


def rows_by_image(names: pd.Series, values: pd.Series, path: str | os.PathLike[str]) -> dict[str, list[str] | Unusable]:
    """Return the values in all rows of each image.

    Args:
        names: Column of image ids, see `ids_of`.
        values: Column of the same table.
        path: File of the table, for the message.

    Returns:
        The values by image id; unusable if rows with different paths or names have the same id, because they may be
        those of different images.

    Raises:
        ValueError: If an id is empty.
    """
    table = pd.DataFrame({"image_id": ids_of(names, path), "name": names.map(normalize), "value": values})
    rows: dict[str, list[str] | Unusable] = table.groupby("image_id", sort=False)["value"].agg(list).to_dict()
    spellings = table[["image_id", "name"]].drop_duplicates()
    for image_id, several in spellings[spellings.duplicated("image_id", keep=False)].groupby("image_id")["name"]:
        rows[str(image_id)] = Unusable(
            f"{path} has rows of {examples(several)}, which may be different images of the id {image_id}: index each "
            "folder with its own table, or name the image alike in all of its rows"
        )
    return rows


def no_column(path: str | os.PathLike[str], table: pd.DataFrame, wanted: str) -> ValueError:
    """Return an error about a column that a table lacks, naming those that it has."""
    return ValueError(f"{path}: no column {wanted}, found {', '.join(map(repr, table.columns))}: rename one of them")


def _named(table: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    columns = {plain(column): column for column in reversed(list(table.columns))}
    return next((columns[name] for name in names if name in columns), None)
