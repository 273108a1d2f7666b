"""The two tasks that can be trained; each says only how it differs from the other."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from pneumoseg.atomic_write import atomic_write
from pneumoseg.callbacks.epoch_weights import EpochWeights
from pneumoseg.callbacks.mcc import MCC
from pneumoseg.callbacks.resumable_plateau import ResumablePlateau
from pneumoseg.callbacks.swa import SWA
from pneumoseg.config import (
    AugmentationSettings,
    ClassifierSettings,
    ClassWeights,
    Experiment,
    RandomAugmentation,
    SegmenterSettings,
)
from pneumoseg.data.augmentation import Augmentation
from pneumoseg.data.enrichment import enrich
from pneumoseg.data.loaders import Examples, classification_examples, segmentation_examples
from pneumoseg.data.masks import has_mask
from pneumoseg.data.sampling import EpochPlan, enriched_epoch, random_epoch, scheduled_fraction
from pneumoseg.data.splits import positives_and_sampled_negatives
from pneumoseg.data_parallel import is_first_process, share_batches
from pneumoseg.models.bundle import load_bundle, save_bundle
from pneumoseg.models.bundle_spec import DataSplit
from pneumoseg.models.classifier import build_classifier, check_classifier
from pneumoseg.models.segmenter import build_segmenter, check_segmenter
from pneumoseg.scores import best_threshold, classification_scores
from pneumoseg.training.averaging import log_average, score_average
from pneumoseg.training.objective import (
    Objective,
    classification_loss,
    classification_metrics,
    segmentation_loss,
    segmentation_metrics,
)
from pneumoseg.training.precision import precision
from pneumoseg.training.run import Run
from pneumoseg.training.schedule import Schedule, trainable_part_at
from pneumoseg.training.start import images_trained_before


@dataclass(frozen=True)
class TrainingData:
    """The images of one training.

    Attributes:
        training: Manifest rows of the images to train on.
        validation: Manifest rows of the images to validate on.
        examples: Examples of the training images, in the order of their rows.
        validation_batches: Batches of the validation images, in the order of their rows.
        images: Image ids that the bundles will name as trained and validated on.
    """

    training: pd.DataFrame
    validation: pd.DataFrame
    examples: Examples
    validation_batches: tf.data.Dataset
    images: DataSplit

    @property
    def labels(self) -> np.ndarray:
        """Whether each training image is positive, bool, (n,)."""
        return self.training["has_pneumothorax"].to_numpy()


class Task(ABC):
    """The part of a training that depends on the kind of network.

    Attributes:
        settings: Settings of the experiment.
        augmentations: What the transforms of an epoch's plan are positions in.
        deterministic: Whether the backend must use operations that give the same bits each time.
        needs_masks: Whether images with a label alone are left out.
    """

    settings: Experiment
    augmentations: Sequence[Augmentation] = ()
    deterministic = False
    needs_masks = False
    _load: Callable[..., Examples]

    @property
    def schedule(self) -> Schedule:
        """Phases, and how the steps are made."""
        settings = self.settings
        return Schedule(
            settings.phases,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            jit_compile=settings.jit_compile,
        )

    def choose_images(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the manifest rows of one split that are used; by default all of them."""
        return rows

    def images_trained_before(self, kept_out: pd.DataFrame) -> frozenset[str]:
        """Return the images that the initial weights were trained on; by default none.

        Args:
            kept_out: Manifest rows that must not be among them.

        Raises:
            ValueError: If they are.
        """
        return frozenset()

    def plan_epoch(self, labels: np.ndarray, number: int) -> EpochPlan:
        """Return the training images of an epoch, their order, and the change of each.

        Args:
            labels: Whether each training image is positive, bool, (n,).
            number: Number of the epoch, counted from 0 over all phases.
        """
        positive_fraction = None
        if self.settings.positive_fraction is not None:
            epochs = sum(phase.epochs for phase in self.settings.phases)
            fraction = self.settings.positive_fraction
            positive_fraction = scheduled_fraction(fraction.first, fraction.last, number, epochs)
        augmented, seed = self.settings.augmentation is not None, self.settings.seed
        return random_epoch(labels, number, seed=seed, augmented=augmented, positive_fraction=positive_fraction)

    def copies(self, training: pd.DataFrame) -> pd.DataFrame | None:
        """Return a table of the changed copies of training images that each epoch shows; None if there are none."""
        return None

    @abstractmethod
    def check_network(self) -> None:
        """Check that the network can be named like this, without building it.

        Raises:
            ValueError: If it cannot.
        """

    @abstractmethod
    def build_model(self) -> keras.Model:
        """Build the network with its initial weights."""

    def make_examples(self, rows: pd.DataFrame, cache_dir: Path) -> Examples:
        """Return the examples of some manifest rows: images with labels, or with masks for a segmenter."""
        size, gigabytes = self.settings.image_size, self.settings.decoded_images_gigabytes
        return self._load(rows, size, cache_dir=cache_dir, decoded_images_gigabytes=gigabytes)

    @abstractmethod
    def objective(self, data: TrainingData) -> Objective:
        """Return the loss, the metrics, and the value that tells the best epoch."""

    @abstractmethod
    def callbacks(self, run: Run) -> list[keras.callbacks.Callback]:
        """Return the callbacks that read the validation scores."""

    @abstractmethod
    def save(self, folder: Path, model: keras.Model, logs: dict[str, float], images: DataSplit) -> None:
        """Write a bundle."""

    @abstractmethod
    def complete(
        self,
        run: Run,
        model: keras.Model,
        data: TrainingData,
        history: pd.DataFrame,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> dict[str, float]:
        """Do what remains after the last epoch, and return further metrics of the run.

        Args:
            run: Run whose best bundle is written.
            model: Network with the weights of the last epoch.
            data: Images of the training.
            history: Table of all epochs.
            callbacks: The callbacks that `callbacks` returned.
        """

    def summarize_folds(self, run: Run, folds: Sequence[Run]) -> dict[str, float]:
        """Return the scores of all folds of a finished cross-validation together; by default none."""
        return {}


class ClassifierTask(Task):
    """Training of a classifier, whose best epoch has the best validation MCC (section 4.1.1).

    Args:
        settings: Settings of the experiment.

    Raises:
        ValueError: If an augmentation is unknown.

    Example:
        >>> task = ClassifierTask(load_experiment("classifier.yaml"))  # doctest: +SKIP
        >>> train(task, manifest, Run("runs/classifier"))["val_mcc"]  # doctest: +SKIP
    """

    settings: ClassifierSettings
    _load = staticmethod(classification_examples)

    def __init__(self, settings: ClassifierSettings) -> None:
        self.settings, self.deterministic = settings, settings.deterministic
        self.augmentations = _augmentations(settings.augmentation, settings.enrichment)
        self._arguments: dict[str, Any] = {"backbone": settings.backbone, "image_size": settings.image_size}

    @property
    def schedule(self) -> Schedule:
        """Phases, and how the steps are made."""
        plateau = self.settings.plateau
        return dataclasses.replace(super().schedule, stop_after=plateau.stop_after if plateau else None)

    def plan_epoch(self, labels: np.ndarray, number: int) -> EpochPlan:
        """Return the training images of an epoch, with the copies that enrichment made."""
        if self.settings.enrichment is None:
            return super().plan_epoch(labels, number)
        return enriched_epoch(len(labels), self._enriched(labels), number, seed=self.settings.seed)

    def copies(self, training: pd.DataFrame) -> pd.DataFrame | None:
        """Return the copies of positives that enrichment makes: `image_id`, `transform` and `seed`, one row per copy.

        Raises:
            ValueError: If enrichment cannot balance the classes, see `data.enrichment`.
        """
        if self.settings.enrichment is None:
            return None
        copies, names = self._enriched(training["has_pneumothorax"].to_numpy()), self.settings.enrichment.transforms
        columns = {
            "image_id": training["image_id"].to_numpy()[copies["row"]],
            "transform": [names[transform] for transform in copies["transform"]],
            "seed": copies["seed"],
        }
        return pd.DataFrame(columns)

    def check_network(self) -> None:
        """Check backbone, size and weights."""
        check_classifier(**self._arguments, weights=self.settings.weights)

    def build_model(self) -> keras.Model:
        """Build the network with its initial weights."""
        with precision(self.settings.precision):
            return build_classifier(**self._arguments, weights=self.settings.weights)

    def objective(self, data: TrainingData) -> Objective:
        """Return the loss, the metrics, and the validation MCC as the value that tells the best epoch."""
        loss = classification_loss(self.settings)
        return Objective(
            loss,
            "val_mcc",
            classification_metrics(),
            validation_callback=MCC(data.validation_batches, data.validation["has_pneumothorax"].to_numpy(), loss),
            class_weights=_class_weights(self.settings.class_weights, data.labels),
        )

    def callbacks(self, run: Run) -> list[keras.callbacks.Callback]:
        """Return the callback that lowers the learning rate, if there is one."""
        plateau = self.settings.plateau
        if plateau is None:
            return []
        return [
            ResumablePlateau("val_mcc", plateau.factor, plateau.patience, mode="max", verbose=1, min_lr=plateau.minimum)
        ]

    def save(self, folder: Path, model: keras.Model, logs: dict[str, float], images: DataSplit) -> None:
        """Write a bundle with the threshold of the best validation MCC."""
        thresholds = {"probability": logs["val_best_threshold"]}
        save_bundle(folder, model, "classifier", self._arguments, thresholds, images)

    def complete(
        self,
        run: Run,
        model: keras.Model,
        data: TrainingData,
        history: pd.DataFrame,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> dict[str, float]:
        """Write the predictions of the validation images by the best bundle, read back from the disk."""
        best = share_batches(load_bundle(run.best).model)
        probabilities = best.predict(data.validation_batches, verbose=0)[:, 0]
        columns = ["image_id", "patient_id", "patient_source", "sex", "has_pneumothorax"]
        with atomic_write(run.predictions_file) as temporary:
            data.validation[columns].assign(probability=probabilities).to_csv(temporary, index=False)
        return {}

    def summarize_folds(self, run: Run, folds: Sequence[Run]) -> dict[str, float]:
        """Write the predictions of all images, each by the fold that kept it out, and score them together."""
        tables = [fold.validation_predictions().assign(fold=number) for number, fold in enumerate(folds, start=1)]
        predictions = pd.concat(tables)
        with atomic_write(run.predictions_file) as temporary:
            predictions.to_csv(temporary, index=False)
        labels, probabilities = predictions["has_pneumothorax"].to_numpy(), predictions["probability"].to_numpy()
        threshold, mcc = best_threshold(labels, probabilities)
        return classification_scores(labels, probabilities) | {"best_threshold": threshold, "best_mcc": mcc}

    def _enriched(self, labels: np.ndarray) -> pd.DataFrame:
        return enrich(labels, len(self.augmentations), seed=self.settings.seed)


class SegmenterTask(Task):
    """Training of a segmenter, whose best epoch has the best validation IoU (section 4.1.2).

    It sees all positives and randomly drawn negatives, the same ratio in both splits (section 3.2.1). Images with a
    label alone are left out after the split, so that a classifier and a segmenter of one manifest and the same split
    settings keep the same images and patients out of training. If the settings
    average weights, the run also gets a bundle with the averaged weights, whose batch statistics are recomputed on the
    unchanged training images, and the metrics get its scores.

    Args:
        settings: Settings of the experiment.

    Raises:
        ValueError: If an augmentation is unknown.

    Example:
        >>> task = SegmenterTask(load_experiment("segmenter.yaml"))  # doctest: +SKIP
        >>> train(task, manifest, Run("runs/segmenter"))["val_iou"]  # doctest: +SKIP
    """

    settings: SegmenterSettings
    needs_masks = True
    _load = staticmethod(segmentation_examples)

    def __init__(self, settings: SegmenterSettings) -> None:
        self.settings, self.augmentations = settings, _augmentations(settings.augmentation)
        names = ("architecture", "backbone", "image_size", "decoder_filters")
        self._arguments: dict[str, Any] = {name: getattr(settings, name) for name in names}

    def choose_images(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return all positives and randomly drawn negatives of one split, without images that have a label alone.

        Raises:
            ValueError: If only images with a label alone are positive.
        """
        settings, masked = self.settings, rows[has_mask(rows)]
        if len(masked) < len(rows) and not masked["has_pneumothorax"].any():
            raise ValueError(
                f"none of the {len(masked)} images with a mask in a split of {len(rows)} images is positive; the "
                "others have a label and no mask: index more masks, or change the seed of the split"
            )
        return positives_and_sampled_negatives(masked, settings.negatives_per_positive, seed=settings.seed)

    def images_trained_before(self, kept_out: pd.DataFrame) -> frozenset[str]:
        """Return the images that `start_from` was trained on.

        Raises:
            ValueError: If some of them are kept out now, or the bundle does not name them.
        """
        start = self.settings.start_from
        return images_trained_before(start, kept_out) if start is not None else frozenset()

    def check_network(self) -> None:
        """Check architecture, backbone, size, weights and decoder."""
        check_segmenter(**self._arguments, weights=self.settings.weights)

    def build_model(self) -> keras.Model:
        """Build the network with its initial weights, those of `start_from` if there is one."""
        with precision(self.settings.precision):
            model = build_segmenter(**self._arguments, weights=self.settings.weights)
        if self.settings.start_from is not None:
            model.set_weights(load_bundle(self.settings.start_from).model.get_weights())
        return model

    def objective(self, data: TrainingData) -> Objective:
        """Return the loss, the metrics, and the validation IoU as the value that tells the best epoch."""
        loss, metrics = segmentation_loss(self.settings.loss), segmentation_metrics()
        return Objective(loss, "val_iou", metrics, validation=data.validation_batches)

    def callbacks(self, run: Run) -> list[keras.callbacks.Callback]:
        """Return the callbacks that average the weights and keep those of each epoch, if the settings want them."""
        swa, budget = self.settings.swa, self.settings.epoch_weights_gigabytes
        callbacks: list[keras.callbacks.Callback] = [SWA(**swa.model_dump())] if swa else []
        keeps = budget > 0 and is_first_process()  # what the others write is thrown away, and this may be large
        return callbacks + ([EpochWeights(run.epoch_weights, budget, "val_iou")] if keeps else [])

    def save(self, folder: Path, model: keras.Model, logs: dict[str, float], images: DataSplit) -> None:
        """Write a bundle with a threshold of 0.5."""
        save_bundle(folder, model, "segmenter", self._arguments, {"probability": 0.5}, images)

    def complete(
        self,
        run: Run,
        model: keras.Model,
        data: TrainingData,
        history: pd.DataFrame,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> dict[str, float]:
        """Score and save the averaged weights, if there are any, and return their scores."""
        settings, swa = self.settings, next((each for each in callbacks if isinstance(each, SWA)), None)
        if settings.swa is None or swa is None or not swa.count:
            return {}
        part, training = trainable_part_at(settings.phases, swa.end_epoch), data.examples.batches(settings.batch_size)
        scores = score_average(
            model, swa.average, part, settings.loss, training, data.validation_batches, jit_compile=settings.jit_compile
        )
        self.save(run.swa, model, {}, data.images)
        log_average(run, settings.swa, scores["val_iou"], history["val_iou"].max())
        return {f"swa_{name}": value for name, value in (settings.swa.model_dump() | scores).items()}


def task_for(settings: Experiment) -> Task:
    """Return the task that an experiment's settings describe.

    Example:
        >>> from pneumoseg.config import load_experiment
        >>> task_for(load_experiment("experiments/demo_classifier.yaml"))  # doctest: +SKIP
        <pneumoseg.training.tasks.ClassifierTask object at ...>
    """
    return ClassifierTask(settings) if isinstance(settings, ClassifierSettings) else SegmenterTask(settings)


def _augmentations(
    random: RandomAugmentation | None, enrichment: AugmentationSettings | None = None
) -> list[Augmentation]:
    """Return one augmentation with all transforms for random changes, or one per transform for enrichment."""
    if random is not None:
        return [Augmentation(random.transforms, random.probability, random.zoom)]
    if enrichment is not None:
        return [Augmentation([name], probability=1, zoom=enrichment.zoom) for name in enrichment.transforms]
    return []


def _class_weights(chosen: str | ClassWeights | None, labels: np.ndarray) -> dict[int, float] | None:
    if chosen is None:
        return None
    if isinstance(chosen, ClassWeights):
        return {0: chosen.negative, 1: chosen.positive}
    return {label: len(labels) / (2 * int((labels == label).sum())) for label in (0, 1)}  # each class counts half
