"""Image ids: from file names, and in the tables that list them; and the names of files that are no one's data."""

import io
import os
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd

# What systems leave in folders, apart from names that begin with a dot: macOS' archives, Synology, Windows.
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


def image_id_of(path: str | os.PathLike[str]) -> str:
    """Return the image id that a file's name gives: its stem, in the Unicode form that `normalize` gives.

    Example:
        >>> image_id_of("study/1.2.840.dcm")
        '1.2.840'
    """
    return normalize(Path(path).stem)


def normalize(text: str) -> str:
    """Return a text in Unicode's composed form (NFC).

    macOS and some archives decompose accents in file names (NFD), so that one name has two spellings.
    """
    return unicodedata.normalize("NFC", text)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is one that file managers do not show."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_utf8(text: str | os.PathLike[str]) -> bool:
    """Tell whether a name can be written into a UTF-8 file: not where its bytes on the disk are in another encoding."""
    try:
        os.fspath(text).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str | os.PathLike[str]) -> str:
    r"""Return a name with each byte that is not UTF-8 written as an escape, such as `\udce9`."""
    return os.fspath(text).encode("utf-8", "backslashreplace").decode("utf-8")


def read_text_table(source: str | os.PathLike[str] | io.BytesIO | io.StringIO, **options: Any) -> pd.DataFrame:
    """Read a CSV with every value as the text that it is, so that the ids NA, None and 0001 stay ids.

    Args:
        source: The file, UTF-8 with or without a byte-order mark, or its content.
        **options: Further arguments of `pandas.read_csv`.

    Returns:
        All columns as str; an empty cell is ''.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a CSV in UTF-8; the message names it.
    """
    try:
        return pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: not a CSV in UTF-8 ({error})") from error
