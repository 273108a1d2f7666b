"""Image bytes that TensorFlow can decode: JPEG frames in DICOM files, and 8-bit PNG copies of all other images."""

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
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_image, read_with_header

_log = logging.getLogger(__name__)


def encoded_frames(manifest: pd.DataFrame, cache_dir: str | Path) -> pd.DataFrame:
    """Locate the JPEG or PNG bytes of each image, transcoding images to PNG where necessary.

    If the DICOM file of an image holds a JPEG baseline frame, that frame is used. Any other image is decoded as by
    `read_image` and written to the cache as PNG, unless an earlier call did so and the file has not changed since. A
    DICOM file with another size or time than when it was indexed is read again, strictly, and counted in the log.

    Args:
        manifest: Manifest with one row per image, see `index_dataset`.
        cache_dir: Folder of the PNG files, created if there is a file to write.

    Returns:
        A table with the index of the manifest: `path` (str), `offset` and `length` (int64, in bytes), `is_png` (bool).

    Raises:
        FileNotFoundError: If files of the manifest are missing.
        ImageError: If a file that was indexed can no longer be read, or its size in pixels differs from that of its
            mask.
    """
    frames = manifest[["path", "frame_offset", "frame_length"]].set_axis(["path", "offset", "length"], axis=1)
    states = _states(manifest)
    gone = [path for path, state in zip(frames["path"], states, strict=True) if state is None]
    if gone:
        raise FileNotFoundError(
            f"{len(gone)} of {len(frames)} files are missing, index the data set again; the first: {gone[0]}"
        )
    changed = _are_changed(manifest, states)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if changed.any():
            _log.warning(
                f"{changed.sum()} of {len(frames)} files may have changed since they were indexed: reading them again"
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
    """Check the files that may have changed since they were indexed, by reading them again.

    Args:
        manifest: Manifest with one row per image, see `index_dataset`.

    Raises:
        ImageError: If a file is missing, can no longer be read, or its size in pixels differs from that of its mask.
            The message names the first such file.
    """
    changed = _are_changed(manifest, _states(manifest))
    for row in manifest.loc[changed, ["path", "rows", "columns"]].itertuples(index=False):
        _read_again(row)


def _states(manifest: pd.DataFrame) -> list[tuple[int, int] | None]:
    """Return the current state of each file, or None if it is missing."""
    return [_state_of(path) for path in manifest["path"]]


def _are_changed(manifest: pd.DataFrame, states: list[tuple[int, int] | None]) -> np.ndarray:
    """Return whether each file may have changed since it was indexed, bool, (n,).

    Missing files have changed. If the manifest does not record the states of the files, all of them may have changed.
    """
    if not set(STATE_COLUMNS) <= set(manifest.columns):
        return np.ones(len(manifest), bool)
    indexed = manifest[list(STATE_COLUMNS)].itertuples(index=False, name=None)
    return np.array([now != before for now, before in zip(states, indexed, strict=True)], bool)


def _state_of(path: str) -> tuple[int, int] | None:
    try:
        return file_state(path)
    except ImageError:
        return None


def _read_again(row: Any) -> tuple[int, int]:
    """Return the offset and the length of the frame in a changed file, zeros if it has none."""
    _, header = read_with_header(row.path)
    if error := size_changed(row, (header.rows, header.columns)):
        raise error
    return header.frame_offset, header.frame_length


def _transcode(source: Path, cache_dir: Path) -> Path:
    # Another version of the package may read the same file differently.
    state = f"{version('pneumoseg')} {source.resolve()} {file_state(source)}"
    target = cache_dir / f"{hashlib.sha256(os.fsencode(state)).hexdigest()[:32]}.png"
    if not target.exists():
        image = Image.fromarray(read_image(source))
        with atomic_write(target) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
    return target
