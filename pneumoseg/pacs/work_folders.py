"""Input and output folder of a run: named as arguments or by the environment, and checked."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_PAIRS = (
    ("MERCURE_IN_DIR", "MERCURE_OUT_DIR"),
    ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"),
    ("MONAI_INPUTPATH", "MONAI_OUTPUTPATH"),
)


class WorkFolders(NamedTuple):
    """Input and output folder.

    Attributes:
        source: Folder to read.
        target: Folder to write.
        variables: Names of the environment variables that name them; '' if they were given.

    Example:
        >>> WorkFolders(Path("in"), Path("out"), "").target.name
        'out'
    """

    source: Path
    target: Path
    variables: str


def choose_folders(source: Path | None, target: Path | None, environment: Mapping[str, str]) -> WorkFolders:
    """Return the folders that are given, or else those that the environment names.

    The environment is that of mercure, of Holoscan or of MONAI Deploy, in this order. mercure sets all three pairs of
    variables.

    Args:
        source: Input folder; None if it is not given.
        target: Output folder; None if it is not given.
        environment: Environment variables, such as `os.environ`; an empty one counts as not set.

    Raises:
        ValueError: If one folder of a pair is missing, or both of each pair.

    Example:
        >>> choose_folders(None, None, {"MONAI_INPUTPATH": "in", "MONAI_OUTPUTPATH": "out"}).variables
        'MONAI_INPUTPATH and MONAI_OUTPUTPATH'
    """
    if source is not None and target is not None:
        return WorkFolders(source, target, "")
    if source is not None or target is not None:
        raise ValueError("got one folder, expected two: IN and OUT, or neither to take them from the environment")
    for pair in _PAIRS:
        missing = [name for name in pair if not environment.get(name)]
        if len(missing) == 1:
            (given,) = set(pair) - set(missing)
            raise ValueError(f"{given} is set and {missing[0]} is not: set both, or name IN and OUT")
        if not missing:
            return WorkFolders(Path(environment[pair[0]]), Path(environment[pair[1]]), " and ".join(pair))
    pairs = ", or ".join(" and ".join(pair) for pair in _PAIRS)
    raise ValueError(f"no folders to work on: name IN and OUT, or set {pairs}")


def require_folders(source: Path, target: Path) -> None:
    """Check that there is an input folder, and that the output folder is none and lies outside it.

    The messages name no path, because paths may hold names and UIDs.

    Raises:
        FileNotFoundError: If there is no input folder.
        FileExistsError: If the output folder is a file.
        ValueError: If the output folder is the input folder or lies in it.
    """
    if not os.path.isdir(source):  # unlike Path.is_dir, raises no error that names the path
        raise FileNotFoundError("the input folder does not exist or is not a folder: name a folder with DICOM files")
    if os.path.exists(target) and not os.path.isdir(target):
        raise FileExistsError("the output folder is a file: name a folder to write")
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise ValueError("the output folder is the input folder or lies in it: name one elsewhere")
