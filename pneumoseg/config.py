"""Experiment files: YAML to validated, typed settings."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

Share = Annotated[float, Field(gt=0, lt=1)]


class Settings(BaseModel):
    """What every part of an experiment file keeps to: no unknown key, no silent conversion, no later change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Split(Settings):
    """How images are divided into training and validation, see `data.splits.stratified_split`."""

    validation_fraction: Share
    seed: int
    group_by_patient: bool | None = None


class Phase(Settings):
    """Some epochs with one learning rate and one trainable part of the network, see `models.freezing`."""

    epochs: PositiveInt
    learning_rate: PositiveFloat
    trainable: Literal["all", "head", "second_half"]


class ClassifierSettings(Settings):
    """A classifier's experiment."""

    kind: Literal["classifier"]
    backbone: str
    image_size: PositiveInt
    weights: str | None
    batch_size: PositiveInt
    seed: int
    split: Split
    phases: Annotated[list[Phase], Field(min_length=1)]


class SegmentationLoss(Settings):
    """The weighted sum of focal and Dice loss, see `losses`."""

    focal_weight: Annotated[float, Field(ge=0)]
    dice_weight: Annotated[float, Field(ge=0)]
    alpha: Annotated[float, Field(ge=0, le=1)]
    gamma: Annotated[float, Field(ge=0)]
    per_image: bool


class SegmenterSettings(Settings):
    """A segmenter's experiment."""

    kind: Literal["segmenter"]
    architecture: str
    backbone: str
    decoder_filters: PositiveInt | None = None
    image_size: PositiveInt
    weights: str | None
    batch_size: PositiveInt
    seed: int
    split: Split
    negatives_per_positive: Annotated[float, Field(ge=0)]
    loss: SegmentationLoss
    phases: Annotated[list[Phase], Field(min_length=1)]


Experiment = TypeVar("Experiment", ClassifierSettings, SegmenterSettings)


class ConfigError(ValueError):
    """An experiment file that cannot be used; names the file, the key, what came and what was expected."""


def load_classifier_settings(path: str | Path) -> ClassifierSettings:
    """Read a classifier's experiment file.

    Raises:
        ConfigError: If the file is missing, is no YAML, or has a key that is unknown, missing or of the wrong type.
    """
    return _validated(path, ClassifierSettings)


def load_segmenter_settings(path: str | Path) -> SegmenterSettings:
    """Read a segmenter's experiment file; raises as `load_classifier_settings`."""
    return _validated(path, SegmenterSettings)


def _validated(path: str | Path, model: type[Experiment]) -> Experiment:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such experiment file, see the folder experiments/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"])) or "the file"
        hint = (
            " (YAML 1.1 reads 2e-2 as text: write 0.02)"
            if problem["type"] == "float_type" and isinstance(problem["input"], str)
            else ""
        )
        problems.append(f"{key}: {problem['msg']}, got {problem['input']!r:.60}{hint}")
    return "; ".join(problems)
