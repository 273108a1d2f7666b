"""A pipeline's folder as bytes, which Ray brings to each node once."""

import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pneumoseg.engines.export_record import EXPORTS
from pneumoseg.identifiers import is_hidden
from pneumoseg.remote_files import errors_of, is_remote, open_file_system, without_file_protocol


@contextmanager
def local_pipeline(place: str) -> Iterator[Path]:
    """Yield the local folder of a pipeline, which is downloaded for as long as the context lasts if it is remote.

    Args:
        place: Path or URL of the folder.

    Raises:
        FileNotFoundError: If it holds no pipeline.
        OSError: If it cannot be downloaded.

    Example:
        >>> with local_pipeline("s3://models/pipeline") as folder:  # doctest: +SKIP
        ...     load_pipeline(folder)  # doctest: +SKIP
    """
    place = without_file_protocol(place)
    if not is_remote(place):
        yield _checked(Path(place), place)
        return
    system, path = open_file_system(place)
    with tempfile.TemporaryDirectory(prefix="pneumoseg-") as temporary:
        with errors_of(place):
            if system.exists(f"{path.rstrip('/')}/pipeline.json"):
                system.get(f"{path.rstrip('/')}/", f"{temporary}/pipeline/", recursive=True)
        yield _checked(Path(temporary) / "pipeline", place)


def pack(folder: Path, *, exports: bool) -> bytes:
    """Return the files of a pipeline as an archive.

    Args:
        folder: Folder of the pipeline.
        exports: Whether to pack its exports for other engines, too.

    Example:
        >>> len(pack(Path("runs/pipeline"), exports=False))  # doctest: +SKIP
        1935360
    """
    buffer = io.BytesIO()
    left_out = {"runs"} if exports else {"runs", EXPORTS}
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in left_out and not is_hidden(path.name):
                archive.add(path, path.name)
    return buffer.getvalue()


@contextmanager
def unpacked(archive: bytes) -> Iterator[Path]:
    """Yield a folder with the files of an archive that `pack` made, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="pneumoseg-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder)  # made by this package, a moment ago
        yield Path(folder)


def _checked(folder: Path, place: str) -> Path:
    if not (folder / "pipeline.json").is_file():
        raise FileNotFoundError(f"{place}: no pipeline, it has no pipeline.json; make one with `pneumoseg assemble`")
    return folder
