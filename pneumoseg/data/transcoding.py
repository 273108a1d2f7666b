"""The bytes that TensorFlow decodes: JPEG frames in DICOM files, and all other images turned into 8-bit PNG once."""

import hashlib
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.progress import track

from pneumoseg.atomic_write import atomic_write
from pneumoseg.data.files import STATE_COLUMNS, file_state, size_changed
from pneumoseg.dicom import DicomError, read_dicom, read_image

_log = logging.getLogger(__name__)


def encoded_frames(manifest: pd.DataFrame, cache_dir: str | Path) -> pd.DataFrame:
    """Tell for each image which bytes of which file hold it as a JPEG or PNG.

    An image whose DICOM file holds a JPEG baseline frame is read from there. Any other is decoded as `read_image`
    does and written as PNG into the cache, unless an earlier call did so and the file has not changed since. A DICOM
    file that is not the one that was indexed, by its size and time, is read again, strictly, and counted in the log.

    Args:
        manifest: One row per image, see `index_dataset`.
        cache_dir: Folder of the PNG files; made if there is something to write.

    Returns:
        Indexed as the manifest: `path` (str), `offset` and `length` (int64, bytes), `is_png` (bool).

    Raises:
        FileNotFoundError: If files of the manifest are gone.
        DicomError: If a file that was indexed cannot be read any more, or has another size in pixels than its mask.
    """
    frames = manifest[["path", "frame_offset", "frame_length"]].set_axis(["path", "offset", "length"], axis=1)
    states = _states(manifest)
    gone = [path for path, state in zip(frames["path"], states, strict=True) if state is None]
    if gone:
        raise FileNotFoundError(f"{len(gone)} of {len(frames)} files are gone, index anew; the first: {gone[0]}")
    changed = _are_changed(manifest, states)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if changed.any():
            _log.warning(
                f"{changed.sum()} of {len(frames)} files are not known to be as they were indexed: reading them"
            )
            rows: Iterable = manifest.loc[changed, ["path", "rows", "columns"]].itertuples(index=False)
            read = list(track(pool.map(_read_again, rows), "Reading", int(changed.sum())))
            frames.loc[changed, ["offset", "length"]] = np.array(read, np.int64)
        frames["is_png"] = frames["length"] == 0
        sources = frames.loc[frames["is_png"], "path"]
        if sources.empty:
            return frames
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        written: Iterable[Path] = pool.map(lambda path: _transcode(Path(path), Path(cache_dir)), sources)
        targets = list(track(written, "Transcoding", len(sources)))
    frames.loc[frames["is_png"], "path"] = [str(target) for target in targets]
    frames.loc[frames["is_png"], "length"] = [target.stat().st_size for target in targets]
    return frames


def check_files(manifest: pd.DataFrame) -> None:
    """Read the files again that were changed since they were indexed.

    Raises:
        DicomError: Of the first that is gone, cannot be read any more, or has another size in pixels than its mask.
    """
    changed = _are_changed(manifest, _states(manifest))
    for row in manifest.loc[changed, ["path", "rows", "columns"]].itertuples(index=False):
        _read_again(row)


def _states(manifest: pd.DataFrame) -> list[tuple[int, int] | None]:
    """Return what each file is like now, None of one that is gone."""
    return [_state_of(path) for path in manifest["path"]]


def _are_changed(manifest: pd.DataFrame, states: list[tuple[int, int] | None]) -> np.ndarray:
    """Tell which files are not known to be those that were indexed: all, where a manifest does not say what they were.

    Returns:
        bool, (n,). A file that is gone has changed.
    """
    if not set(STATE_COLUMNS) <= set(manifest.columns):
        return np.ones(len(manifest), bool)
    indexed = manifest[list(STATE_COLUMNS)].itertuples(index=False, name=None)
    return np.array([now != before for now, before in zip(states, indexed, strict=True)], bool)


def _state_of(path: str) -> tuple[int, int] | None:
    try:
        return file_state(path)
    except DicomError:
        return None


def _read_again(row: Any) -> tuple[int, int]:
    """Return where the frame of a changed file lies, zeros where it has none."""
    _, header = read_dicom(row.path)
    if error := size_changed(row, (header.rows, header.columns)):
        raise error
    return header.frame_offset, header.frame_length


def _transcode(source: Path, cache_dir: Path) -> Path:
    # Another version of the package may read the same file otherwise.
    state = f"{version('pneumoseg')} {source.resolve()} {file_state(source)}"
    target = cache_dir / f"{hashlib.sha256(os.fsencode(state)).hexdigest()[:32]}.png"
    if not target.exists():
        image = Image.fromarray(read_image(source))
        with atomic_write(target) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
    return target
