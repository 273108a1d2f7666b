"""A pipeline on disk: the bundles, how they are joined, and the rule that was chosen for them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras

from pneumoseg.atomic_write import atomic_write
from pneumoseg.decision import DecisionRule
from pneumoseg.device import announce_device
from pneumoseg.identifiers import is_hidden
from pneumoseg.inference.pipeline import Pipeline
from pneumoseg.models.bundle import SPEC_NAME, Bundle, BundleError, load_bundle

_JOINT = "pipeline.json"
_TUNING = "tuning.json"
_KINDS = ("classifier", "segmenter")
_SCORES = ("images", "positives", "mean_dice", "mean_dice_before", "baseline")


@dataclass(frozen=True)
class Tuning:
    """A rule chosen on validation images, and on which ones, so that no score is reported on them.

    Attributes:
        rule: The chosen numbers.
        image_ids: The images it was chosen on.
        patient_ids: Their patients, where they are known.
        scores: What the choice rests on: `images`, `positives`, and mean Dice on them with this rule (`mean_dice`), the
            rule before (`mean_dice_before`) and the all-empty baseline (`baseline`).
    """

    rule: DecisionRule
    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class PipelineFolder:
    """What can be known of a pipeline's folder without building its networks.

    Attributes:
        assembled: The rule it was assembled with.
        tuning: The rule that was chosen for it later; None if there is none.
        flip: See `Pipeline`.
        networks: SHA-256 of each bundle's spec, which holds its weights' own, by the bundle's folder: "classifier_1"
            and so on.
    """

    assembled: DecisionRule
    tuning: Tuning | None
    flip: bool
    networks: dict[str, str]

    @property
    def rule(self) -> DecisionRule:
        """The one in force."""
        return self.assembled if self.tuning is None else self.tuning.rule

    @classmethod
    def read(cls, folder: str | Path) -> "PipelineFolder":
        """Read what `assemble_pipeline` and `save_tuning` wrote.

        Raises:
            BundleError: If something is missing or damaged.
        """
        folder = Path(folder)
        joint = _read_json(folder / _JOINT)
        try:
            counts = {kind: joint.pop(f"{kind}s") for kind in _KINDS}
            flip = joint.pop("flip")
            if type(flip) is not bool or not all(type(n) is int and 0 < n < 1000 for n in counts.values()):
                raise ValueError("expected classifiers and segmenters, whole numbers from 1, and flip, true or false")
            assembled = DecisionRule.from_numbers(joint)
        except (ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{folder / _JOINT}: {error!r}; assemble the pipeline anew") from error
        names = [f"{kind}_{number}" for kind, count in counts.items() for number in range(1, count + 1)]
        return cls(assembled, _read_tuning(folder / _TUNING), flip, {name: _sum_of(folder / name) for name in names})

    def bundles(self, kind: str) -> list[str]:
        """The names of the bundles of one kind, "classifier" or "segmenter"."""
        return [name for name in self.networks if name.startswith(kind)]


def load_pipeline(
    folder: str | Path, batch_size: int = 4, *, assembled: bool = False, jit_compile: bool = False
) -> Pipeline:
    """Load a pipeline that `assemble_pipeline` wrote, with the rule that was tuned for it, if any.

    Logs on what it will predict, see `device`.

    Args:
        folder: Holds `pipeline.json`, the bundles `classifier_1/` and so on, and `tuning.json` if it was tuned.
        batch_size: Images a batch, in both stages.
        assembled: Whether to keep to the rule it was assembled with, even if another was tuned.
        jit_compile: Whether XLA is to compile the networks: minutes at first, for full batches alone.

    Raises:
        BundleError: If something is missing, damaged or changed.
    """
    record = PipelineFolder.read(folder)
    if assembled:
        record = replace(record, tuning=None)
    announce_device(keras.config.dtype_policy().name, jit_compile)
    classifiers, segmenters = (
        [_bundle_of(Path(folder) / name, kind, jit_compile).model for name in record.bundles(kind)] for kind in _KINDS
    )
    chosen = "as assembled"
    if record.tuning is not None:
        chosen = f"on {len(record.tuning.image_ids)} images, mean Dice there {record.tuning.scores['mean_dice']:.3f}"
    origin = {"folder": str(folder), "rule chosen": chosen}
    return Pipeline(classifiers, segmenters, record.rule, record.flip, batch_size, record.networks, origin)


def assemble_pipeline(
    classifiers: str | Path | Sequence[str | Path],
    segmenters: str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    classifier_threshold: float | None = None,
    mask_threshold: float | None = None,
    minimum_area: float = 3500,
    flip: bool = False,
) -> None:
    """Put bundles and the deciding numbers into one folder that `load_pipeline` reads.

    Args:
        classifiers: The classifier's bundle, or several, whose probabilities are averaged, such as those of folds.
        segmenters: Likewise.
        folder: Replaced if it holds a pipeline, with what was tuned for that one.
        classifier_threshold: None takes the one in the bundle, the mean of several; likewise `mask_threshold`.
        mask_threshold: See `DecisionRule`.
        minimum_area: See `DecisionRule`.
        flip: See `Pipeline`.

    Raises:
        BundleError: If a bundle is missing, damaged, changed, or of the other network, or has no threshold.
        FileExistsError: If the folder holds anything but a pipeline.
        ValueError: If a number is out of its range, or segmenters are of several image sizes.
    """
    folder = Path(folder)
    if folder.exists() and not _is_pipeline(folder):
        raise FileExistsError(f"{folder} exists and holds something else than a pipeline: choose another folder")
    sources = {"classifier": _several(classifiers), "segmenter": _several(segmenters)}
    bundles = {kind: [_bundle_of(path, kind) for path in paths] for kind, paths in sources.items()}
    thresholds = {
        kind: _threshold(sources[kind], bundles[kind], chosen)
        for kind, chosen in zip(_KINDS, (classifier_threshold, mask_threshold), strict=True)
    }
    rule = DecisionRule(thresholds["classifier"], thresholds["segmenter"], minimum_area)
    networks = {kind: [bundle.model for bundle in several] for kind, several in bundles.items()}
    Pipeline(networks["classifier"], networks["segmenter"], rule, flip)  # refuses what does not fit together
    joint = {f"{kind}s": len(paths) for kind, paths in sources.items()} | {"flip": flip} | asdict(rule)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / "whole"
        for kind, paths in sources.items():
            for number, path in enumerate(paths, start=1):
                shutil.copytree(path, whole / f"{kind}_{number}")
        (whole / _JOINT).write_text(json.dumps(joint, indent=2), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        whole.rename(folder)


def save_tuning(folder: str | Path, tuning: Tuning) -> None:
    """Write a chosen rule into a pipeline's folder, with the data it was chosen on; `load_pipeline` uses it then.

    Raises:
        BundleError: If the folder holds no pipeline.
    """
    _read_json(Path(folder) / _JOINT)
    content = {
        "rule": asdict(tuning.rule),
        "scores": dict(tuning.scores),
        "image_ids": list(tuning.image_ids),
        "patient_ids": list(tuning.patient_ids),
    }
    with atomic_write(Path(folder) / _TUNING) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _several(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    several = [paths] if isinstance(paths, str | Path) else paths
    if not several:
        raise ValueError("a pipeline needs a classifier and a segmenter, got no bundle of one of them")
    return [Path(path) for path in several]


def _is_pipeline(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not is_hidden(path.name)} - {_JOINT, _TUNING}
    return (folder / _JOINT).is_file() and all(name.rpartition("_")[0] in _KINDS for name in names)


def _bundle_of(folder: Path, kind: str, jit_compile: bool = False) -> Bundle:
    bundle = load_bundle(folder, jit_compile=jit_compile)
    if bundle.builder != kind:
        raise BundleError(f"{folder}: holds a {bundle.builder}, expected a {kind}")
    return bundle


def _threshold(folders: Iterable[Path], bundles: Sequence[Bundle], chosen: float | None) -> float:
    if chosen is not None:
        return chosen
    for folder, bundle in zip(folders, bundles, strict=True):
        if "probability" not in bundle.thresholds:
            raise BundleError(f"{folder}: holds no threshold named probability; choose one")
    return sum(bundle.thresholds["probability"] for bundle in bundles) / len(bundles)


def _sum_of(bundle: Path) -> str:
    try:
        return hashlib.sha256((bundle / SPEC_NAME).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{bundle} has no {SPEC_NAME}: assemble the pipeline anew") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent}: no pipeline, it has no {path.name}; make one with `pneumoseg assemble`"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {error}; assemble the pipeline anew") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: holds no object; assemble the pipeline anew")
    return content


def _read_tuning(path: Path) -> Tuning | None:
    if not path.exists():
        return None
    content = _read_json(path)
    try:
        rule = DecisionRule.from_numbers(content["rule"])
        scores = {name: float(content["scores"][name]) for name in _SCORES}
        images, patients = (tuple(content[name]) for name in ("image_ids", "patient_ids"))
        if not all(type(name) is str for name in images + patients) or not isinstance(content["image_ids"], list):
            raise ValueError("expected image_ids and patient_ids, lists of text")
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: {error!r}; tune the pipeline anew, or remove the file") from error
    return Tuning(rule, images, patients, scores)
