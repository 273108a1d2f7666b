"""The staged pipeline: classify, segment positive images, upscale, remove small components (figure 1 of the paper)."""

import functools
import hashlib
import html
import itertools
import json
import logging
import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pneumoseg import rle
from pneumoseg.decision import DecisionRule, decide
from pneumoseg.engines import Engine, Network
from pneumoseg.geometry import letterbox_array
from pneumoseg.identifiers import image_id_of
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_with_header
from pneumoseg.inference.result import Result
from pneumoseg.inference.stages import Stage, run_stages
from pneumoseg.remote_files import CONNECTIONS, is_remote

if TYPE_CHECKING:
    import pandas as pd

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
        content = {"networks": self.networks, "rule": asdict(self.rule), "flip": self.flip, **self.engine.identity}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def chunk_size(self) -> int:
        """Number of images whose results do not depend on the images before and after them.

        The last bits of a network's output may depend on the other images of its batch, and no batch holds images of
        two chunks. So the outputs for whole chunks are the same whether a process runs one of them or many.
        """
        return 8 * self.batch_size

    def predict_many(self, sources: Iterable[Source], *, keep_maps: bool = False) -> Iterator[Result]:
        """Decide on many images, in batches, reading ahead, at constant memory.

        Reading, the classifier, the segmenter and the decision work at the same time, on different images.

        Args:
            sources: Paths of image files, or images, uint8 (H, W) with square pixels.
            keep_maps: Whether each result holds the segmenter's probability map. The segmenter then also runs on the
                images that the classifier does not pass on; the decisions stay the same.

        Yields:
            One result per image, in order. A file that cannot be read gives a result with an `error`.

        Raises:
            ValueError: If an array is not an image, or a single path is given.
        """
        yield from self._run(
            sources,
            self._classify,
            functools.partial(self._segment, group=functools.partial(self._group, keep_maps=keep_maps)),
            functools.partial(self._decide, keep_maps=keep_maps),
        )

    def leave_out_training_images(self, manifest: "pd.DataFrame") -> "pd.DataFrame":
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
        yield from self._run(
            sources,
            self._classify,
            functools.partial(self._segment, group=lambda case: case.error is None),
            functools.partial(map, Case.probabilities),
        )

    def _run(self, sources: Iterable[Source], *stages: Stage) -> Iterator[Any]:
        if isinstance(sources, str | Path):
            raise ValueError(f"expected many sources, got one path: call predict({str(sources)!r})")
        sizes = {network.image_size for network in (*self.classifiers, *self.segmenters)}
        read = functools.partial(read_case, sizes=sizes)
        remaining = iter(sources)
        first = list(itertools.islice(remaining, 1))
        is_far = any(isinstance(source, str) and is_remote(source) for source in first)
        readers = CONNECTIONS if is_far else os.cpu_count() or 1  # readers of URLs wait for answers, not for cores
        return run_stages(itertools.chain(first, remaining), read, stages, chunk_size=self.chunk_size, readers=readers)

    def _classify(self, cases: Iterator["Case"]) -> Iterator["Case"]:
        def classify(batch: list[Case]) -> None:
            for case, output in zip(batch, self._outputs(self.classifiers, batch), strict=True):
                case.probability = float(output[0])

        return _in_batches(cases, self.batch_size, classify, lambda case: bool(self.classifiers) and case.error is None)

    def _segment(self, cases: Iterator["Case"], group: Callable[["Case"], Hashable]) -> Iterator["Case"]:
        def segment(batch: list[Case]) -> None:
            for case, output in zip(batch, self._outputs(self.segmenters, batch), strict=True):
                case.prob_map = output[..., 0]

        return _in_batches(cases, self.batch_size, segment, group)

    def _group(self, case: "Case", *, keep_maps: bool) -> str:
        """Return the images that the segmenter sees together with this one.

        Images that the classifier does not pass on have batches of their own, so that the maps that decide do not
        depend on `keep_maps`.
        """
        if case.error is not None:
            return ""
        return "passed" if self._gates_in(case) else "not passed" if keep_maps else ""

    def _gates_in(self, case: "Case") -> bool:
        return case.error is None and (not self.classifiers or bool(self.rule.gates_in(case.probability)))

    def _decide(self, cases: Iterator["Case"], *, keep_maps: bool) -> Iterator[Result]:
        for case in cases:
            code, stage = rle.EMPTY, "classifier" if case.error is None else "error"
            if case.prob_map is not None and self._gates_in(case):
                decision = decide(case.prob_map, case.shape, self.rule, pixel_aspect=case.pixel_aspect)
                code, stage = rle.encode(decision.mask), decision.stage
            yield Result(
                case.image_id,
                case.probability,
                code,
                case.shape,
                stage,
                case.error,
                case.source,
                case.pixel_spacing,
                case.spacing_source,
                case.pixel_aspect,
                case.prob_map if keep_maps else None,
                self.digest,
            )

    def _outputs(self, networks: Sequence[Network], batch: list["Case"]) -> np.ndarray:
        squares = {
            size: np.stack([case.squares[size] for case in batch])[..., None]
            for size in {network.image_size for network in networks}
        }
        outputs = [output for network in networks for output in self._seen(network, squares[network.image_size])]
        return outputs[0] if len(outputs) == 1 else np.mean(outputs, axis=0)

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


@dataclass(slots=True)
class Case:
    """An image on its way through the stages: what the networks see of it, and what they have answered so far."""

    image_id: str
    source: Source
    shape: tuple[int, int]
    squares: dict[int, np.ndarray]
    error: ImageError | None = None
    pixel_spacing: tuple[float, float] | None = None
    spacing_source: str = ""
    pixel_aspect: float = 1.0
    probability: float = math.nan
    prob_map: np.ndarray | None = None

    def probabilities(self) -> Probabilities:
        """Return what the networks have answered."""
        return Probabilities(self.image_id, self.probability, self.prob_map, self.error, self.shape, self.pixel_aspect)


def read_case(source: Source, sizes: Iterable[int]) -> Case:
    """Read an image and keep only the squares that the networks see.

    Args:
        source: Path of an image file, or an image, uint8 (H, W) with square pixels.
        sizes: Heights and widths that the networks take, in pixels.

    Returns:
        The squares, uint8 (size, size), by size; none and an `error` if the file cannot be read.

    Raises:
        ValueError: If an array is not an image.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype != np.uint8 or source.size == 0:
            raise ValueError(f"expected an image, uint8 (H, W), got an array of {source.dtype}, {source.shape}")
        return Case("", source, source.shape, {size: letterbox_array(source, size) for size in sizes})
    try:
        image, header = read_with_header(source)
    except ImageError as error:
        return Case(image_id_of(source), source, (0, 0), {}, error)
    squares = {size: letterbox_array(image, size, header.pixel_aspect) for size in sizes}
    facts = header.pixel_spacing, header.spacing_source, header.pixel_aspect
    return Case(image_id_of(source), source, image.shape, squares, None, *facts)


def _in_batches(
    cases: Iterator[Case], size: int, work: Callable[[list[Case]], None], group: Callable[[Case], Hashable]
) -> Iterator[Case]:
    """Yield the images of a chunk in order, each as soon as its batch has been worked on.

    Args:
        cases: The images of one chunk.
        size: Number of images per batch; the last batch of a group may be smaller.
        work: Function that is called with each batch.
        group: Returns which images may share a batch with this one; nothing is done with an image without a group.
    """
    batches, waiting = defaultdict[Hashable, list[Case]](list), deque[tuple[Case, list[Case]]]()
    for case in cases:
        name = group(case)
        batch = batches[name] if name else []
        batch += [case] if name else []
        waiting.append((case, batch))
        if len(batch) == size:
            work(batches.pop(name))
            batch.clear()
        while waiting and not waiting[0][1]:
            yield waiting.popleft()[0]
    for batch in batches.values():
        work(batch)
    yield from (case for case, _ in waiting)
