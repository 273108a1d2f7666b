"""Annotations that are labels alone: whether an image shows a pneumothorax, without a mask."""

import os
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pneumoseg.annotations.annotations import PNEUMOTHORAX, Annotations, Found, Unusable
from pneumoseg.annotations.tables import column_called, id_column, no_column, read_table, rows_by_image

_VALUES = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_LABEL_NAMES = ("label", "target", "class")


class Labels(Annotations):
    """Labels alone. Such images train and score the classifier; whatever needs their masks leaves them out."""

    format: ClassVar[str] = "labels"
    absence: ClassVar[str] = "no annotation row"

    def __init__(self, path: str | os.PathLike[str], category: str | None = None) -> None:
        """Read the table.

        Args:
            path: CSV with a column of image ids and one of labels: a list such as `Effusion|Pneumothorax` in a column
                `Finding Labels`, as NIH writes it, or 0 and 1 (0.0 and 1.0, false and true) in a column with the name
                of the category or, in a table of two columns, in the other column. Other values are refused for their
                images, and so are rows of one image that contradict each other.
            category: Name of the finding, in upper or lower case; pneumothorax by default. If it is given, a column of
                another name, such as `label`, is not taken.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not such a CSV.
        """
        super().__init__(path, _found(path, category))

    def _read(self, entry: bool, shape: tuple[int, int]) -> bool:
        return entry

    def negative(self, shape: tuple[int, int]) -> NDArray[np.bool_] | bool:
        """Return False."""
        return False


def label_column(table: pd.DataFrame, category: str | None = None) -> str | None:
    """Return the column of the labels, None if there is none.

    Args:
        table: Table of annotations.
        category: Name of the finding; None for pneumothorax or whatever the only labels are about.

    Example:
        >>> label_column(pd.DataFrame(columns=["Path", "Edema", "Pneumothorax"]))
        'Pneumothorax'
        >>> label_column(pd.DataFrame({"id": ["a"], "answer": ["1"]}))
        'answer'
    """
    own = category or PNEUMOTHORAX
    for name in ("findinglabels", own, f"has{own}", *(() if category else _LABEL_NAMES)):
        if (column := column_called(table, name)) is not None:
            return column
    if category:
        return None
    others = [column for column in table.columns if column != id_column(table)]
    return others[0] if len(others) == 1 and table[others[0]].str.lower().isin(list(_VALUES)).any() else None


def _found(path: str | os.PathLike[str], category: str | None) -> Found:
    table = read_table(path)
    ids, labels = id_column(table), label_column(table, category)
    if labels is None and category and label_column(table) is not None:
        names = ", ".join(map(repr, table.columns))
        raise ValueError(f"{path}: no column {category}, found {names}: name one with --category, or leave it out")
    category = category or PNEUMOTHORAX
    if ids is None or labels is None:
        wanted = f"of labels ({category}, label or Finding Labels)" if ids else "of image ids (ImageId, id, filename)"
        raise no_column(path, table, wanted)
    by_image = rows_by_image(table[ids], table[labels], path)
    is_list = column_called(table, "findinglabels") == labels
    if is_list and not table[labels].map(lambda text: category.lower() in _findings(text)).any():
        found = sorted({finding for text in table[labels] for finding in _findings(text)} - {""})
        raise ValueError(
            f"{path}: no row of {labels} names {category}; the findings are {', '.join(found[:20])}: name one with "
            "--category"
        )
    return Found({image_id: _label(texts, category if is_list else None) for image_id, texts in by_image.items()})


def _findings(text: str) -> list[str]:
    return [finding.strip().lower() for finding in text.split("|")]


def _label(texts: list[str] | Unusable, category: str | None) -> bool | Unusable:
    """Return the label that the rows of one image give; `category` is None for labels of 0 and 1."""
    if isinstance(texts, Unusable):
        return texts
    labels = set()
    for text in texts:
        if category is None and text.lower() not in _VALUES:
            return Unusable(f"label {text!r}, expected 0 or 1")
        if category is not None and text == "":
            return Unusable("no finding is listed, expected names or No Finding")
        labels.add(_VALUES[text.lower()] if category is None else category.lower() in _findings(text))
    return labels.pop() if len(labels) == 1 else Unusable(f"{len(texts)} rows contradict each other: {texts}")
