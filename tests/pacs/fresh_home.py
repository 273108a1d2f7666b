"""A home and a folder of temporary files for a process that must leave nothing in them."""

import os
from pathlib import Path

_FOLDERS = ("HOME", "TMPDIR")
_CHOSEN = ("KERAS_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def empty_home(folder):
    """Return the environment of a process with an empty home and an empty folder of temporary files."""
    environment = {name: value for name, value in os.environ.items() if name not in _CHOSEN}
    for name in _FOLDERS:
        environment[name] = str(folder / name)
        (folder / name).mkdir()
    return environment


def left_behind(environment):
    """Return all that was written into these folders."""
    return [path for name in _FOLDERS for path in Path(environment[name]).rglob("*")]
