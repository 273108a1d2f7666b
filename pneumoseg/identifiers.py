"""Image ids from file names and from tables, and the names of files that hold no data."""

import io
import os
import unicodedata
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Folders that systems create, in addition to names that begin with a dot: macOS archives, Synology, Windows.
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


IMAGE_SUFFIXES = frozenset({".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff"})
"""Suffixes of image files, in lower case."""


def image_id_of(path: str | os.PathLike[str]) -> str:
    r"""Return the image id of a file, or of an entry of a table: the name without folders and without its suffix.

    Only the suffixes of image files are cut (`IMAGE_SUFFIXES`, in upper or lower case), so a UID without a suffix stays
    whole. Folders may be separated by slashes or by backslashes. The id is in composed Unicode form, see `normalize`.

    Args:
        path: Path or name of an image file, or an image id; no file need exist.

    Returns:
        The image id.

    Example:
        >>> image_id_of("study/1.2.840.dcm"), image_id_of("1.2.840"), image_id_of(r"train\0001.PNG")
        ('1.2.840', '1.2.840', '0001')
    """
    name = _last_part(os.fspath(path).replace("\\", "/"))
    return normalize(name[: -len(_suffix(name))] if has_image_suffix(name) else name)


def has_image_suffix(path: str | os.PathLike[str]) -> bool:
    """Return whether the name of a file ends like that of an image file.

    Example:
        >>> has_image_suffix("chest.DCM"), has_image_suffix("1.2.840"), has_image_suffix("masks.csv")
        (True, False, False)
    """
    return _suffix(_last_part(os.fspath(path))).lower() in IMAGE_SUFFIXES


def _last_part(path: str) -> str:
    """Return the name of a file as PurePosixPath does, which takes five times as long and keeps each name forever."""
    name = path.rpartition("/")[2]
    return PurePosixPath(path).name if name in ("", ".") else name


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


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


def read_text_table(source: str | os.PathLike[str] | io.BytesIO | io.StringIO, **options: Any) -> "pd.DataFrame":
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
    import pandas as pd  # most commands on one image need no table

    try:
        return pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source}: no such file, expected a CSV table") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: not a CSV file in UTF-8 ({error})") from error
