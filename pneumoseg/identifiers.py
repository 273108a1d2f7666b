"""Image ids from file names and from tables, and the names of files that hold no data."""

import io
import os
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd

# Folders that systems create, in addition to names that begin with a dot: macOS archives, Synology, Windows.
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


def image_id_of(path: str | os.PathLike[str]) -> str:
    """Return the image id of a file: the stem of its name, in composed Unicode form (see `normalize`).

    Args:
        path: Path of an image file; it need not exist.

    Returns:
        The name without folders and without the last suffix.

    Example:
        >>> image_id_of("study/1.2.840.dcm")
        '1.2.840'
    """
    return normalize(Path(path).stem)


def normalize(text: str) -> str:
    r"""Return a text in composed Unicode form (NFC).

    macOS and some archives decompose accents in file names (NFD), so one name can have two spellings.

    Example:
        >>> len("e\u0301"), len(normalize("e\u0301"))
        (2, 1)
    """
    return unicodedata.normalize("NFC", text)


def is_hidden(name: str) -> bool:
    """Return whether file managers hide a file or folder of this name.

    Example:
        >>> is_hidden(".DS_Store"), is_hidden("@eaDir"), is_hidden("1.2.840.dcm")
        (True, True, False)
    """
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_utf8(text: str | os.PathLike[str]) -> bool:
    """Return whether a name can be written into a UTF-8 file.

    A name whose bytes on disk are in another encoding cannot.
    """
    try:
        os.fspath(text).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str | os.PathLike[str]) -> str:
    r"""Return a name with each byte that is not UTF-8 written as an escape, such as `\udce9`."""
    return os.fspath(text).encode("utf-8", "backslashreplace").decode("utf-8")


def read_text_table(source: str | os.PathLike[str] | io.BytesIO | io.StringIO, **options: Any) -> pd.DataFrame:
    r"""Return a CSV table with every value as text, so that ids such as NA, None and 0001 stay unchanged.

    Args:
        source: Path or content of the file, UTF-8 with or without a byte-order mark.
        **options: Further arguments of `pandas.read_csv`.

    Returns:
        The table, all columns str; empty cells are ''.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a CSV file in UTF-8. The message names the file.

    Example:
        >>> read_text_table(io.StringIO("image_id,score\n0001,NA\n")).to_dict("records")
        [{'image_id': '0001', 'score': 'NA'}]
    """
    try:
        return pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: not a CSV file in UTF-8 ({error})") from error
