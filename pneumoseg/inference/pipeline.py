"""The staged pipeline: classify, segment positive images, upscale, remove small components (figure 1 of the paper)."""

import html
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from pneumoseg import rle
from pneumoseg.decision import DecisionRule, decide
from pneumoseg.geometry import letterbox_image
from pneumoseg.identifiers import image_id_of
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_image
from pneumoseg.inference.result import Result

_log = logging.getLogger(__name__)
Source = str | Path | np.ndarray


class Probabilities(NamedTuple):
    """Probabilities of one image from both networks, before anything is decided.

    Attributes:
        image_id: The stem of the file's name; empty for an array.
        probability: The classifier's probability of pneumothorax; NaN without a classifier or after an error.
        prob_map: float32, (size, size), the segmenter's probabilities in [0, 1]; None after an error.
        error: Why the image could not be read; None otherwise.
        shape: (H, W) of the image; (0, 0) after an error.
    """

    image_id: str
    probability: float
    prob_map: np.ndarray | None
    error: ImageError | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class Pipeline:
    """The networks and the rule that decides.

    Attributes:
        classifiers: Networks whose mean probability decides whether an image is segmented. Without any, all images are.
        segmenters: Networks whose mean probability map becomes the mask; all of one image size.
        rule: The thresholds and areas that turn probabilities into a mask.
        flip: Whether each network also sees the mirrored image, and both outputs are averaged (test-time augmentation).
        batch_size: Images per batch, in both stages.
        networks: SHA-256 of each bundle's spec, by name, see `PipelineFolder`; empty for networks without a bundle.
        origin: Facts by name about the origin of the networks and the rule, for display only.
        training_images: Ids of the images that any of the networks was trained on, as far as their bundles tell.

    Raises:
        ValueError: If the batch size is below 1, or the segmenters are not of one image size.

    Example:
        >>> pipeline = load_pipeline("runs/pipeline")  # doctest: +SKIP
        >>> result = pipeline.predict("image.dcm")  # doctest: +SKIP
        >>> result.stage, result.area_px  # doctest: +SKIP
        ('mask', 10234)
    """

    classifiers: Sequence[keras.Model]
    segmenters: Sequence[keras.Model]
    rule: DecisionRule = field(default_factory=DecisionRule)
    flip: bool = False
    batch_size: int = 4
    networks: dict[str, str] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict, compare=False)
    training_images: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        """Check the batch size and the image sizes."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        sizes = {model.input_shape[1] for model in self.segmenters}
        if len(sizes) != 1:
            raise ValueError(f"segmenters are averaged pixel by pixel: expected one image size, got {sorted(sizes)}")

    def predict(self, source: Source) -> Result:
        """Decide on one image.

        Args:
            source: Path of a DICOM file, or an image as `read_image` returns it: uint8, (H, W), white is dense.

        Raises:
            ImageError: If the file cannot be read.
            ValueError: If an array is not such an image.

        Example:
            >>> pipeline.predict("image.dcm").has_pneumothorax  # doctest: +SKIP
            True
        """
        result = next(self.predict_many([source]))
        if result.error is not None:
            raise result.error
        return result

    def predict_many(self, sources: Iterable[Source]) -> Iterator[Result]:
        """Decide on many images, in batches, reading ahead, at constant memory.

        Args:
            sources: Paths of DICOM files, or images, uint8 (H, W).

        Yields:
            One result per image, in order. A file that cannot be read gives a result with an `error`.

        Raises:
            ValueError: If an array is not an image, or a single path is given.
        """
        for chunk in self._chunks(sources):
            yield from self._decide(chunk)

    def leave_out_training_images(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a manifest whose images no network was trained on, and log how many are left out.

        Args:
            manifest: One row per image, see `index_dataset`.

        Raises:
            ValueError: If no image remains.
        """
        trained_on = manifest["image_id"].isin(self.training_images)
        if len(manifest) and trained_on.all():
            raise ValueError(
                f"all {len(manifest)} images of the manifest are training images of the pipeline: name a manifest of "
                "other images; the networks of a cross-validation are scored fold by fold"
            )
        if trained_on.any():
            _log.info(f"{trained_on.sum()} of {len(manifest)} images left out: the pipeline was trained on them")
        return manifest[~trained_on]

    def probabilities(self, sources: Iterable[Source]) -> Iterator[Probabilities]:
        """Run both networks over all images without deciding anything.

        Args:
            sources: Paths of DICOM files, or images, uint8 (H, W).

        Yields:
            The probabilities of each image, in order. A file that cannot be read gives an `error`.

        Raises:
            ValueError: If an array is not an image, or a single path is given.
        """
        for chunk in self._chunks(sources):
            images = [read.image for read in chunk if read.error is None]
            answers = zip(self._classify(images), self._segment(images), strict=True)
            for read in chunk:
                probability, prob_map = (math.nan, None) if read.error is not None else next(answers)
                yield Probabilities(read.image_id, probability, prob_map, read.error, read.image.shape)

    def _chunks(self, sources: Iterable[Source]) -> Iterator[list["_LoadedImage"]]:
        if isinstance(sources, str | Path):
            raise ValueError(f"expected many sources, got one path: call predict({str(sources)!r})")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from _read_ahead(sources, 8 * self.batch_size, pool)

    def _decide(self, chunk: list["_LoadedImage"]) -> list[Result]:
        readable = [number for number, read in enumerate(chunk) if read.error is None]
        probabilities = dict(zip(readable, self._classify([chunk[n].image for n in readable]), strict=True))
        gated_in = [
            n for n, probability in probabilities.items() if not self.classifiers or self.rule.gates_in(probability)
        ]
        maps = dict(zip(gated_in, self._segment([chunk[n].image for n in gated_in]), strict=True))
        results = []
        for number, read in enumerate(chunk):
            code, stage, shape = rle.EMPTY, "classifier" if read.error is None else "error", read.image.shape
            if number in maps:
                decision = decide(maps[number], shape, self.rule)
                code, stage = rle.encode(decision.mask), decision.stage
            probability = probabilities.get(number, math.nan)
            results.append(Result(read.image_id, probability, code, shape, stage, read.error, source=read.source))
        return results

    def _classify(self, images: list[np.ndarray]) -> list[float]:
        if not self.classifiers:
            return [math.nan] * len(images)
        return [float(output[0]) for output in self._outputs(self.classifiers, images)]

    def _segment(self, images: list[np.ndarray]) -> Iterator[np.ndarray]:
        for output in self._outputs(self.segmenters, images):
            yield output[..., 0]

    def _outputs(self, models: Sequence[keras.Model], images: list[np.ndarray]) -> Iterator[np.ndarray]:
        for first in range(0, len(images), self.batch_size):
            batch = images[first : first + self.batch_size]
            squares = {
                size: np.stack([letterbox_image(image[..., None], size) for image in batch])
                for size in {model.input_shape[1] for model in models}
            }
            outputs = [output for model in models for output in self._seen(model, squares[model.input_shape[1]])]
            yield from np.mean(outputs, axis=0)

    def _seen(self, model: keras.Model, squares: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the network's output, and with `flip` its output for the mirrored images; a map is mirrored back."""
        yield self._output(model, squares)
        if self.flip:
            output = self._output(model, np.ascontiguousarray(squares[:, :, ::-1]))
            yield output[:, :, ::-1] if output.ndim == 4 else output

    def _output(self, model: keras.Model, squares: np.ndarray) -> np.ndarray:
        # XLA would compile again for each number of images, which takes minutes, so batches are filled up. Without XLA
        # a smaller batch costs less than a full one, and is traced again only once.
        missing = self.batch_size - len(squares) if model.jit_compile else 0
        full = np.pad(squares, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return np.asarray(model.predict_on_batch(full))[: len(squares)]

    def _repr_html_(self) -> str:
        """Return the table that Jupyter shows."""
        networks = [
            (kind, model.name, f"{model.input_shape[1]} × {model.input_shape[2]}", f"{model.count_params():,}")
            for kind, models in (("classifier", self.classifiers), ("segmenter", self.segmenters))
            for model in models
        ]
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in network)}</tr>" for network in networks
        )
        rule = ", ".join(f"{name} {value:g}" for name, value in asdict(self.rule).items())
        facts = {"rule": rule, "mirrored images averaged": "yes" if self.flip else "no", **self.origin}
        lines = "".join(f"<br>{html.escape(name)}: {html.escape(value)}" for name, value in facts.items())
        header = "".join(f"<th>{name}</th>" for name in ("network", "name", "sees", "weights"))
        return f"<p><b>Pipeline</b>{lines}</p><table><tr>{header}</tr>{rows}</table>"


class _LoadedImage(NamedTuple):
    image_id: str
    source: Source
    image: np.ndarray
    error: ImageError | None


def _read(source: Source) -> _LoadedImage:
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype != np.uint8 or source.size == 0:
            raise ValueError(f"expected an image, uint8 (H, W), got an array of {source.dtype}, {source.shape}")
        return _LoadedImage("", source, source, None)
    try:
        return _LoadedImage(image_id_of(source), source, read_image(source), None)
    except ImageError as error:
        return _LoadedImage(image_id_of(source), source, np.zeros((0, 0), np.uint8), error)


def _read_ahead(sources: Iterable[Source], size: int, pool: ThreadPoolExecutor) -> Iterator[list[_LoadedImage]]:
    """Yield chunks of images, and read the next chunk while the caller works on this one."""
    remaining = iter(sources)

    def submit() -> list[Future[_LoadedImage]]:
        return [pool.submit(_read, source) for source in itertools.islice(remaining, size)]

    pending = submit()
    while pending:
        following = submit()
        yield [future.result() for future in pending]
        pending = following
