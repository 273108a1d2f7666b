"""Journal of a folder of results: which images are done, so that a stopped run can go on.

The first line tells which pipeline and options the folder is for. Each further line holds the images of one chunk, and
is written after their files. At the end the whole journal is written again in the order of the inputs.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pneumoseg.atomic_write import atomic_write, flush
from pneumoseg.data.files import JOURNAL
from pneumoseg.inference.row import ResultRow


@dataclass(frozen=True, slots=True)
class Entry:
    """An image in the journal.

    Attributes:
        row: Its result.
        state: Size and modification time of its file before it was read, see `file_state`; None if there was no file.
    """

    row: ResultRow
    state: tuple[int, int] | None


class Journal:
    """The journal of one folder.

    Args:
        folder: Existing folder; an empty journal is created in it if it has none.
        identity: Pipeline and options that the folder is for: numbers and text by name.

    Attributes:
        entries: The images that are done, by path.
        digest: Checksum given to `finish`, if nothing has been added since.

    Raises:
        FileExistsError: If the folder is for another pipeline or other options.
        ValueError: If the journal is damaged.

    Example:
        >>> journal = Journal("results", {"flip": False})  # doctest: +SKIP
        >>> len(journal.entries)  # doctest: +SKIP
        0
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self.entries: dict[str, Entry] = {}
        self.digest = ""
        self._path, self._identity = Path(folder) / JOURNAL, dict(identity)
        if self._path.exists():
            self._read()
        else:
            self._write([])

    def append(self, entries: Iterable[Entry]) -> None:
        """Record the images of a chunk, whose files are in place, in one line."""
        several = list(entries)
        with open(self._path, "ab", buffering=0) as file:
            file.write(_line(_as_list(several)))
        flush(self._path)
        self.entries |= {entry.row.path: entry for entry in several}
        self.digest = ""

    def drop(self, paths: Iterable[str]) -> None:
        """Forget images, so that their names are free."""
        for path in paths:
            del self.entries[path]
        self._write([_as_list([entry]) for entry in self.entries.values()])
        self.digest = ""

    def finish(self, paths: Iterable[str], digest: str) -> None:
        """Write the journal again, in the order of the paths.

        Args:
            paths: Paths of all images.
            digest: Checksum of the files that the whole journal leads to.
        """
        self.entries = {path: self.entries[path] for path in paths}
        self._write([*(_as_list([entry]) for entry in self.entries.values()), {"complete": digest}])
        self.digest = digest

    def _write(self, content: list[Any]) -> None:
        with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
            file.writelines(map(_line, [self._identity, *content]))

    def _read(self) -> None:
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # without a last line that was cut off
        try:
            identity, *lines = map(json.loads, whole.splitlines())
            for line in lines:
                self._take(line)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self._path}: damaged ({error!r}); remove {self._path.parent} and start again"
            ) from error
        self._require(identity)
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))

    def _take(self, line: Any) -> None:
        if isinstance(line, dict):
            self.digest = str(line["complete"])
            return
        self.digest = ""
        for values in line:
            state, shape = values.pop("state"), values.pop("shape")
            row = ResultRow(**values, shape=tuple(shape))
            self.entries[row.path] = Entry(row, tuple(state) if state else None)

    def _require(self, identity: Any) -> None:
        wanted = json.loads(_line(self._identity))
        if identity == wanted:
            return
        other = sorted(name for name in wanted if not isinstance(identity, dict) or identity.get(name) != wanted[name])
        raise FileExistsError(
            f"{self._path.parent} holds results of another pipeline or other options ({', '.join(other)}): choose "
            "another folder, or remove this one"
        )


def _as_list(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    return [{**asdict(entry.row), "state": entry.state} for entry in entries]


def _line(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
