"""Tables of a manifest as files: CSV or Parquet, by the suffix of the name."""

import csv
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pneumoseg.atomic_write import atomic_write
from pneumoseg.identifiers import read_text_table

if TYPE_CHECKING:
    import pandas as pd

PARQUET = ".parquet"
SUFFIXES = (".csv", PARQUET)


def require_format(path: str | Path) -> None:
    """Check that a manifest of this name can be read and written, without opening it.

    Raises:
        ValueError: If the suffix is neither `.csv` nor `.parquet`, or is `.parquet` and pyarrow is not installed.

    Example:
        >>> require_format("manifest.csv")
        >>> require_format("manifest.xlsx")
        Traceback (most recent call last):
        ValueError: manifest.xlsx: a manifest is a .csv or .parquet file, got the suffix '.xlsx': rename it
    """
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a manifest is a {' or '.join(SUFFIXES)} file, got the suffix {suffix!r}: rename it")
    if suffix.lower() == PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'pneumoseg[parquet]', or take a .csv"
        )


def write_table(table: "pd.DataFrame", path: str | Path) -> None:
    """Write a table as CSV or Parquet, whole or not at all; its index is not written.

    Raises:
        ValueError: See `require_format`.
    """
    require_format(path)
    with atomic_write(path) as temporary:
        if _is_parquet(path):
            table.to_parquet(temporary, engine="pyarrow", index=False)
        else:
            table.to_csv(temporary, index=False, quoting=_quoting(table))


def csv_text(table: "pd.DataFrame") -> str:
    r"""Return a table as CSV, without its index, such that `read_text_table` gives every text back.

    Example:
        >>> import pandas as pd
        >>> csv_text(pd.DataFrame({"path": ["a.dcm"], "rows": [512]}))
        'path,rows\na.dcm,512\n'
    """
    return table.to_csv(index=False, quoting=_quoting(table))


def read_table(path: str | Path, types: Mapping[str, str]) -> "pd.DataFrame":
    """Read a table from CSV or Parquet.

    Args:
        path: File to read.
        types: Type of each column that has one, as pandas names it.

    Returns:
        The table. Each column is of its type, or text as `read_text_table` would give it: in CSV files all columns, in
        Parquet files those of another type and those without one. A missing text is ''.

    Raises:
        ValueError: If the file is not of the format that its suffix names; see also `require_format`.
    """
    require_format(path)
    return _read_parquet(path, types) if _is_parquet(path) else read_text_table(path)


def _read_parquet(path: str | Path, types: Mapping[str, str]) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            content = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or a damaged one ({error})") from error
    texts = [field.name for field in content.schema if _is_text(field.type)]
    # Metadata of pandas would turn a column that was the index of a table back into the index.
    table = content.to_pandas(ignore_metadata=True)
    for field in content.schema:
        # In pandas' usual types a gap would turn whole numbers into fractions, and CSV has '1' rather than '1.0'.
        if pyarrow.types.is_integer(field.type) and content[field.name].null_count:
            table[field.name] = content[field.name].to_pandas(types_mapper=pd.ArrowDtype)
    other = [name for name, kind in table.dtypes.items() if name not in texts and str(kind) != types.get(name)]
    if other:
        table[other] = read_text_table(io.StringIO(csv_text(table[other])))
    return table.fillna(dict.fromkeys(texts, ""))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind)


def _quoting(table: "pd.DataFrame") -> Literal[0, 2]:
    """Return the quoting with which a carriage return in a text does not end the line."""
    texts = table.select_dtypes(exclude=["number", "bool"])
    quote = any(column.astype("str").str.contains("\r", regex=False).any() for _, column in texts.items())
    return csv.QUOTE_NONNUMERIC if quote else csv.QUOTE_MINIMAL  # which leaves it unquoted


def _is_parquet(path: str | Path) -> bool:
    return Path(path).suffix.lower() == PARQUET
