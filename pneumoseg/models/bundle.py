"""Trained networks on disk: the arguments of the builder, the weights, the thresholds and their checksums.

A bundle is a folder with two files: `spec.json`, and the weights in a file that is named after its SHA-256 checksum.
Loading calls the builder in this package with checked arguments and fills in the weights, so nothing in a file is ever
executed. The checksums of the weights and of the spec reveal damage and careless edits. They are not a signature:
anyone who rewrites a bundle can also rewrite its checksums.
"""

import contextlib
import hashlib
import inspect
import json
import math
import os
import re
import secrets
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras

from pneumoseg.atomic_write import atomic_write, flush
from pneumoseg.identifiers import is_hidden
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.models.weights import UNREADABLE

SPEC_NAME = "spec.json"
_BUILDERS: dict[str, Callable[..., keras.Model]] = {"classifier": build_classifier, "segmenter": build_segmenter}
_PACKAGES = ("pneumoseg", "keras", "tensorflow", "segmentation-models", "efficientnet")
_FORMAT = 2
_SPEC_KEYS = {"format", "builder", "arguments", "thresholds", "images", "versions", "weights_sha256", "spec_sha256"}
_MAX_SPEC_BYTES = 100_000_000  # a million image ids take about 60 MB
_SHA256 = re.compile("[0-9a-f]{64}")
# The files of a bundle, and those that a killed save leaves behind.
_BUNDLE_FILE = re.compile(r"spec\.json|\.spec\.json\.\d+\.[0-9a-f]{8}|\.?[0-9a-f]{64}\.weights\.h5")


class BundleError(ValueError):
    """Raised if a bundle cannot be written or read; the message names the folder and the remedy."""


@dataclass(frozen=True)
class DataSplit:
    """The image ids that a network was trained and validated on.

    Attributes:
        training: Ids of the images that the weights were fitted to, including those of the network that the training
            started from.
        validation: Ids of the images that chose the epoch and the threshold; none of them is in `training`.

    Example:
        >>> DataSplit({"a", "b"}, {"c"}) | DataSplit({"c"}, {"d"}) == DataSplit({"a", "b", "c"}, {"d"})
        True
    """

    training: frozenset[str]
    validation: frozenset[str]

    def __init__(self, training: Iterable[str] = (), validation: Iterable[str] = ()) -> None:
        """Create a split from two iterables of ids; an id in both counts as training."""
        object.__setattr__(self, "training", frozenset(training))
        object.__setattr__(self, "validation", frozenset(validation) - self.training)

    def __or__(self, other: "DataSplit") -> "DataSplit":
        """Return the split of two networks that work together; images that either was trained on count as training."""
        return DataSplit(self.training | other.training, self.validation | other.validation)


@dataclass(frozen=True)
class Bundle:
    """A network loaded by `load_bundle`.

    Attributes:
        model: The network with its trained weights, not compiled, with XLA off unless requested.
        builder: "classifier" or "segmenter".
        arguments: Arguments of the builder, without `weights`.
        thresholds: Named numbers chosen on validation data, such as `{"probability": 0.5}`.
        versions: Versions of the packages that the bundle was written with.
        images: Ids of the images that the network was trained and validated on, or None if they were not recorded.
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
    """Write a bundle, replacing the bundle in the folder if there is one.

    The bundle is written whole or not at all. The weights are written first, under a name of their own. `spec.json`
    then replaces the old one in a single step, and the old weights are removed. After an error or a crash the old
    bundle is still there; the next save removes what a crash has left. Only one process at a time may save to a folder.

    Args:
        folder: Folder to write. If it holds other files than those of a bundle, nothing is written.
        model: Network built by `build_classifier` or `build_segmenter`. The optimizer of a compiled model is not saved.
        builder: "classifier" or "segmenter".
        arguments: Arguments of the builder. Missing ones get the builder's defaults, `weights` is ignored.
        thresholds: Named finite numbers to store with the network.
        images: Ids of the images that the network was trained and validated on.

    Raises:
        BundleError: If the builder or an argument is unknown, an argument has the wrong type or does not fit the model,
            a threshold is not a finite number, or the folder holds other files.

    Example:
        >>> arguments = {"backbone": "compact", "image_size": 64}
        >>> model = build_classifier(**arguments, weights=None)  # doctest: +SKIP
        >>> save_bundle("best", model, "classifier", arguments, {"probability": 0.5})  # doctest: +SKIP
    """
    folder = Path(os.path.realpath(folder))
    kept = _complete_arguments(folder, builder, {k: v for k, v in arguments.items() if k != "weights"})
    checked_thresholds = _finite(folder, thresholds or {})
    _check_fit(folder, model, builder, kept)
    if folder.exists() and not _is_bundle_or_empty(folder):
        raise BundleError(f"{folder} holds other files than those of a bundle: choose another folder or empty this one")
    folder.mkdir(parents=True, exist_ok=True)
    choices = {"builder": builder, "arguments": kept, "thresholds": checked_thresholds, "images": _listed(images)}
    try:
        _write(folder, model, choices)
    finally:
        _remove_leftovers(folder)
    flush(folder.parent)


def load_bundle(folder: str | Path, *, jit_compile: bool = False) -> Bundle:
    """Check a bundle, rebuild its network without any download, and load the weights.

    Args:
        folder: Folder written by `save_bundle`.
        jit_compile: Whether XLA compiles the network, once for each shape of a batch.

    Returns:
        The network and everything that was saved with it.

    Raises:
        BundleError: If a file is missing, a checksum is wrong, the spec is not valid JSON, the builder, a key or an
            argument is unknown, or the weights belong to another architecture.

    Example:
        >>> bundle = load_bundle("best")  # doctest: +SKIP
        >>> bundle.builder, bundle.thresholds  # doctest: +SKIP
        ('classifier', {'probability': 0.5})
    """
    folder = Path(folder)
    spec = _read_spec(folder)
    arguments = _complete_arguments(folder, spec["builder"], spec["arguments"])
    thresholds = _finite(folder, spec["thresholds"])
    weights = folder / _weights_name(spec["weights_sha256"])
    if not weights.is_file():
        raise BundleError(f"{folder} has no {weights.name}: copy the whole bundle, or save it again")
    if _file_sha256(weights) != spec["weights_sha256"]:
        raise BundleError(f"{weights} is not the file that {SPEC_NAME} describes (SHA-256): copy or save it again")
    try:
        model = _BUILDERS[spec["builder"]](**arguments, weights=None)
        model.load_weights(weights)
        model.jit_compile = jit_compile
    except UNREADABLE as error:
        cause = str(error).partition("\n")[0].rstrip(".")
        raise BundleError(f"{folder} cannot be rebuilt ({cause}): save the bundle again from its model") from error
    return Bundle(model, spec["builder"], arguments, thresholds, spec["versions"], _split_of(folder, spec))


def is_bundle(folder: str | Path) -> bool:
    """Return whether a folder looks like a bundle, which `load_bundle` may still find damaged."""
    return (Path(folder) / SPEC_NAME).is_file()


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
        raise BundleError(f"{folder}: images must list training and validation image ids: save the bundle again")
    return DataSplit(**images)


def _check_fit(folder: Path, model: keras.Model, builder: str, arguments: dict[str, Any]) -> None:
    """Raise an error if the arguments would rebuild another network than the one to save."""
    # Building a network to compare it would take as long as loading one. The builders name each network distinctly.
    name = "_".join(str(arguments[key]) for key in ("architecture", "backbone") if key in arguments)
    if model.name != f"{builder}_{name}":
        raise BundleError(f"{folder}: the {builder} of {name} does not fit a model named {model.name}")
    size = arguments["image_size"]
    if model.input_shape != (None, size, size, 1):
        raise BundleError(f"{folder}: image_size={size} does not fit a model that takes {model.input_shape}")


def _write(folder: Path, model: keras.Model, choices: dict[str, Any]) -> None:
    draft = folder / f".{secrets.token_hex(32)}.weights.h5"
    # A compiled model would also store its optimizer, at three times the size.
    keras.Model(model.inputs, model.outputs).save_weights(draft)
    flush(draft)
    checksum = _file_sha256(draft)
    spec = {"format": _FORMAT, **choices, "versions": _versions(), "weights_sha256": checksum}
    spec["spec_sha256"] = _spec_sha256(spec)
    with atomic_write(folder / SPEC_NAME) as temporary:
        temporary.write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
        draft.replace(folder / _weights_name(checksum))
        flush(folder)  # the weights must reach the disk before the spec that names them
    flush(folder)


def _weights_name(checksum: str) -> str:
    return f"{checksum}.weights.h5"


def _remove_leftovers(folder: Path) -> None:
    """Remove weights that `spec.json` does not name, drafts, and the folder itself if it is empty."""
    spec = folder / SPEC_NAME
    text = spec.read_text(encoding="utf-8", errors="replace") if spec.is_file() else ""
    for path in folder.iterdir():
        unused = is_hidden(path.name) or path.name.partition(".")[0] not in text
        if path != spec and unused and _BUNDLE_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _read_spec(folder: Path) -> dict[str, Any]:
    path = folder / SPEC_NAME
    if not path.is_file():
        raise BundleError(f"{folder} has no {SPEC_NAME}, so it is not a bundle: pass a folder written by save_bundle")
    if path.stat().st_size > _MAX_SPEC_BYTES:
        raise BundleError(f"{path} has over {_MAX_SPEC_BYTES} bytes, so it is not a spec: copy the bundle again")
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    # A deeply nested document exhausts the stack of the parser.
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}): copy the bundle again") from error
    if not isinstance(spec, dict) or set(spec) != _SPEC_KEYS:
        raise BundleError(f"{path} does not have exactly the keys {sorted(_SPEC_KEYS)}: copy the bundle again")
    if spec["spec_sha256"] != _spec_sha256(spec):
        raise BundleError(f"{path} was changed after it was saved (SHA-256): save the bundle again from its model")
    if spec["format"] != _FORMAT:
        raise BundleError(
            f"{path} has format {spec['format']!r}, and this version of pneumoseg reads {_FORMAT}: install a newer one"
        )
    if not all(isinstance(spec[key], dict) for key in ("arguments", "thresholds", "versions")):
        raise BundleError(f"{path}: arguments, thresholds and versions must be objects: save the bundle again")
    if not isinstance(spec["weights_sha256"], str) or not _SHA256.fullmatch(spec["weights_sha256"]):
        raise BundleError(f"{path}: weights_sha256 must be 64 hexadecimal digits: save the bundle again")
    return spec


def _complete_arguments(folder: Path, builder: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check the names and types of arguments against the builder's signature, and add its defaults."""
    if builder not in tuple(_BUILDERS):
        raise BundleError(f"{folder}: unknown builder {builder!r}, expected one of {', '.join(_BUILDERS)}")
    parameters = inspect.signature(_BUILDERS[builder]).parameters
    types = typing.get_type_hints(_BUILDERS[builder])
    complete = {name: parameter.default for name, parameter in parameters.items() if name != "weights"}
    for name, value in arguments.items():
        if name not in complete:
            raise BundleError(f"{folder}: {builder} takes no argument {name!r}, expected {', '.join(complete)}")
        if isinstance(value, bool) or not isinstance(value, types[name]):
            raise BundleError(f"{folder}: {name}={value!r} should be of type {types[name]}")
        complete[name] = value
    return complete


def _finite(folder: Path, thresholds: Mapping[str, Any]) -> dict[str, float]:
    for name, value in thresholds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BundleError(f"{folder}: threshold {name!r} is {value!r}, expected a finite number")
    return {name: float(value) for name, value in thresholds.items()}


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        # pneumoseg has no installed metadata if it runs from a source tree.
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _spec_sha256(spec: Mapping[str, Any]) -> str:
    """Return the checksum of a spec without its own checksum, independent of the layout of the file."""
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
    if SPEC_NAME in names:  # file managers leave hidden files in every folder that they open
        names = {name for name in names if not is_hidden(name)}
    return all(_BUNDLE_FILE.fullmatch(name) for name in names)
