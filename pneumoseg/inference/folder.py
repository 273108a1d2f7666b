"""Pipelines on disk: the bundles, how they are joined, and the decision rule chosen for them."""

import functools
import json
import logging
import operator
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoseg.atomic_write import atomic_write
from pneumoseg.checksums import file_sha256
from pneumoseg.decision import DecisionRule
from pneumoseg.engines import Engine, Network
from pneumoseg.engines.export_record import EXPORTS
from pneumoseg.engines.exports import export_names, load_export
from pneumoseg.identifiers import is_hidden
from pneumoseg.inference.pipeline import Pipeline
from pneumoseg.models.bundle_spec import SPEC_NAME, BundleError, BundleSpec, DataSplit, read_bundle_spec

if TYPE_CHECKING:
    from pneumoseg.models.bundle import Bundle

_log = logging.getLogger(__name__)
_ASSEMBLED = "pipeline.json"
_TUNING = "tuning.json"
_RUNS = "runs"
_KINDS = ("classifier", "segmenter")
_SCORES = ("images", "positives", "mean_dice", "mean_dice_before", "baseline")


@dataclass(frozen=True)
class Tuning:
    """A decision rule chosen on validation images, and the ids of these images, so that they are never scored.

    Attributes:
        rule: The chosen numbers.
        image_ids: The images that the rule was chosen on.
        patient_ids: The patients of these images, where they are known.
        scores: The number of `images` and of `positives`, and the mean Dice on them with this rule (`mean_dice`), with
            the rule before it (`mean_dice_before`) and with all masks empty (`baseline`).
    """

    rule: DecisionRule
    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class PipelineFolder:
    """The content of a pipeline's folder that can be read without building the networks.

    Attributes:
        assembled: The decision rule that the pipeline was assembled with.
        tuning: The rule that was chosen for it later; None if there is none.
        flip: See `Pipeline`.
        networks: SHA-256 of each bundle's spec, which contains the SHA-256 of its weights, by the name of the bundle's
            folder: "classifier_1" and so on.
        specs: What each bundle is and which images it was trained on, by the same names.
        runs: Folders with the histories and scores of the runs that trained the networks.
    """

    assembled: DecisionRule
    tuning: Tuning | None
    flip: bool
    networks: dict[str, str]
    specs: dict[str, BundleSpec]
    runs: tuple[Path, ...] = ()

    @property
    def rule(self) -> DecisionRule:
        """The decision rule in force."""
        return self.assembled if self.tuning is None else self.tuning.rule

    @classmethod
    def read(cls, folder: str | Path, *, assembled: bool = False) -> "PipelineFolder":
        """Read a folder that `assemble_pipeline` wrote, with the rule that `save_tuning` may have added.

        Args:
            folder: Folder of the pipeline.
            assembled: Whether to ignore the tuned rule.

        Raises:
            BundleError: If a file is missing or damaged.
        """
        folder = Path(folder)
        joint = _read_json(folder / _ASSEMBLED)
        try:
            counts = {kind: joint.pop(f"{kind}s") for kind in _KINDS}
            flip = joint.pop("flip")
            if type(flip) is not bool or not all(type(n) is int and 0 < n < 1000 for n in counts.values()):
                raise ValueError("expected classifiers and segmenters, whole numbers from 1, and flip, true or false")
            rule = DecisionRule.from_numbers(joint)
        except (ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{folder / _ASSEMBLED}: {error!r}; assemble the pipeline again") from error
        names = [f"{kind}_{number}" for kind, count in counts.items() for number in range(1, count + 1)]
        sums = {name: _sum_of(folder / name) for name in names}
        specs = {name: read_bundle_spec(folder / name) for name in names}
        runs = sorted(path for path in (folder / _RUNS).glob("*") if path.is_dir() and not is_hidden(path.name))
        tuning = None if assembled else _read_tuning(folder / _TUNING)
        return cls(rule, tuning, flip, sums, specs, tuple(runs))

    def bundles(self, kind: str) -> list[str]:
        """Return the names of the bundles of one kind, "classifier" or "segmenter"."""
        return [name for name in self.networks if name.startswith(kind)]

    def images(self, kind: str = "") -> DataSplit:
        """Return the images that the networks of one kind, or all networks, were trained and validated on.

        An image that one network was trained on and another was validated on counts as trained on.
        """
        known = [self.specs[name].images for name in self.bundles(kind)]
        return functools.reduce(operator.or_, filter(None, known), DataSplit())

    @property
    def unrecorded(self) -> list[str]:
        """Names of the bundles that do not record which images they were trained on."""
        return [name for name, spec in self.specs.items() if spec.images is None]


def load_pipeline(
    folder: str | Path,
    batch_size: int = 4,
    *,
    assembled: bool = False,
    jit_compile: bool = False,
    engine: str = "keras",
) -> Pipeline:
    """Load a pipeline that `assemble_pipeline` wrote, with the decision rule that was tuned for it, if any.

    Logs the device that it will run on, see `pneumoseg.device`, and warns if an export may decide otherwise than Keras.
    Only the engine Keras imports TensorFlow.

    Args:
        folder: Folder with `pipeline.json`, the bundles `classifier_1/` and so on, and `tuning.json` if it was tuned.
        batch_size: Number of images per batch, in both stages.
        assembled: Whether to use the rule that the pipeline was assembled with, even if another was tuned.
        jit_compile: Whether XLA compiles the networks. The first full batch then takes minutes.
        engine: "keras"; "openvino" or "onnx" for the pipeline's only export for it; or the name of one of its exports,
            such as "openvino-int8", see `pneumoseg export`.

    Raises:
        BundleError: If a file is missing, damaged or changed.
        ExportError: If there is no such export, it was changed or is of other networks, or its library is missing.
        ValueError: If no engine has this name, or XLA is asked for with another engine than Keras.

    Example:
        >>> pipeline = load_pipeline("runs/pipeline")  # doctest: +SKIP
        >>> pipeline.predict("chest.dcm").has_pneumothorax  # doctest: +SKIP
        True
    """
    if jit_compile and engine != "keras":
        raise ValueError(f"jit_compile is for the engine Keras, and the engine is {engine}: choose one of them")
    record = PipelineFolder.read(folder, assembled=assembled)
    if engine == "keras":
        networks, computed = _keras_networks(Path(folder), record, batch_size, jit_compile), Engine()
    else:
        decision = {"rule": asdict(record.rule), "flip": record.flip}
        networks, computed = load_export(folder, engine, record.networks, batch_size, decision)
    classifiers, segmenters = ([networks[name] for name in record.bundles(kind)] for kind in _KINDS)
    chosen = "as assembled"
    if record.tuning is not None:
        chosen = f"on {len(record.tuning.image_ids)} images, mean Dice there {record.tuning.scores['mean_dice']:.3f}"
    origin = {"folder": str(folder), "rule chosen": chosen}
    if record.unrecorded:
        _log.warning(
            f"NOT CHECKED: {folder}: {', '.join(record.unrecorded)} does not record which images it was trained on. If "
            "these are scored, the scores are too good"
        )
    return Pipeline(
        classifiers,
        segmenters,
        record.rule,
        record.flip,
        batch_size,
        record.networks,
        origin,
        record.images().training,
        computed,
    )


def assemble_pipeline(
    classifiers: str | Path | Sequence[str | Path],
    segmenters: str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    classifier_threshold: float | None = None,
    mask_threshold: float | None = None,
    minimum_area: float = 3500,
    flip: bool = False,
    records: Mapping[str, Path] | None = None,
) -> None:
    """Write a pipeline: copies of the bundles and the decision rule, in one folder that `load_pipeline` reads.

    Args:
        classifiers: Bundle of the classifier, or several whose probabilities are averaged, such as those of folds.
        segmenters: Bundle of the segmenter, or several whose probability maps are averaged.
        folder: Folder to write. A pipeline in it is replaced, together with the rule tuned for it and its exports.
        classifier_threshold: Threshold of the classifier in [0, 1]; None takes the mean of the bundles' thresholds.
        mask_threshold: Threshold of the mask in [0, 1]; None takes the mean of the bundles' thresholds.
        minimum_area: Area of the smallest component kept, in pixels on a 1024 x 1024 grid.
        flip: Whether the pipeline averages over the mirrored image.
        records: Files of the runs that trained the networks, to be copied along for reports, by their path below
            `runs/` in the pipeline's folder, such as "my_classifier/history.csv".

    Raises:
        BundleError: If a bundle is missing, damaged or changed, holds the other network, or has no threshold.
        FileExistsError: If the folder holds anything but a pipeline.
        ValueError: If a number is out of its range, or the segmenters have different image sizes.

    Example:
        >>> assemble_pipeline("runs/xception/best", "runs/fpn/swa", "runs/pipeline")  # doctest: +SKIP
    """
    from pneumoseg.engines.keras_network import KerasNetwork

    folder = Path(folder)
    if folder.exists() and not _is_pipeline(folder):
        raise FileExistsError(f"{folder} exists and does not hold a pipeline: choose another folder")
    sources = {"classifier": _several(classifiers, "classifier"), "segmenter": _several(segmenters, "segmenter")}
    bundles = {kind: [_bundle_of(path, kind) for path in paths] for kind, paths in sources.items()}
    thresholds = {
        kind: _threshold(sources[kind], bundles[kind], chosen)
        for kind, chosen in zip(_KINDS, (classifier_threshold, mask_threshold), strict=True)
    }
    rule = DecisionRule(thresholds["classifier"], thresholds["segmenter"], minimum_area)
    networks = {kind: [KerasNetwork(bundle.model) for bundle in several] for kind, several in bundles.items()}
    Pipeline(networks["classifier"], networks["segmenter"], rule, flip)  # refuses what does not fit together
    joint = {f"{kind}s": len(paths) for kind, paths in sources.items()} | {"flip": flip} | asdict(rule)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / "whole"
        for kind, paths in sources.items():
            for number, path in enumerate(paths, start=1):
                shutil.copytree(path, whole / f"{kind}_{number}")
        for name, source in (records or {}).items():
            (whole / _RUNS / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, whole / _RUNS / name)
        (whole / _ASSEMBLED).write_text(json.dumps(joint, indent=2), encoding="utf-8")
        if folder.exists():
            if names := export_names(folder):
                _log.warning(f"{folder}: its exports were of the networks before: {', '.join(names)}; export it again")
            folder.rename(Path(temporary) / "replaced")
        whole.rename(folder)


def save_tuning(folder: str | Path, tuning: Tuning) -> None:
    """Write a chosen rule and the ids of its images into a pipeline's folder, where `load_pipeline` finds it.

    Raises:
        BundleError: If the folder holds no pipeline.
    """
    _read_json(Path(folder) / _ASSEMBLED)
    content = {
        "rule": asdict(tuning.rule),
        "scores": dict(tuning.scores),
        "image_ids": list(tuning.image_ids),
        "patient_ids": list(tuning.patient_ids),
    }
    with atomic_write(Path(folder) / _TUNING) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _several(paths: str | Path | Sequence[str | Path], kind: str) -> list[Path]:
    several = [paths] if isinstance(paths, str | Path) else paths
    if not several:
        raise ValueError(f"a pipeline needs a classifier and a segmenter, got no {kind}: name a run or a bundle of one")
    return [Path(path) for path in several]


def _is_pipeline(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not is_hidden(path.name)} - {_ASSEMBLED, _TUNING, _RUNS, EXPORTS}
    return (folder / _ASSEMBLED).is_file() and all(name.rpartition("_")[0] in _KINDS for name in names)


def _keras_networks(folder: Path, record: PipelineFolder, batch_size: int, jit_compile: bool) -> "dict[str, Network]":
    """Load the bundles, which imports TensorFlow."""
    import keras

    from pneumoseg.device import announce_device
    from pneumoseg.engines.keras_network import KerasNetwork
    from pneumoseg.xla import uses_xla

    announce_device(keras.config.dtype_policy().name, jit_compile)
    full_batch = batch_size if uses_xla(jit_compile) else None
    return {
        name: KerasNetwork(_bundle_of(folder / name, kind, jit_compile).model, full_batch)
        for kind in _KINDS
        for name in record.bundles(kind)
    }


def _bundle_of(folder: Path, kind: str, jit_compile: bool = False) -> "Bundle":
    from pneumoseg.models.bundle import load_bundle

    bundle = load_bundle(folder, jit_compile=jit_compile)
    if bundle.builder != kind:
        raise BundleError(f"{folder}: holds a {bundle.builder}, expected a {kind}")
    return bundle


def _threshold(folders: Iterable[Path], bundles: "Sequence[Bundle]", chosen: float | None) -> float:
    if chosen is not None:
        return chosen
    for folder, bundle in zip(folders, bundles, strict=True):
        if "probability" not in bundle.thresholds:
            raise BundleError(
                f"{folder}: holds no threshold named probability; choose one with --classifier-threshold or "
                "--mask-threshold"
            )
    return sum(bundle.thresholds["probability"] for bundle in bundles) / len(bundles)


def _sum_of(bundle: Path) -> str:
    try:
        return file_sha256(bundle / SPEC_NAME)
    except OSError as error:
        raise BundleError(f"{bundle} has no {SPEC_NAME}: assemble the pipeline again") from error


def _read_json(path: Path, remedy: str = "assemble the pipeline again") -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent}: no pipeline, it has no {path.name}; make one with `pneumoseg assemble`"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected a JSON object; {remedy}")
    return content


def _read_tuning(path: Path) -> Tuning | None:
    if not path.exists():
        return None
    remedy = "tune the pipeline again, or remove the file to use the rule as assembled"
    content = _read_json(path, remedy)
    try:
        rule = DecisionRule.from_numbers(content["rule"])
        scores = {name: float(content["scores"][name]) for name in _SCORES}
        images, patients = (tuple(content[name]) for name in ("image_ids", "patient_ids"))
        if not all(type(name) is str for name in images + patients) or not isinstance(content["image_ids"], list):
            raise ValueError("expected image_ids and patient_ids, lists of text")
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: {error!r}; {remedy}") from error
    return Tuning(rule, images, patients, scores)
