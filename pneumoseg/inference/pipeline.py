"""The staged pipeline: classify, segment positive images, upscale, remove small components (figure 1 of the paper)."""

import functools
import hashlib
import html
import itertools
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pneumoseg import rle
from pneumoseg.decision import DecisionRule, decide
from pneumoseg.engines import Engine, Network
from pneumoseg.geometry import letterbox_array
from pneumoseg.identifiers import image_id_of
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_with_header
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
        pixel_aspect: Height of a pixel divided by its width.
    """

    image_id: str
    probability: float
    prob_map: np.ndarray | None
    error: ImageError | None
    shape: tuple[int, int]
    pixel_aspect: float


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
        engine: The library, and the precision, that computes the networks.

    Raises:
        ValueError: If the batch size is below 1, or the segmenters are not of one image size.

    Example:
        >>> pipeline = load_pipeline("runs/pipeline")  # doctest: +SKIP
        >>> result = pipeline.predict("image.dcm")  # doctest: +SKIP
        >>> result.stage, result.area_px  # doctest: +SKIP
        ('mask', 10234)
    """

    classifiers: Sequence[Network]
    segmenters: Sequence[Network]
    rule: DecisionRule = field(default_factory=DecisionRule)
    flip: bool = False
    batch_size: int = 4
    networks: dict[str, str] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict, compare=False)
    training_images: frozenset[str] = field(default=frozenset(), repr=False)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        """Check the batch size and the image sizes."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        sizes = {network.image_size for network in self.segmenters}
        if len(sizes) != 1:
            raise ValueError(f"segmenters are averaged pixel by pixel: expected one image size, got {sorted(sizes)}")

    def predict(self, source: Source) -> Result:
        """Decide on one image.

        Args:
            source: Path of an image file, or an image as `read_image` returns it: uint8, (H, W), white is dense, with
                square pixels.

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

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the networks, the rule, `flip` and any engine but Keras, in hexadecimal; '' without bundles."""
        if not self.networks:
            return ""
        content = {"networks": self.networks, "rule": asdict(self.rule), "flip": self.flip}
        if self.engine != Engine():
            content["engine"] = asdict(self.engine)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def chunk_size(self) -> int:
        """Number of images that are read, and run through the networks, together; their results come together.

        The last bits of a network's output may depend on the other images of its batch. The outputs for whole chunks
        are the same whether a process runs one of them or many.
        """
        return 8 * self.batch_size

    def predict_many(self, sources: Iterable[Source], *, keep_maps: bool = False) -> Iterator[Result]:
        """Decide on many images, in batches, reading ahead, at constant memory.

        Args:
            sources: Paths of image files, or images, uint8 (H, W) with square pixels.
            keep_maps: Whether each result holds the segmenter's probability map. The segmenter then also runs on the
                images that the classifier does not pass on; the decisions stay the same.

        Yields:
            One result per image, in order. A file that cannot be read gives a result with an `error`.

        Raises:
            ValueError: If an array is not an image, or a single path is given.
        """
        for chunk in self._chunks(sources):
            yield from self._decide(chunk, keep_maps=keep_maps)

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
            sources: Paths of image files, or images, uint8 (H, W) with square pixels.

        Yields:
            The probabilities of each image, in order. A file that cannot be read gives an `error`.

        Raises:
            ValueError: If an array is not an image, or a single path is given.
        """
        for chunk in self._chunks(sources):
            readable = [read for read in chunk if read.error is None]
            answers = zip(self._classify(readable), self._segment(readable), strict=True)
            for read in chunk:
                probability, prob_map = (math.nan, None) if read.error is not None else next(answers)
                yield Probabilities(
                    read.image_id, probability, prob_map, read.error, read.image.shape, read.pixel_aspect
                )

    def _chunks(self, sources: Iterable[Source]) -> Iterator[list["_LoadedImage"]]:
        if isinstance(sources, str | Path):
            raise ValueError(f"expected many sources, got one path: call predict({str(sources)!r})")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from _read_ahead(sources, self.chunk_size, pool)

    def _decide(self, chunk: list["_LoadedImage"], *, keep_maps: bool) -> Iterator[Result]:
        readable = [read for read in chunk if read.error is None]
        probabilities = self._classify(readable)
        gated_in = [not self.classifiers or bool(self.rule.gates_in(probability)) for probability in probabilities]
        maps = self._segment(list(itertools.compress(readable, gated_in)))
        # In batches of their own, so that the maps that decide do not depend on `keep_maps`.
        others = self._segment([read for read, passed in zip(readable, gated_in, strict=True) if not passed])
        answers = zip(probabilities, gated_in, strict=True)
        for read in chunk:
            probability, passed = (math.nan, False) if read.error is not None else next(answers)
            prob_map = next(maps) if passed else None
            kept_map = next(others) if keep_maps and not passed and read.error is None else prob_map
            yield self._result(read, probability, prob_map, kept_map if keep_maps else None)

    def _result(
        self, read: "_LoadedImage", probability: float, prob_map: np.ndarray | None, kept_map: np.ndarray | None
    ) -> Result:
        code, stage, shape = rle.EMPTY, "classifier" if read.error is None else "error", read.image.shape
        if prob_map is not None:
            decision = decide(prob_map, shape, self.rule, pixel_aspect=read.pixel_aspect)
            code, stage = rle.encode(decision.mask), decision.stage
        return Result(
            read.image_id,
            probability,
            code,
            shape,
            stage,
            read.error,
            read.source,
            read.pixel_spacing,
            read.spacing_source,
            read.pixel_aspect,
            kept_map,
            self.digest,
        )

    def _classify(self, images: list["_LoadedImage"]) -> list[float]:
        if not self.classifiers:
            return [math.nan] * len(images)
        return [float(output[0]) for output in self._outputs(self.classifiers, images)]

    def _segment(self, images: list["_LoadedImage"]) -> Iterator[np.ndarray]:
        for output in self._outputs(self.segmenters, images):
            yield output[..., 0]

    def _outputs(self, networks: Sequence[Network], images: list["_LoadedImage"]) -> Iterator[np.ndarray]:
        for first in range(0, len(images), self.batch_size):
            batch = images[first : first + self.batch_size]
            squares = {
                size: np.stack([letterbox_array(read.image, size, read.pixel_aspect) for read in batch])[..., None]
                for size in {network.image_size for network in networks}
            }
            outputs = [output for network in networks for output in self._seen(network, squares[network.image_size])]
            yield from np.mean(outputs, axis=0)

    def _seen(self, network: Network, squares: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the network's output, and with `flip` its output for the mirrored images; a map is mirrored back."""
        yield network(squares)
        if self.flip:
            output = network(np.ascontiguousarray(squares[:, :, ::-1]))
            yield output[:, :, ::-1] if output.ndim == 4 else output

    def _repr_html_(self) -> str:
        """Return the table that Jupyter shows."""
        facts_of_networks = [
            (kind, network.name, f"{network.image_size} × {network.image_size}", f"{network.parameters:,}")
            for kind, networks in (("classifier", self.classifiers), ("segmenter", self.segmenters))
            for network in networks
        ]
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in network)}</tr>" for network in facts_of_networks
        )
        rule = ", ".join(f"{name} {value:g}" for name, value in asdict(self.rule).items())
        flip = "yes" if self.flip else "no"
        facts = {"engine": str(self.engine), "rule": rule, "mirrored images averaged": flip, **self.origin}
        lines = "".join(f"<br>{html.escape(name)}: {html.escape(value)}" for name, value in facts.items())
        header = "".join(f"<th>{name}</th>" for name in ("network", "name", "sees", "weights"))
        return f"<p><b>Pipeline</b>{lines}</p><table><tr>{header}</tr>{rows}</table>"


class _LoadedImage(NamedTuple):
    image_id: str
    source: Source
    image: np.ndarray
    error: ImageError | None = None
    pixel_spacing: tuple[float, float] | None = None
    spacing_source: str = ""
    pixel_aspect: float = 1.0


def _read(source: Source) -> _LoadedImage:
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype != np.uint8 or source.size == 0:
            raise ValueError(f"expected an image, uint8 (H, W), got an array of {source.dtype}, {source.shape}")
        return _LoadedImage("", source, source)
    try:
        image, header = read_with_header(source)
    except ImageError as error:
        return _LoadedImage(image_id_of(source), source, np.zeros((0, 0), np.uint8), error)
    facts = header.pixel_spacing, header.spacing_source, header.pixel_aspect
    return _LoadedImage(image_id_of(source), source, image, None, *facts)


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
