"""Stand-in for the search of image files."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pneumoseg.data.files import _walk, absolute


@dataclass(frozen=True)
class ImageFiles:
    """Files."""

    paths: list[Path]
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_images(inputs: str | Path | Iterable[str | Path]) -> ImageFiles:
    """Find."""
    given = [Path(inputs)] if isinstance(inputs, str | Path) else [Path(each) for each in inputs]
    paths, skipped = [], []
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such folder or file")
        files = [Path(parent, name) for parent, names, _ in _walk(absolute(path)) for name in names]
        for file in files if path.is_dir() else [absolute(path)]:
            if path.is_dir() and file.suffix in (".txt", ".csv", ".html", ".jsonl", ".md"):
                skipped.append((file, "is not an image"))
            else:
                paths.append(file)
    return ImageFiles(sorted(dict.fromkeys(paths)), sorted(skipped))
