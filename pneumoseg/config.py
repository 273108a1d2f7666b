"""Experiment files: YAML that becomes validated, typed settings."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "mixed_float16", "mixed_bfloat16"]


class Settings(BaseModel):
    """Base class of all settings: rejects unknown keys, validates types strictly, and is immutable.

    Example:
        >>> Split(validation_fraction=0.2, seed=0).model_dump()
        {'validation_fraction': 0.2, 'seed': 0, 'group_by_patient': None}
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


AnySettings = TypeVar("AnySettings", bound=Settings)


class Split(Settings):
    """Division of the images into training and validation, see `data.splits.stratified_split`.

    Attributes:
        validation_fraction: Fraction of the images for validation; when grouped by patient at most 0.5, rounded to
            the nearest 1 / n.
        seed: Seed of the split.
        group_by_patient: Whether all images of a patient are in the same split; true is an error where no patient
            is known. By default images are grouped where patients are known.
    """

    validation_fraction: Fraction
    seed: int
    group_by_patient: bool | None = None


class Cosine(Settings):
    """Fall of the learning rate from that of the phase, step by step, see `callbacks.cosine_annealing`.

    Attributes:
        cycle_epochs: Length of the first cycle in epochs.
        multiplier: Length of each cycle relative to the previous one.
        minimum: Learning rate at the end of each cycle.
    """

    cycle_epochs: PositiveInt
    multiplier: Annotated[float, Field(ge=1)] = 1.0
    minimum: Annotated[float, Field(ge=0)] = 0.0


class Phase(Settings):
    """Epochs with one learning rate and one trainable part of the network, see `models.freezing`.

    Attributes:
        epochs: Number of epochs.
        learning_rate: Learning rate at the beginning of the phase.
        trainable: Part of the network that is trained: all layers, only the classifier's last layer, or the second
            half of the layers.
        cosine: Fall of the learning rate within the phase; null for a constant rate.
    """

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
    """Fall of the learning rate by Keras' ReduceLROnPlateau on the monitored validation metric.

    The rate never falls below `minimum`. `stop_after` ends the training after that many epochs of the last phase
    without a new best of that phase; earlier phases run to their end.

    Attributes:
        patience: Number of epochs without improvement after which the learning rate is reduced.
        factor: Factor by which the learning rate is multiplied.
        minimum: Lowest learning rate.
        stop_after: Number of epochs without improvement after which the last phase ends; null to run all epochs.
    """

    patience: PositiveInt
    factor: Fraction
    # Chosen: the paper names none. Its 23 epochs reach 2.6e-9 at the lowest, and Adam's steps at 1e-9 are lost in the
    # rounding of a float32 weight of 0.03 or more.
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
    """Changes of an image, see `data.augmentation`; `zoom` is the smallest and the largest change of size.

    Attributes:
        transforms: Names of transforms, applied in the given order: clahe, optical_distortion, zoom_in, zoom_out,
            elastic_transform, grid_distortion.
        zoom: Smallest and largest change of size, as fractions.
    """

    transforms: Annotated[list[str], Field(min_length=1)]
    zoom: Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class RandomAugmentation(AugmentationSettings):
    """Random changes: each transform changes each training image with the same probability in each epoch.

    Attributes:
        probability: Probability of each transform.
    """

    probability: Annotated[float, Field(gt=0, le=1)]


class PositiveFractionSchedule(Settings):
    """Fraction of positives that an epoch shows, from the first epoch to the last, see `data.sampling`.

    Attributes:
        first: Fraction in the first epoch; it changes by the same amount in each epoch.
        last: Fraction in the last epoch.
    """

    first: Fraction
    last: Fraction


class FocalLossSettings(Settings):
    """Settings of `losses.FocalLoss`.

    Attributes:
        kind: Name of the loss.
        alpha: Weight of the positives; negatives have the weight 1 - alpha.
        gamma: Focusing power; 0 gives the weighted cross-entropy.
    """

    kind: Literal["focal"]
    alpha: Probability
    gamma: Annotated[float, Field(ge=0)]


class ClassWeights(Settings):
    """Weight of one image of each class in the training loss.

    Attributes:
        negative: Weight of a negative image.
        positive: Weight of a positive image.
    """

    negative: PositiveFloat
    positive: PositiveFloat


class ClassifierSettings(Settings):
    """Experiment of a classifier; options that are left out are off.

    Attributes:
        kind: Kind of network.
        backbone: Backbone, see `models.classifier.CLASSIFIER_BACKBONES`.
        image_size: Height and width of the network's input in pixels.
        weights: Weights that the backbone starts from: "imagenet" (downloaded by Keras), the path of a `*_notop.h5`
            file, or null for random weights.
        batch_size: Number of images per batch.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        split: Division of the images into training and validation.
        cross_validate: Whether to train one network per fold instead of a single one; there are 1 /
            `validation_fraction` folds.
        phases: Phases of the training, in order.
        plateau: Reduction of the learning rate when the validation MCC stops rising; null for none.
        augmentation: Random changes of the training images; null for none.
        enrichment: Transforms of the copies of positives that balance the training set; null for no copies.
        positive_fraction: Fraction of positives that each epoch shows; null shows all images.
        loss: Loss function.
        class_weights: Weights of the classes in the loss; balanced gives each class half of the loss.
        precision: Precision policy of Keras; 16-bit policies keep float32 weights and outputs.
        jit_compile: Whether XLA compiles the network, once per phase and number of images in a batch. On JAX it always
            does.
        gradient_accumulation_steps: Number of batches whose mean gradient makes one step of the optimizer, see
            `training.engine`.
        decoded_images_gigabytes: Gigabytes (10^9 bytes) for the decoded images of each split; a split that takes
            more is read again in each epoch.
        deterministic: Whether Keras' backend uses deterministic operations only, so that the same training on a CPU
            gives the same weights.
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
            raise ValueError(
                "enrichment fixes the training set: leave out either it or augmentation and positive_fraction"
            )
        if self.plateau and any(phase.cosine for phase in self.phases):
            raise ValueError("a cosine sets the learning rate at each step: leave out either it or plateau")
        if self.deterministic and self.jit_compile:
            raise ValueError(
                "Keras does not use XLA if operations are deterministic: leave out jit_compile or deterministic"
            )
        lowest = min(phase.learning_rate for phase in self.phases)
        if self.plateau and self.plateau.minimum > lowest:
            raise ValueError(f"plateau.minimum {self.plateau.minimum} is above learning_rate {lowest}")
        if self.class_weights == "balanced" and (self.positive_fraction or self.enrichment):
            raise ValueError(
                "class_weights: balanced makes up for the manifest's fraction of positives, but positive_fraction and "
                "enrichment show another one: leave class_weights out, or say {negative: ..., positive: ...}"
            )
        return self


class SegmentationLoss(Settings):
    """Weighted sum of losses, see `losses`; a weight of 0 leaves out its term.

    Attributes:
        focal_weight: Weight of the focal loss.
        dice_weight: Weight of the Dice loss.
        cross_entropy_weight: Weight of the binary cross-entropy.
        tversky_weight: Weight of the Tversky loss.
        alpha: Weight of positive pixels in the focal loss.
        gamma: Focusing power of the focal loss.
        tversky_alpha: Weight of false positives in the Tversky loss.
        tversky_beta: Weight of false negatives in the Tversky loss.
        per_image: Whether the Dice and Tversky losses are means over images; otherwise they are one ratio per
            batch.
    """

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
            raise ValueError("at least one weight must be above 0")
        return self


class WeightAveraging(Settings):
    """Epochs whose weights are averaged, counted from 1 and inclusive, see `callbacks.swa`.

    Attributes:
        start_epoch: First epoch that is averaged, counted from 1.
        end_epoch: Last epoch that is averaged.
        every: Distance between averaged epochs.
    """

    start_epoch: PositiveInt
    end_epoch: PositiveInt
    every: PositiveInt = 1


class SegmenterSettings(Settings):
    """Experiment of a segmenter; options that are left out are off.

    Attributes:
        kind: Kind of network.
        architecture: Architecture, see `models.segmenter.ARCHITECTURES`.
        backbone: Encoder, see `models.segmenter.SEGMENTER_BACKBONES`.
        decoder_filters: Number of filters of the widest decoder layer; null for that of segmentation-models.
        image_size: Height and width of the network's input in pixels.
        weights: Weights that the backbone starts from: "imagenet" (downloaded by Keras), the path of a `*_notop.h5`
            file, or null for random weights.
        batch_size: Number of images per batch.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        split: Division of the images into training and validation.
        cross_validate: Whether to train one network per fold instead of a single one; there are 1 /
            `validation_fraction` folds.
        start_from: Folder of a bundle whose weights the training starts from; null for none.
        negatives_per_positive: Number of negative images per positive one, chosen at random; null for all
            negatives.
        positive_fraction: Fraction of positives that each epoch shows; null shows all images.
        loss: Weighted sum of losses.
        phases: Phases of the training, in order.
        augmentation: Random changes of the training images; null for none.
        swa: Epochs whose weights are averaged; null for none.
        epoch_weights_gigabytes: Gigabytes (10^9 bytes) for the weights of single epochs; the epochs with the best
            validation IoU are kept.
        precision: Precision policy of Keras; 16-bit policies keep float32 weights and outputs.
        jit_compile: Whether XLA compiles the network, once per phase and number of images in a batch. On JAX it always
            does.
        gradient_accumulation_steps: Number of batches whose mean gradient makes one step of the optimizer, see
            `training.engine`.
        decoded_images_gigabytes: Gigabytes (10^9 bytes) for the decoded images of each split; a split that takes
            more is read again in each epoch.
    """

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
                f"swa averages epochs {self.swa.start_epoch} to {self.swa.end_epoch}, but there are {epochs}"
            )
        return self


Experiment = ClassifierSettings | SegmenterSettings
_KINDS: dict[str, type[ClassifierSettings] | type[SegmenterSettings]] = {
    "classifier": ClassifierSettings,
    "segmenter": SegmenterSettings,
}


class ConfigError(ValueError):
    """Error of an experiment file that cannot be used; names the file, the key, its value and the expected one.

    Example:
        >>> try:
        ...     load_experiment("absent.yaml")
        ... except ConfigError as error:
        ...     print(error)
        absent.yaml: no such experiment file, see the folder experiments/
    """


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment file, whose `kind` says whether it trains a classifier or a segmenter.

    A file may say `based_on: other.yaml`, with a path relative to itself. It then has the other file's settings except
    for the top-level keys that it gives itself.

    Raises:
        ConfigError: If the file is missing, is not YAML, is based on itself, or has a key that is unknown, missing or
            of the wrong type.

    Example:
        >>> load_experiment("experiments/demo_classifier.yaml").backbone  # doctest: +SKIP
        'compact'
    """
    content, files = read_settings_file(Path(path))
    return validate_experiment(content, ", based on ".join(map(str, files)))


def validate_experiment(content: Any, source: str) -> Experiment:
    """Turn the content of an experiment file, with inherited settings filled in, into settings.

    Args:
        content: What YAML made of the file.
        source: Name of the file for messages.

    Raises:
        ConfigError: If a key is unknown, missing or of the wrong type.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected keys and values, got {content!r:.60}")
    kind = content.get("kind")
    if kind not in tuple(_KINDS):
        raise ConfigError(f"{source}: kind: expected {' or '.join(_KINDS)}, got {kind!r:.60}")
    return validate_settings(_KINDS[kind], content, source)


def validate_settings(kind: type[AnySettings], content: Any, source: str) -> AnySettings:
    """Turn the content of a file into settings of one kind.

    Args:
        kind: Class of the settings.
        content: What YAML made of the file.
        source: Name of the file for messages.

    Raises:
        ConfigError: If a key is unknown, missing or of the wrong type.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error)}") from error


def experiment_files(path: str | Path) -> list[Path]:
    """Return an experiment file and the files that it is based on, in order.

    Raises:
        ConfigError: If one is missing, is not YAML, or is based on itself.
    """
    return read_settings_file(Path(path))[1]


def read_settings_file(path: Path, readers: tuple[Path, ...] = ()) -> tuple[Any, list[Path]]:
    """Return a YAML file's content with inherited settings filled in, and the files read: this one and its bases.

    Args:
        path: File to read.
        readers: Files that are being read, each based on the next.

    Raises:
        ConfigError: If a file is missing, is not YAML, or is based on itself.
    """
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
    inherited, files = read_settings_file(path.parent / other, (*readers, path.resolve()))
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
        if problem["type"] == "value_error":  # a rule of our own, whose message is complete
            problems.append(f"{key}: {problem['ctx']['error']}")
            continue
        problems.append(f"{key}: {problem['msg']}, got {problem['input']!r:.60}{hint}")
    return "; ".join(problems)
