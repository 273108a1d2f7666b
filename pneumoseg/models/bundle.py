"""Trained networks on disk: the arguments of the builder, the weights, the thresholds and their checksums.

A bundle is a folder with two files: `spec.json`, and the weights in a file that is named after its SHA-256 checksum.
Loading calls the builder in this package with checked arguments and fills in the weights, so nothing in a file is ever
executed. The checksums of the weights and of the spec reveal damage and careless edits. They are not a signature:
anyone who rewrites a bundle can also rewrite its checksums.
"""

import contextlib
import inspect
import json
import os
import re
import secrets
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras

from pneumoseg.atomic_write import atomic_write, flush
from pneumoseg.checksums import content_sha256, file_sha256
from pneumoseg.identifiers import is_hidden
from pneumoseg.models.bundle_spec import (
    FORMAT,
    SPEC_NAME,
    SPEC_SUM,
    BundleError,
    DataSplit,
    finite_thresholds,
    read_spec,
    split_of,
)
from pneumoseg.models.classifier import build_classifier
from pneumoseg.models.segmenter import build_segmenter
from pneumoseg.models.weights import UNREADABLE
from pneumoseg.xla import uses_xla

_BUILDERS: dict[str, Callable[..., keras.Model]] = {"classifier": build_classifier, "segmenter": build_segmenter}
# The saved weights replace the initial ones, so no time is spent on drawing those.
_QUICK_INITIALIZERS = dict.fromkeys(("glorot_uniform", "he_normal", "he_uniform"), keras.initializers.Zeros)
_PACKAGES = ("pneumoseg", "keras", "tensorflow", "segmentation-models", "efficientnet")
# The files of a bundle, and those that a killed save leaves behind.
_BUNDLE_FILE = re.compile(r"spec\.json|\.spec\.json\.\d+\.[0-9a-f]{8}|\.?[0-9a-f]{64}\.weights\.h5")


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
    checked_thresholds = finite_thresholds(folder, thresholds or {})
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
    spec = read_spec(folder)
    arguments = _complete_arguments(folder, spec["builder"], spec["arguments"])
    thresholds = finite_thresholds(folder, spec["thresholds"])
    weights = folder / _weights_name(spec["weights_sha256"])
    if not weights.is_file():
        raise BundleError(f"{folder} has no {weights.name}: copy the whole bundle, or save it again")
    if file_sha256(weights) != spec["weights_sha256"]:
        raise BundleError(f"{weights} is not the file that {SPEC_NAME} describes (SHA-256): copy or save it again")
    try:
        with keras.utils.custom_object_scope(_QUICK_INITIALIZERS):
            model = _BUILDERS[spec["builder"]](**arguments, weights=None)
        model.load_weights(weights)
        model.jit_compile = uses_xla(jit_compile)
    except UNREADABLE as error:
        cause = str(error).partition("\n")[0].rstrip(".")
        raise BundleError(f"{folder} cannot be rebuilt ({cause}): save the bundle again from its model") from error
    return Bundle(model, spec["builder"], arguments, thresholds, spec["versions"], split_of(folder, spec))


def _listed(images: DataSplit | None) -> dict[str, list[str]] | None:
    if images is None:
        return None
    return {"training": sorted(images.training), "validation": sorted(images.validation)}


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
    checksum = file_sha256(draft)
    spec = {"format": FORMAT, **choices, "versions": _versions(), "weights_sha256": checksum}
    spec[SPEC_SUM] = content_sha256(spec, SPEC_SUM)
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


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        # pneumoseg has no installed metadata if it runs from a source tree.
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _is_bundle_or_empty(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if SPEC_NAME in names:  # file managers leave hidden files in every folder that they open
        names = {name for name in names if not is_hidden(name)}
    return all(_BUNDLE_FILE.fullmatch(name) for name in names)
