"""Comparison of an exported pipeline with the Keras pipeline that it was made from, on the same images."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from pneumoseg import rle
from pneumoseg.data.masks import UNKNOWN
from pneumoseg.decision import decide
from pneumoseg.inference.pipeline import Pipeline, Probabilities, Source
from pneumoseg.scores import dice
from pneumoseg.synthetic import generate_case

FLOAT32_BOUND = 1e-4
"""Largest difference of a probability that a float32 export may show."""
DICE_BOUND = 0.002
"""Largest change of the mean Dice that an export of a lower precision may show."""
_GENERATED = 60


@dataclass(frozen=True)
class ComparedImages:
    """Images that an export is compared on.

    Attributes:
        sources: Paths of image files, or images, uint8 (H, W).
        codes: Run-length code of each image's true mask; `UNKNOWN` where only a label is known.
        origin: Their origin in words, such as "60 generated images".
    """

    sources: Sequence[Source]
    codes: Sequence[str]
    origin: str

    @classmethod
    def of(cls, manifest: pd.DataFrame, origin: str) -> "ComparedImages":
        """Take the images of a manifest, see `index_dataset`."""
        return cls(manifest["path"].tolist(), manifest["rle"].tolist(), origin)


def generate_images(size: int, count: int = _GENERATED, seed: int = 0) -> ComparedImages:
    """Generate X-rays with masks, every third one positive, see `generate_case`.

    Args:
        size: Height and width of the images in pixels.
        count: Number of images.
        seed: Seed of the generator.
    """
    rng = np.random.default_rng(seed)
    cases = [generate_case(rng, size, number % 3 == 0) for number in range(count)]
    codes = [rle.encode(case.mask) for case in cases]
    return ComparedImages([case.image for case in cases], codes, f"{count} generated images")


@dataclass(frozen=True)
class Comparison:
    """Differences between an export and Keras on the same images.

    Attributes:
        origin: The origin of the images in words.
        image_ids: Ids of the compared images, or their numbers if they are generated.
        unreadable: Number of images that could not be read, and are in no other number.
        passed: Images that Keras' classifier passes on to the segmenter.
        positive: Images with a mask, according to Keras.
        probability_difference: Largest difference of the classifier's probability; 0 without a classifier.
        map_difference: Largest difference of a pixel of the probability maps, of all images.
        closest: Smallest distance of a probability of Keras' classifier from its threshold.
        flipped_gates: Images that the classifier of one of them passes on, and that of the other does not.
        flipped_images: Images for which one of them finds a pneumothorax, and the other does not.
        flipped_by_gate: Those of them that differ because their gate does.
        flipped_first: Id or number of the first of these images; empty if there is none.
        with_truth: Images whose true mask is known.
        dice_keras: Mean Dice of Keras' masks on them; None if there is none.
        dice_export: Mean Dice of the export's masks on them.
    """

    origin: str
    image_ids: list[str]
    unreadable: int
    passed: int
    positive: int
    probability_difference: float
    map_difference: float
    closest: float | None
    flipped_gates: int
    flipped_images: int
    flipped_by_gate: int
    flipped_first: str
    with_truth: int
    dice_keras: float | None
    dice_export: float | None

    @property
    def images(self) -> int:
        """Number of compared images."""
        return len(self.image_ids)

    @property
    def dice_change(self) -> float | None:
        """Change of the mean Dice from Keras to the export; None where no mask is known."""
        if self.dice_keras is None or self.dice_export is None:
            return None
        return self.dice_export - self.dice_keras

    def problems(self, precision: str) -> list[str]:
        """Return in what the export differs by more than its precision allows, in words."""
        found = []
        if precision == "float32":
            for what, difference in (("probability", self.probability_difference), ("map", self.map_difference)):
                if not difference <= FLOAT32_BOUND:
                    found.append(
                        f"the largest difference of the {what} is {difference:.2g} (at most {FLOAT32_BOUND:g})"
                    )
            return found
        if self.flipped_images:
            found.append(
                f"{self.flipped_images} of {self.images} images are decided otherwise, the first: {self.flipped_first}"
            )
        if self.dice_change is not None and not abs(self.dice_change) <= DICE_BOUND:
            found.append(f"the mean Dice changes by {self.dice_change:+.4f} (at most {DICE_BOUND:g})")
        return found

    def doubts(self) -> list[str]:
        """Return why the comparison shows little, in words; empty if nothing is known against it."""
        found = []
        if self.unreadable:
            found.append(f"{self.unreadable} of the images could not be read and are not compared")
        if not self.passed:
            found.append("the classifier passes none of the images on: no mask was compared")
        elif not self.positive:
            found.append("none of the images gets a mask: decisions on both sides were not compared")
        elif self.positive == self.images:
            found.append("all images get a mask: decisions on both sides were not compared")
        return found

    def as_json(self) -> dict[str, object]:
        """Return the numbers for the record of the export."""
        return {**asdict(self), "images": self.images, "dice_change": self.dice_change}


class Reference:
    """The probabilities of the Keras pipeline on the images of a comparison, computed once and kept in a folder.

    Args:
        pipeline: The pipeline of Keras.
        images: The images to compare on.
        folder: Existing folder for the probability maps, 4 bytes per pixel.
        progress: Whether to show a progress bar on stderr.
    """

    def __init__(self, pipeline: Pipeline, images: ComparedImages, folder: Path, *, progress: bool = False) -> None:
        self.pipeline, self.images, self._folder = pipeline, images, folder
        outputs = _shown(pipeline.probabilities(images.sources), len(images.sources), "Keras", progress)
        self._outputs = [self._without_map(number, output) for number, output in enumerate(outputs)]

    def _without_map(self, number: int, output: Probabilities) -> Probabilities:
        if output.prob_map is not None:
            np.save(self._folder / f"{number}.npy", output.prob_map)
        return output._replace(prob_map=None)

    def __iter__(self) -> Iterator[Probabilities]:
        """Yield the probabilities of each image, in order."""
        for number, output in enumerate(self._outputs):
            yield output if output.error else output._replace(prob_map=np.load(self._folder / f"{number}.npy"))


class _Row(NamedTuple):
    """Differences on one image."""

    name: str
    probability_difference: float
    map_difference: float
    distance: float
    passed: bool
    flipped_gate: bool
    positive: bool
    flipped_image: bool
    dice_keras: float
    dice_export: float


def compare(reference: Reference, export: Pipeline, *, progress: bool = False) -> Comparison:
    """Compare an export with Keras on the images of a reference.

    Both stages are compared on all images: the maps too of those that the classifier does not pass on.

    Args:
        reference: Outputs of the Keras pipeline.
        export: Pipeline of the exported networks, with the same rule.
        progress: Whether to show a progress bar on stderr.

    Raises:
        ValueError: If no image could be read.

    Example:
        >>> compare(Reference(pipeline, generate_images(512), folder), exported).flipped_images  # doctest: +SKIP
        0
    """
    images = reference.images
    outputs = _shown(export.probabilities(images.sources), len(images.sources), "Export", progress)
    both = enumerate(zip(reference, outputs, images.codes, strict=True), start=1)
    rows = pd.DataFrame(
        [
            _row(reference.pipeline, keras, other, code, keras.image_id or f"image {number}")
            for number, (keras, other, code) in both
            if keras.error is None and other.error is None
        ],
        columns=_Row._fields,
    )
    if rows.empty:
        raise ValueError(f"{images.origin}: none of the {len(images.sources)} images can be read: name others")
    flipped = rows[rows["flipped_image"]]
    return Comparison(
        origin=images.origin,
        image_ids=rows["name"].tolist(),
        unreadable=len(images.sources) - len(rows),
        passed=int(rows["passed"].sum()),
        positive=int(rows["positive"].sum()),
        probability_difference=float(rows["probability_difference"].max()),
        map_difference=float(rows["map_difference"].max()),
        closest=_number(rows["distance"].min()),
        flipped_gates=int(rows["flipped_gate"].sum()),
        flipped_images=len(flipped),
        flipped_by_gate=int(flipped["flipped_gate"].sum()),
        flipped_first="" if flipped.empty else flipped["name"].iloc[0],
        with_truth=int(rows["dice_keras"].notna().sum()),
        dice_keras=_number(rows["dice_keras"].mean()),
        dice_export=_number(rows["dice_export"].mean()),
    )


def _row(pipeline: Pipeline, keras: Probabilities, export: Probabilities, code: str, name: str) -> _Row:
    assert keras.prob_map is not None
    assert export.prob_map is not None
    passed, mask = _decide(pipeline, keras)
    export_passed, export_mask = _decide(pipeline, export)
    truth = None if code == UNKNOWN else rle.decode(code, keras.shape)
    return _Row(
        name,
        # A NaN of the export counts as the largest difference there can be, not as none.
        1.0 if math.isnan(export.probability) and pipeline.classifiers else abs(export.probability - keras.probability),
        float(np.nan_to_num(np.abs(export.prob_map - keras.prob_map), nan=1.0).max()),
        abs(keras.probability - pipeline.rule.classifier_threshold),
        passed,
        passed != export_passed,
        bool(mask.any()),
        bool(mask.any() != export_mask.any()),
        math.nan if truth is None else dice(mask, truth),
        math.nan if truth is None else dice(export_mask, truth),
    )


def _decide(pipeline: Pipeline, output: Probabilities) -> tuple[bool, np.ndarray]:
    """Return whether an image is passed on, and its mask."""
    assert output.prob_map is not None
    passed = bool(pipeline.rule.gates_in(output.probability))
    decision = decide(output.prob_map, output.shape, pipeline.rule, gated_in=passed, pixel_aspect=output.pixel_aspect)
    return passed, decision.mask


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _shown(outputs: Iterable[Probabilities], total: int, description: str, progress: bool) -> Iterable[Probabilities]:
    return track(outputs, description, total, console=Console(stderr=True)) if progress else outputs
