"""Files that TensorFlow cannot decode, turned into 8-bit PNG once."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from PIL import Image
from rich.progress import track

from pneumoseg.dicom import read_image


def encoded_frames(manifest: pd.DataFrame, cache_dir: str | Path) -> pd.DataFrame:
    """Tell for each image which bytes of which file hold it as a JPEG or PNG.

    An image whose DICOM file holds a JPEG baseline frame is read from there. Any other is decoded as `read_image`
    does and written as PNG into the cache, unless an earlier call did so and the file has not changed since.

    Args:
        manifest: One row an image, see `index_dataset`.
        cache_dir: Folder of the PNG files; made if there is something to write.

    Returns:
        Indexed as the manifest: `path` (str), `offset` and `length` (int64, bytes), `is_png` (bool).

    Raises:
        FileNotFoundError: If files of the manifest are gone.
        DicomError: If a file that was indexed cannot be read any more.
    """
    frames = manifest[["path", "frame_offset", "frame_length"]].set_axis(["path", "offset", "length"], axis=1)
    frames["is_png"] = frames["length"] == 0
    gone = [path for path in frames["path"] if not os.path.exists(path)]
    if gone:
        raise FileNotFoundError(f"{len(gone)} of {len(frames)} files are gone, index anew; the first: {gone[0]}")
    sources = frames.loc[frames["is_png"], "path"]
    if sources.empty:
        return frames
    Path(cache_dir).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written: Iterable[Path] = pool.map(lambda path: _transcode(Path(path), Path(cache_dir)), sources)
        targets = list(track(written, "Transcoding", len(sources)))
    frames.loc[frames["is_png"], "path"] = [str(target) for target in targets]
    frames.loc[frames["is_png"], "length"] = [target.stat().st_size for target in targets]
    return frames


def _transcode(source: Path, cache_dir: Path) -> Path:
    status = source.stat()
    # Another version of the package may read the same file otherwise.
    state = f"{version('pneumoseg')} {source.resolve()} {status.st_size} {status.st_mtime_ns}"
    target = cache_dir / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.png"
    if not target.exists():
        image = Image.fromarray(read_image(source))
        with tempfile.NamedTemporaryFile(dir=cache_dir, suffix=".part", delete=False) as file:
            image.save(file, format="PNG", compress_level=1)
        os.replace(file.name, target)
    return target
