"""Steps that each make one file with one command, repeated only when something they were made of has changed."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumoseg.atomic_write import atomic_write

RunCommand = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class Step:
    """A command and the file that it makes.

    Attributes:
        command: The arguments after `pneumoseg`. A change of any of them makes the file stale.
        output: The file; None for a command that only prints, which always runs.
        needs: Steps whose files the command reads.
        inputs: Other files that the command reads, which may be missing.
        patterns: Folders and patterns of further files below them that the command reads, such as a run's bundles.
        folders: Folders whose images the command reads, at any depth.
        options: Further arguments, which say where or how fast the file is made and change nothing in it.
    """

    command: tuple[str, ...]
    output: Path | None
    needs: tuple["Step", ...] = ()
    inputs: tuple[Path, ...] = ()
    patterns: tuple[tuple[Path, str], ...] = ()
    folders: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()


class Builder:
    """Run the commands of stale steps, each after the steps that it needs.

    A step is stale if its file is missing or was replaced, or if its command, or the path, size or modification time of
    any file that it reads, differs from when the file was made. A folder keeps one small record of these per step.

    Args:
        folder: Folder of the records, below the folder of the outputs.
        run: Runs one command; raises an exception if the command fails.
        dry_run: Whether `run` only shows the commands: nothing is recorded, and a step that needs a stale one is stale.
    """

    def __init__(self, folder: Path, run: RunCommand, *, dry_run: bool = False) -> None:
        self._folder, self._run, self._dry_run = folder, run, dry_run
        self._made: dict[Step, bool] = {}

    def make(self, step: Step) -> bool:
        """Bring a step's file up to date.

        Returns:
            Whether its command ran.
        """
        if step not in self._made:
            changed = [self.make(need) for need in step.needs]
            self._made[step] = self._make(step, changed=any(changed))
        return self._made[step]

    def _make(self, step: Step, *, changed: bool) -> bool:
        if step.output is None:
            self._run((*step.command, *step.options))
            return True
        record, inputs = self._record_of(step.output), _describe_inputs(step)
        known = record.read_text(encoding="utf-8") if record.exists() else None
        if known == f"{inputs}\n{_describe(step.output)}" and not (changed and self._dry_run):
            return False
        if not self._dry_run:
            record.unlink(missing_ok=True)
        self._run((*step.command, *step.options))
        if not self._dry_run:
            with atomic_write(record) as temporary:
                temporary.write_text(f"{inputs}\n{_describe(step.output)}", encoding="utf-8")
        return True

    def _record_of(self, output: Path) -> Path:
        name = os.path.relpath(output, self._folder)
        return self._folder / hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]


def _describe_inputs(step: Step) -> str:
    """Return the command, and a checksum of the paths, sizes and times of all files that the step reads."""
    from pneumoseg.data.files import find_images

    files = [need.output for need in step.needs if need.output is not None] + list(step.inputs)
    found = [path for folder, pattern in step.patterns for path in sorted(folder.glob(pattern))]
    images = [path for folder in step.folders for path in find_images(folder).paths]
    lines = "\n".join(map(_describe, [*files, *found, *images]))
    return "\n".join([*step.command, hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()])


def _describe(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} missing"
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def require_files(paths: Iterable[tuple[Path, str]]) -> None:
    """Check that files exist before any long work begins.

    Args:
        paths: Files, each with the option that names it.

    Raises:
        FileNotFoundError: If one is missing; names the file and the option.
    """
    for path, option in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; name the data set's folder, or the file with {option}")
