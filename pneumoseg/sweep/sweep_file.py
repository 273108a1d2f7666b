"""Sweep files: YAML that names an experiment and the values of some of its settings, and becomes trials."""

import copy
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pneumoseg.config import (
    ConfigError,
    Experiment,
    Settings,
    read_settings_file,
    validate_experiment,
    validate_settings,
)

_LONGEST_NAME = 120  # characters; file systems allow 255 bytes, and names of files come behind it in a path


class SweepFile(Settings):
    """Content of a sweep file.

    Attributes:
        experiment: Experiment file, with a path relative to the sweep file.
        values: Values to try, by the key that they replace in the experiment. `phases.0.learning_rate` is a key in the
            first phase. The trials are all combinations.
    """

    experiment: str
    values: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]


@dataclass(frozen=True)
class Trial:
    """One combination of a sweep's values.

    Attributes:
        name: Name of the trial's folder, made of its values alone.
        values: The value of each varied key.
        settings: Complete settings of the experiment.
    """

    name: str
    values: dict[str, Any]
    settings: Experiment


def load_trials(path: str | Path) -> list[Trial]:
    """Read a sweep file and validate the settings of all its trials.

    Args:
        path: Sweep file.

    Returns:
        All combinations of the values; the last key's values change first.

    Raises:
        ConfigError: If the file or its experiment is missing or not YAML, a key is unknown, a value does not fit, or
            two trials would have the same settings.

    Example:
        >>> [trial.name for trial in load_trials("experiments/sweep_small.yaml")]  # doctest: +SKIP
        ['batch_size=8,phases.0.learning_rate=0.001', ...]
    """
    path = Path(path)
    content, _ = read_settings_file(path)
    if isinstance(content, dict) and "kind" in content:
        raise ConfigError(f"{path}: is an experiment, not a sweep file, which has the keys experiment and values")
    sweep = validate_settings(SweepFile, content, str(path))
    base, _ = read_settings_file(path.parent / sweep.experiment)
    combinations = itertools.product(*sweep.values.values())
    trials = [_trial(base, dict(zip(sweep.values, values, strict=True)), path) for values in combinations]
    _refuse_equal(trials, path)
    return trials


def trial_name(values: dict[str, Any]) -> str:
    """Return a name for a folder, made of keys and values; what a file name cannot hold is replaced.

    Args:
        values: Value of each varied key.

    Returns:
        At most 120 characters. A name in which something was replaced or cut ends with a checksum of the values.

    Example:
        >>> trial_name({"backbone": "xception", "phases.0.learning_rate": 1e-3})
        'backbone=xception,phases.0.learning_rate=0.001'
        >>> trial_name({"weights": "models/xception.h5"})
        'weights=models-xception.h5-18d43c6d'
    """
    text = ",".join(f"{key}={_text(value)}" for key, value in values.items())
    readable = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", text)
    if readable == text and len(text) <= _LONGEST_NAME:
        return text
    checksum = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{readable[: _LONGEST_NAME - 9]}-{checksum}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _trial(base: Any, values: dict[str, Any], path: Path) -> Trial:
    name, content = trial_name(values), copy.deepcopy(base)
    for key, value in values.items():
        _replace(content, key, copy.deepcopy(value), path)
    return Trial(name, values, validate_experiment(content, f"{path}: trial {name}"))


def _replace(content: Any, key: str, value: Any, path: Path) -> None:
    """Put a value in the place of a dotted key; the last part may be new, and is then validated like any other."""
    *parents, last = key.split(".")
    for part in parents:
        content = content[_place(content, part, key, path)] if _has(content, part) else None
    content[_place(content, last, key, path)] = value


def _has(content: Any, part: str) -> bool:
    return part in content if isinstance(content, dict) else True


def _place(content: Any, part: str, key: str, path: Path) -> str | int:
    if isinstance(content, dict):
        return part
    if not isinstance(content, list):
        raise ConfigError(
            f"{path}: values.{key}: the experiment has nothing that holds {part!r}: vary the whole setting instead"
        )
    if not part.isdecimal() or int(part) >= len(content):
        raise ConfigError(f"{path}: values.{key}: expected a number from 0 to {len(content) - 1} in place of {part!r}")
    return int(part)


def _refuse_equal(trials: list[Trial], path: Path) -> None:
    names: dict[str, Trial] = {}
    settings: dict[str, Trial] = {}
    for trial in trials:
        # File systems of macOS and Windows do not tell upper from lower case.
        for known, text in ((names, trial.name.casefold()), (settings, trial.settings.model_dump_json())):
            if text in known:
                other, same = known[text], "name" if known is names else "settings"
                raise ConfigError(
                    f"{path}: two trials have the same {same}: {other.values} and {trial.values}: remove one value"
                )
            known[text] = trial
