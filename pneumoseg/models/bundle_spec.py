"""The part of a bundle that can be read without building its network: `spec.json`, and so without Keras."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumoseg.checksums import content_sha256

SPEC_NAME = "spec.json"
SPEC_SUM = "spec_sha256"
"""Key of the spec's own checksum."""
FORMAT = 2
_SPEC_KEYS = {"format", "builder", "arguments", "thresholds", "images", "versions", "weights_sha256", SPEC_SUM}
_MAX_SPEC_BYTES = 100_000_000  # a million image ids take about 60 MB
_SHA256 = re.compile("[0-9a-f]{64}")


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
    spec = read_spec(folder)
    return BundleSpec(spec["builder"], finite_thresholds(folder, spec["thresholds"]), split_of(folder, spec))


def read_spec(folder: Path) -> dict[str, Any]:
    """Read the whole spec of a bundle, and check it against its own checksum.

    Raises:
        BundleError: If it is missing, damaged or edited.
    """
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
    if spec[SPEC_SUM] != content_sha256(spec, SPEC_SUM):
        raise BundleError(f"{path} was changed after it was saved (SHA-256): save the bundle again from its model")
    if spec["format"] != FORMAT:
        raise BundleError(
            f"{path} has format {spec['format']!r}, and this version of pneumoseg reads {FORMAT}: install a newer one"
        )
    if not all(isinstance(spec[key], dict) for key in ("arguments", "thresholds", "versions")):
        raise BundleError(f"{path}: arguments, thresholds and versions must be objects: save the bundle again")
    if not isinstance(spec["weights_sha256"], str) or not _SHA256.fullmatch(spec["weights_sha256"]):
        raise BundleError(f"{path}: weights_sha256 must be 64 hexadecimal digits: save the bundle again")
    return spec


def split_of(folder: Path, spec: Mapping[str, Any]) -> DataSplit | None:
    """Return the images that a spec lists; None if it lists none.

    Raises:
        BundleError: If they are not two lists of ids.
    """
    images = spec["images"]
    if images is None:
        return None
    lists = list(images.values()) if isinstance(images, dict) and set(images) == {"training", "validation"} else [None]
    if not all(isinstance(ids, list) and all(isinstance(each, str) for each in ids) for ids in lists):
        raise BundleError(f"{folder}: images must list training and validation image ids: save the bundle again")
    return DataSplit(**images)


def finite_thresholds(folder: Path, thresholds: Mapping[str, Any]) -> dict[str, float]:
    """Return thresholds as floats.

    Raises:
        BundleError: If one is not a finite number.
    """
    for name, value in thresholds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BundleError(f"{folder}: threshold {name!r} is {value!r}, expected a finite number")
    return {name: float(value) for name, value in thresholds.items()}
