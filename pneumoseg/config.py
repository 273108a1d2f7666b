"""Experiment files: YAML to validated, typed settings."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "mixed_float16", "mixed_bfloat16"]


class Settings(BaseModel):
    """What every part of an experiment file keeps to: no unknown key, no silent conversion, no later change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Split(Settings):
    """How images are divided into training and validation, see `data.splits.stratified_split`."""

    validation_fraction: Share
    seed: int
    group_by_patient: bool | None = None


class Cosine(Settings):
    """How the learning rate falls from a phase's own, step by step, see `callbacks.cosine_annealing`."""

    cycle_epochs: PositiveInt
    multiplier: Annotated[float, Field(ge=1)] = 1.0
    minimum: Annotated[float, Field(ge=0)] = 0.0


class Phase(Settings):
    """Some epochs with one learning rate and one trainable part of the network, see `models.freezing`."""

    epochs: PositiveInt
    learning_rate: PositiveFloat
    trainable: Literal["all", "head", "second_half"]
    cosine: Cosine | None = None

    @model_validator(mode="after")
    def _falling(self) -> "Phase":
        if self.cosine and self.cosine.minimum > self.learning_rate:
            raise ValueError(f"cosine.minimum {self.cosine.minimum} is above learning_rate {self.learning_rate}")
        return self


class Plateau(Settings):
    """When the learning rate falls: Keras' ReduceLROnPlateau on the monitored validation metric.

    It never falls below `minimum`. The default is chosen: the paper names none, its 23 epochs reach 2.6e-9 at the
    least, and Adam's steps at 1e-9 are lost in the rounding of a float32 weight of .03 or more. `stop_after` ends the
    training after so many epochs of the last phase without a new best of that phase; earlier phases run to their end.
    """

    patience: PositiveInt
    factor: Share
    minimum: Annotated[float, Field(ge=0)] = 1e-9
    stop_after: PositiveInt | None = None

    @model_validator(mode="after")
    def _falls_before_it_stops(self) -> "Plateau":
        if self.stop_after is not None and self.stop_after <= self.patience:
            raise ValueError(
                f"stop_after {self.stop_after} ends the training before the learning rate falls: take more than "
                f"patience {self.patience}, or leave it out"
            )
        return self


class AugmentationSettings(Settings):
    """Which changes of an image, see `data.augmentation`; `zoom` is the least and the greatest change of size."""

    transforms: Annotated[list[str], Field(min_length=1)]
    zoom: Annotated[list[Share], Field(min_length=2, max_length=2)]


class RandomAugmentation(AugmentationSettings):
    """Each transform changes each training image with one probability, anew each epoch."""

    probability: Annotated[float, Field(gt=0, le=1)]


class PositiveFractionSchedule(Settings):
    """The share of positives that an epoch shows, from the first epoch to the last, see `data.sampling`."""

    first: Share
    last: Share


class FocalLossSettings(Settings):
    """See `losses.FocalLoss`."""

    kind: Literal["focal"]
    alpha: Probability
    gamma: Annotated[float, Field(ge=0)]


class ClassWeights(Settings):
    """What one image of a class counts in the training loss."""

    negative: PositiveFloat
    positive: PositiveFloat


class ClassifierSettings(Settings):
    """A classifier's experiment. What is left out is off.

    `jit_compile`: whether XLA compiles the network, anew for each phase and each number of images a batch.
    `gradient_accumulation_steps`: batches whose mean gradient makes one step of the optimizer, see `training.phases`.
    `decoded_images_gigabytes`: 10^9 bytes; a side of the split that is larger decoded is read again each epoch.
    """

    kind: Literal["classifier"]
    backbone: str
    image_size: PositiveInt
    weights: str | None
    batch_size: PositiveInt
    seed: int
    split: Split
    cross_validate: bool = False
    phases: Annotated[list[Phase], Field(min_length=1)]
    plateau: Plateau | None = None
    augmentation: RandomAugmentation | None = None
    enrichment: AugmentationSettings | None = None
    positive_fraction: PositiveFractionSchedule | None = None
    loss: Literal["binary_crossentropy"] | FocalLossSettings = "binary_crossentropy"
    class_weights: Literal["balanced"] | ClassWeights | None = None
    precision: Precision = "float32"
    jit_compile: bool = False
    gradient_accumulation_steps: PositiveInt = 1
    decoded_images_gigabytes: Annotated[float, Field(ge=0)] = 2.5
    deterministic: bool = False

    @model_validator(mode="after")
    def _no_contradiction(self) -> "ClassifierSettings":
        if self.enrichment and (self.augmentation or self.positive_fraction):
            raise ValueError("enrichment fixes the training set: leave augmentation and positive_fraction out, or it")
        if self.plateau and any(phase.cosine for phase in self.phases):
            raise ValueError("a cosine sets the learning rate at each step: leave plateau out, or it")
        if self.deterministic and self.jit_compile:
            raise ValueError("Keras compiles nothing by XLA where operations are deterministic: leave one of them out")
        lowest = min(phase.learning_rate for phase in self.phases)
        if self.plateau and self.plateau.minimum > lowest:
            raise ValueError(f"plateau.minimum {self.plateau.minimum} is above learning_rate {lowest}")
        if self.class_weights == "balanced" and (self.positive_fraction or self.enrichment):
            raise ValueError(
                "class_weights: balanced makes up for the manifest's share of positives, and positive_fraction and "
                "enrichment show another one: leave class_weights out, or say {negative: ..., positive: ...}"
            )
        return self


class SegmentationLoss(Settings):
    """A weighted sum of losses, see `losses`; a weight of 0 leaves its term out."""

    focal_weight: Annotated[float, Field(ge=0)]
    dice_weight: Annotated[float, Field(ge=0)]
    cross_entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    tversky_weight: Annotated[float, Field(ge=0)] = 0.0
    alpha: Probability
    gamma: Annotated[float, Field(ge=0)]
    tversky_alpha: Annotated[float, Field(ge=0)] = 0.3
    tversky_beta: Annotated[float, Field(ge=0)] = 0.7
    per_image: bool

    @model_validator(mode="after")
    def _some_term(self) -> "SegmentationLoss":
        if not (self.focal_weight or self.dice_weight or self.cross_entropy_weight or self.tversky_weight):
            raise ValueError("one weight at least must be above 0")
        return self


class WeightAveraging(Settings):
    """Which epochs' weights are averaged, one-based and inclusive, see `callbacks.swa`."""

    start_epoch: PositiveInt
    end_epoch: PositiveInt
    every: PositiveInt = 1


class SegmenterSettings(Settings):
    """A segmenter's experiment. What is left out is off; on what runs it, see `ClassifierSettings`."""

    kind: Literal["segmenter"]
    architecture: str
    backbone: str
    decoder_filters: PositiveInt | None = None
    image_size: PositiveInt
    weights: str | None
    batch_size: PositiveInt
    seed: int
    split: Split
    cross_validate: bool = False
    start_from: str | None = None
    negatives_per_positive: Annotated[float, Field(ge=0)] | None
    positive_fraction: PositiveFractionSchedule | None = None
    loss: SegmentationLoss
    phases: Annotated[list[Phase], Field(min_length=1)]
    augmentation: RandomAugmentation | None = None
    swa: WeightAveraging | None = None
    epoch_weights_gigabytes: Annotated[float, Field(ge=0)] = 0.0
    precision: Precision = "float32"
    jit_compile: bool = False
    gradient_accumulation_steps: PositiveInt = 1
    decoded_images_gigabytes: Annotated[float, Field(ge=0)] = 2.5

    @model_validator(mode="after")
    def _window_within_the_training(self) -> "SegmenterSettings":
        epochs = sum(phase.epochs for phase in self.phases)
        if self.swa and not self.swa.start_epoch <= self.swa.end_epoch <= epochs:
            raise ValueError(
                f"swa averages epochs {self.swa.start_epoch} to {self.swa.end_epoch}, and there are {epochs}"
            )
        return self


Experiment = TypeVar("Experiment", ClassifierSettings, SegmenterSettings)


class ConfigError(ValueError):
    """An experiment file that cannot be used; names the file, the key, what came and what was expected."""


def load_classifier_settings(path: str | Path) -> ClassifierSettings:
    """Read a classifier's experiment file.

    A file may say `based_on: other.yaml`, with a path relative to itself: it then has the other's settings but for the
    top-level keys that it gives itself.

    Raises:
        ConfigError: If the file is missing, is no YAML, is based on itself, or has a key that is unknown, missing or
            of the wrong type.
    """
    return _validated(path, ClassifierSettings)


def load_experiment(path: str | Path) -> ClassifierSettings | SegmenterSettings:
    """TEMPORARY."""
    content, _ = _read(Path(path))
    return load_classifier_settings(path) if content["kind"] == "classifier" else load_segmenter_settings(path)


def experiment_files(path: str | Path) -> list[Path]:
    """Return an experiment file and the files that it is based on, in order.

    Raises:
        ConfigError: If one is missing, is not YAML, or is based on itself.
    """
    return _read(Path(path))[1]


def load_segmenter_settings(path: str | Path) -> SegmenterSettings:
    """Read a segmenter's experiment file, as `load_classifier_settings` does."""
    return _validated(path, SegmenterSettings)


def _validated(path: str | Path, model: type[Experiment]) -> Experiment:
    content, files = _read(Path(path))
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{', based on '.join(map(str, files))}: {_explain(error)}") from error


def _read(path: Path, readers: tuple[Path, ...] = ()) -> tuple[Any, list[Path]]:
    """A file's content, what it does not say filled in, and the files read: this one and those it is based on."""
    if path.resolve() in readers:
        raise ConfigError(f"{path}: is based on itself")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such experiment file, see the folder experiments/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict) or "based_on" not in content:
        return content, [path]
    other = content.pop("based_on")
    if not isinstance(other, str):
        raise ConfigError(f"{path}: based_on: expected the name of an experiment file, got {other!r}")
    inherited, files = _read(path.parent / other, (*readers, path.resolve()))
    return {**inherited, **content} if isinstance(inherited, dict) else inherited, [path, *files]


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"])) or "the file"
        hint = (
            " (YAML 1.1 reads 2e-2 as text: write 0.02)"
            if problem["type"] == "float_type" and isinstance(problem["input"], str)
            else ""
        )
        if problem["type"] == "value_error":  # a rule of our own, which tells all
            problems.append(f"{key}: {problem['ctx']['error']}")
            continue
        problems.append(f"{key}: {problem['msg']}, got {problem['input']!r:.60}{hint}")
    return "; ".join(problems)
