"""Trained networks on disk: how to build the network again, its thresholds, its weights, and the sums that prove them.

A bundle is a folder with `spec.json` and `model.weights.h5`. Loading calls our own builder with checked arguments and
fills in arrays, so nothing in a file is ever run. The SHA-256 of the weights and of the spec itself reveal damage and
careless edits. They are no signature: whoever rewrites a bundle can rewrite its sums.
"""

import contextlib
import ctypes
import hashlib
import inspect
import json
import math
import os
import secrets
import shutil
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras

from pneumoseg.atomic_write import flush
from pneumoseg.identifiers import is_hidden
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.models.weights import UNREADABLE

SPEC_NAME = "spec.json"
WEIGHTS_NAME = "model.weights.h5"
_BUILDERS: dict[str, Callable[..., keras.Model]] = {"classifier": build_classifier, "segmenter": build_segmenter}
_PACKAGES = ("pneumoseg", "keras", "tensorflow", "segmentation-models", "efficientnet")
_FORMAT = 2
_SPEC_KEYS = {"format", "builder", "arguments", "thresholds", "images", "versions", "weights_sha256", "spec_sha256"}
_MAX_SPEC_BYTES = 100_000_000  # a million image ids take about 60 MB


class BundleError(ValueError):
    """A bundle cannot be written or read. The message names the folder and the remedy."""


@dataclass(frozen=True)
class DataSplit:
    """The image ids that a network was trained and validated on.

    Attributes:
        training: Images that the weights were fitted to, those of a network that the training started from included.
        validation: Images that chose the epoch and the threshold, none of which is among `training`.

    Example:
        >>> DataSplit({"a", "b"}, {"c"}) | DataSplit({"c"}, {"d"}) == DataSplit({"a", "b", "c"}, {"d"})
        True
    """

    training: frozenset[str]
    validation: frozenset[str]

    def __init__(self, training: Iterable[str] = (), validation: Iterable[str] = ()) -> None:
        """Take any iterables of ids; an id in both counts as trained on."""
        object.__setattr__(self, "training", frozenset(training))
        object.__setattr__(self, "validation", frozenset(validation) - self.training)

    def __or__(self, other: "DataSplit") -> "DataSplit":
        """Return the split of two networks that work together: what either was trained on is trained on."""
        return DataSplit(self.training | other.training, self.validation | other.validation)


@dataclass(frozen=True)
class Bundle:
    """A network as `load_bundle` finds it.

    Attributes:
        model: The network with its trained weights, not compiled; XLA is off unless asked for.
        builder: "classifier" or "segmenter".
        arguments: What the builder was called with, without `weights`.
        thresholds: Named numbers chosen on validation data, such as `{"probability": 0.5}`.
        versions: Package versions the bundle was written with.
        images: The images it was trained and validated on; None if whoever saved it did not say.
    """

    model: keras.Model
    builder: str
    arguments: dict[str, Any]
    thresholds: dict[str, float]
    versions: dict[str, str]
    images: DataSplit | None


def save_bundle(
    folder: str | Path,
    model: keras.Model,
    builder: str,
    arguments: Mapping[str, Any],
    thresholds: Mapping[str, float] | None = None,
    images: DataSplit | None = None,
) -> None:
    """Write a bundle whole or not at all, replacing the bundle that may be there.

    It is written to a temporary folder beside `folder`, flushed to disk and renamed. An existing bundle changes places
    with the new one in one step where the system can (Linux); elsewhere three renames follow each other.

    Args:
        folder: Where to write; a folder that holds anything but a bundle is left alone.
        model: A network of `build_classifier` or `build_segmenter`; of a compiled one the optimizer is not kept.
        builder: "classifier" or "segmenter".
        arguments: The builder's arguments. What is left out gets the builder's default, `weights` is dropped.
        thresholds: Named finite numbers to keep with the network.
        images: The images that the network was trained and validated on, so that it is never scored on the former.

    Raises:
        BundleError: An unknown builder or argument, an argument of a wrong type or that does not fit the model, a
            threshold that is no finite number, or a folder that holds other files.
    """
    folder = Path(os.path.realpath(folder))
    kept = _complete_arguments(folder, builder, {k: v for k, v in arguments.items() if k != "weights"})
    checked_thresholds = _finite(folder, thresholds or {})
    _check_fit(folder, model, builder, kept)
    if folder.exists() and not _is_bundle_or_empty(folder):
        raise BundleError(f"{folder} holds other files than a bundle's. Choose another folder or empty this one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_sibling(folder) as draft:
        choices = {"builder": builder, "arguments": kept, "thresholds": checked_thresholds}
        _write(draft, model, choices | {"images": _listed(images)})
        _move_into_place(draft, folder)
    flush(folder.parent)


def load_bundle(folder: str | Path, *, jit_compile: bool = False) -> Bundle:
    """Check a bundle, build its network again without any download, and load the weights.

    Args:
        folder: A folder written by `save_bundle`.
        jit_compile: Whether XLA is to compile the network, once for each shape of a batch.

    Raises:
        BundleError: A missing file, a wrong sum, malformed JSON, an unknown builder, key or argument, or weights of
            another architecture.
    """
    folder = Path(folder)
    spec = _read_spec(folder)
    arguments = _complete_arguments(folder, spec["builder"], spec["arguments"])
    thresholds = _finite(folder, spec["thresholds"])
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise BundleError(f"{folder} has no {WEIGHTS_NAME}. Copy the whole bundle, or save it again.")
    if _file_sha256(weights) != spec["weights_sha256"]:
        raise BundleError(f"{weights} is not the file that {SPEC_NAME} describes (SHA-256). Copy or save it again.")
    try:
        model = _BUILDERS[spec["builder"]](**arguments, weights=None)
        model.load_weights(weights)
        model.jit_compile = jit_compile
    except UNREADABLE as error:
        cause = str(error).partition("\n")[0]
        raise BundleError(f"{folder} cannot be rebuilt: {cause} Save the bundle again from its model.") from error
    return Bundle(model, spec["builder"], arguments, thresholds, spec["versions"], _split_of(folder, spec))


@dataclass(frozen=True)
class BundleSpec:
    """The part of a bundle that can be read without building its network.

    Attributes:
        builder: "classifier" or "segmenter".
        thresholds: Named numbers chosen on validation data.
        images: The images it was trained and validated on; None if whoever saved it did not say.
    """

    builder: str
    thresholds: dict[str, float]
    images: DataSplit | None


def read_bundle_spec(folder: str | Path) -> BundleSpec:
    """Read what a bundle is, without building its network.

    Raises:
        BundleError: If the folder holds no bundle, or its spec is damaged.
    """
    folder = Path(folder)
    spec = _read_spec(folder)
    return BundleSpec(spec["builder"], _finite(folder, spec["thresholds"]), _split_of(folder, spec))


def read_data_split(folder: str | Path) -> DataSplit | None:
    """Read which images a bundle was trained and validated on, without building its network.

    Returns:
        The ids; None if whoever saved the bundle did not say.

    Raises:
        BundleError: If the folder holds no bundle, or its spec is damaged.
    """
    folder = Path(folder)
    return _split_of(folder, _read_spec(folder))


def _listed(images: DataSplit | None) -> dict[str, list[str]] | None:
    if images is None:
        return None
    return {"training": sorted(images.training), "validation": sorted(images.validation)}


def _split_of(folder: Path, spec: Mapping[str, Any]) -> DataSplit | None:
    images = spec["images"]
    if images is None:
        return None
    lists = list(images.values()) if isinstance(images, dict) and set(images) == {"training", "validation"} else [None]
    if not all(isinstance(ids, list) and all(isinstance(each, str) for each in ids) for ids in lists):
        raise BundleError(f"{folder}: images must list training and validation image ids. Save the bundle again.")
    return DataSplit(**images)


def _check_fit(folder: Path, model: keras.Model, builder: str, arguments: dict[str, Any]) -> None:
    """Refuse arguments that would rebuild another network than the one to be saved."""
    # Building to compare would cost as much as loading; the builders give each network a name that tells.
    name = "_".join(str(arguments[key]) for key in ("architecture", "backbone") if key in arguments)
    if model.name != f"{builder}_{name}":
        raise BundleError(f"{folder}: the {builder} of {name} does not fit a model named {model.name}.")
    size = arguments["image_size"]
    if model.input_shape != (None, size, size, 1):
        raise BundleError(f"{folder}: image_size={size} does not fit a model that takes {model.input_shape}.")


def _write(draft: Path, model: keras.Model, choices: dict[str, Any]) -> None:
    # A compiled model would store its optimizer too, at three times the size.
    keras.Model(model.inputs, model.outputs).save_weights(draft / WEIGHTS_NAME)
    spec = {
        "format": _FORMAT,
        **choices,
        "versions": _versions(),
        "weights_sha256": _file_sha256(draft / WEIGHTS_NAME),
    }
    spec["spec_sha256"] = _spec_sha256(spec)
    (draft / SPEC_NAME).write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
    for path in (draft / WEIGHTS_NAME, draft / SPEC_NAME, draft):
        flush(path)


def _read_spec(folder: Path) -> dict[str, Any]:
    path = folder / SPEC_NAME
    if not path.is_file():
        raise BundleError(f"{folder} has no {SPEC_NAME}: it is not a bundle. Pass a folder written by save_bundle.")
    if path.stat().st_size > _MAX_SPEC_BYTES:
        raise BundleError(f"{path} is over {_MAX_SPEC_BYTES} bytes: no spec of ours. Copy the bundle again.")
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    # A deeply nested document exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}). Copy the bundle again.") from error
    if not isinstance(spec, dict) or set(spec) != _SPEC_KEYS:
        raise BundleError(f"{path} does not have exactly the keys {sorted(_SPEC_KEYS)}. Copy the bundle again.")
    if spec["spec_sha256"] != _spec_sha256(spec):
        raise BundleError(f"{path} was changed after it was saved (SHA-256). Save the bundle again from its model.")
    if spec["format"] != _FORMAT:
        raise BundleError(f"{path} has format {spec['format']!r}; this version reads {_FORMAT}. Install a newer one.")
    if not all(isinstance(spec[key], dict) for key in ("arguments", "thresholds", "versions")):
        raise BundleError(f"{path}: arguments, thresholds and versions must be objects. Save the bundle again.")
    return spec


def _complete_arguments(folder: Path, builder: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check names and types against the builder's signature and add its defaults."""
    if builder not in tuple(_BUILDERS):
        raise BundleError(f"{folder}: unknown builder {builder!r}. Expected one of {', '.join(_BUILDERS)}.")
    parameters = inspect.signature(_BUILDERS[builder]).parameters
    types = typing.get_type_hints(_BUILDERS[builder])
    complete = {name: parameter.default for name, parameter in parameters.items() if name != "weights"}
    for name, value in arguments.items():
        if name not in complete:
            raise BundleError(f"{folder}: {builder} takes no argument {name!r}. Expected {', '.join(complete)}.")
        if isinstance(value, bool) or not isinstance(value, types[name]):
            raise BundleError(f"{folder}: {name}={value!r} should be of type {types[name]}. Correct the argument.")
        complete[name] = value
    return complete


def _finite(folder: Path, thresholds: Mapping[str, Any]) -> dict[str, float]:
    for name, value in thresholds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BundleError(f"{folder}: threshold {name!r} is {value!r}. Expected a finite number.")
    return {name: float(value) for name, value in thresholds.items()}


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        # Run from a source tree, pneumoseg itself has no installed metadata.
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _spec_sha256(spec: Mapping[str, Any]) -> str:
    """The sum of everything in a spec but the sum itself, however the file is laid out."""
    content = {key: value for key, value in spec.items() if key != "spec_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_bundle_or_empty(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if SPEC_NAME in names:  # file managers leave hidden files wherever they look
        names = {name for name in names if not is_hidden(name)}
    return names <= {SPEC_NAME, WEIGHTS_NAME}


@contextlib.contextmanager
def _temporary_sibling(folder: Path) -> Iterator[Path]:
    """A new folder on the same file system, removed at the end with whatever lies there by then."""
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move_into_place(draft: Path, folder: Path) -> None:
    """Renames `draft` to `folder`; where that exists, the two change places."""
    if not folder.exists():
        draft.rename(folder)
        return
    try:
        _exchange(draft, folder)
    except OSError:
        aside = draft.with_suffix(".old")
        folder.rename(aside)
        draft.rename(folder)
        aside.rename(draft)


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders in one step with Linux' renameat2; raises OSError where system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, TypeError, OSError) as error:
        raise OSError("this system has no renameat2") from error
    at_working_directory, rename_exchange = -100, 2
    if renameat2(at_working_directory, os.fsencode(first), at_working_directory, os.fsencode(second), rename_exchange):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
