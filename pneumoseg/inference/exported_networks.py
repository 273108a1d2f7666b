"""Networks of a pipeline in the files of another engine, and the layers of them that stay in float32."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console
from rich.progress import track

from pneumoseg.engines import Network
from pneumoseg.engines.conversion import convert_model
from pneumoseg.engines.export_record import NetworkFacts
from pneumoseg.engines.exports import network_class
from pneumoseg.engines.keras_network import KerasNetwork
from pneumoseg.engines.quantization import copy_network, quantizable_layers, quantize_network
from pneumoseg.inference.comparison import Comparison, Reference, compare
from pneumoseg.inference.pipeline import Pipeline, Source, read_case

_log = logging.getLogger(__name__)
# Ranges are found from histograms of all activations, which takes seconds for an image of 1024 x 1024 pixels.
_MOST_PIXELS = 2**24
_BLOCKS = 12
_RANKED_ON = 32
# Numbers of blocks that are kept in float32, in turn; then all are. With more than half of them nothing is gained.
_KEPT = (1, 3, 6)


class ExportedNetwork:
    """One network in the files of another engine.

    Args:
        network: The network of Keras.
        bundle: Name of its bundle, such as "classifier_1".
        engine: "openvino" or "onnx".
        precision: "float32", "bfloat16" or "int8".
        folder: Existing folder for the file of the export.
        spare: Existing folder for files that the export does not contain.

    Attributes:
        path: The network's file in the export.
        kept: Names of the layers that stay in float32 though they could be quantised.
        quantised: Whether any layer is computed in 8 bits.
    """

    def __init__(
        self, network: KerasNetwork, bundle: str, engine: str, precision: str, folder: Path, spare: Path
    ) -> None:
        self.network, self.bundle, self.engine, self.precision = network, bundle, engine, precision
        self._make, suffix = network_class(engine)
        self.path = folder / f"{bundle}{suffix}"
        self._spare = spare
        self.kept: list[str] = []
        self.quantised = precision == "int8"
        # Calibration images.
        self._images = np.zeros((0, network.image_size, network.image_size, 1), np.uint8)
        self._ranking: list[list[str]] = []
        self._counts = iter(_KEPT)
        self._float = spare / self.path.name if precision == "int8" else self.path
        convert_model(network.model, engine, self._float)

    @property
    def facts(self) -> NetworkFacts:
        """Facts about the network for the record."""
        network = self.network
        return {"name": network.name, "image_size": network.image_size, "parameters": network.parameters}

    def load(self, batch_size: int, path: Path | None = None) -> Network:
        """Load the network as it is used later."""
        return self._make(path or self.path, **self.facts, precision=self.precision, batch_size=batch_size)

    def calibrate(self, images: np.ndarray) -> None:
        """Quantise the network.

        Args:
            images: Calibration images, uint8, (n, size, size, 1).
        """
        self._images = images
        _log.info(f"{self.bundle}: quantising on {len(self._images)} images")
        quantize_network(self._float, self.path, self._images)

    def keep_more(self, progress: bool) -> bool:
        """Quantise the network again with more layers in float32; return False if all are already."""
        if not self.quantised:
            return False
        self._ranking = self._ranking or self._rank(progress)
        self.kept = list(itertools.chain.from_iterable(self._ranking[: next(self._counts, None)]))
        layers = sum(map(len, self._ranking))
        self.quantised = len(self.kept) < layers
        if self.quantised:
            _log.info(f"{self.bundle}: {len(self.kept)} of {layers} layers stay in float32")
            quantize_network(self._float, self.path, self._images, kept=self.kept)
        else:
            _log.warning(f"NOT QUANTISED: {self.bundle}, all of its layers stay in float32")
            copy_network(self._float, self.path)
        return True

    def _rank(self, progress: bool) -> list[list[str]]:
        """Return the blocks of layers, those first that change the output the most by being quantised."""
        images = self._images[_evenly(len(self._images), _RANKED_ON)]
        expected = _outputs(self.load(len(images), self._float), images)
        trial = self._spare / f"trial_{self.path.name}"
        blocks = blocks_of(quantizable_layers(self._float))
        shown = track(blocks, f"Layers of {self.bundle}", console=Console(stderr=True)) if progress else blocks
        errors = []
        for block in shown:
            quantize_network(self._float, trial, images, kept=block)
            errors.append(float(np.abs(_outputs(self.load(len(images), trial), images) - expected).mean()))
        return [blocks[number] for number in np.argsort(errors, kind="stable")]


def _to_blame(comparison: Comparison) -> list[str]:
    """Return the kinds of networks that make an export decide otherwise."""
    # A gate that differs changes no mask, and no Dice, unless it changes the decision on the image.
    kinds = ["classifier"] if comparison.flipped_by_gate else []
    return kinds if kinds and comparison.flipped_by_gate == comparison.flipped_images else [*kinds, "segmenter"]


def blocks_of(layers: Sequence[str]) -> list[list[str]]:
    """Return the first layer, the last layer, and blocks of successive layers between them.

    Example:
        >>> blocks_of(["a", "b", "c", "d"])
        [['a'], ['d'], ['b'], ['c']]
    """
    first, *inner = layers
    last = [[inner.pop()]] if inner else []
    parts = np.array_split(np.array(inner, object), min(_BLOCKS - 2, len(inner))) if inner else []
    return [[first], *last, *(part.tolist() for part in parts)]


def _evenly(count: int, most: int) -> np.ndarray:
    """Return positions in a sequence, `most` at most, at even distances."""
    return np.linspace(0, count - 1, min(count, max(1, most))).astype(int)


def letterboxed(sources: Iterable[Source], size: int) -> np.ndarray:
    """Return images as a network of the given size sees them, without those that cannot be read, which are logged.

    Args:
        sources: Paths of image files, or images, uint8 (H, W).
        size: Height and width that the network takes, in pixels.

    Returns:
        uint8, (n, size, size, 1).

    Raises:
        ValueError: If no image can be read.
    """
    cases = [read_case(source, [size]) for source in sources]
    if errors := [case.error for case in cases if case.error is not None]:
        _log.warning(f"{len(errors)} images to calibrate on cannot be read, the first: {errors[0]}")
    if len(errors) == len(cases):
        raise ValueError("no image to calibrate on can be read: name others with --calibrate")
    return np.stack([case.squares[size] for case in cases if case.error is None])[..., None]


def _outputs(network: Network, images: np.ndarray) -> np.ndarray:
    return np.concatenate([network(images[number : number + 4]) for number in range(0, len(images), 4)])


class ExportedNetworks:
    """All networks of a pipeline in the files of another engine.

    Args:
        pipeline: The pipeline of Keras, see `KerasNetwork`.
        engine: "openvino" or "onnx".
        precision: "float32", "bfloat16" or "int8".
        temporary: Existing empty folder; the files of the export are in its folder `whole`.
    """

    def __init__(self, pipeline: Pipeline, engine: str, precision: str, temporary: Path) -> None:
        self._pipeline, self._precision = pipeline, precision
        self.folder, spare = temporary / "whole", temporary / "spare"
        self.folder.mkdir()
        spare.mkdir()
        self._networks = {
            kind: [
                ExportedNetwork(cast(KerasNetwork, network), f"{kind}_{number}", engine, precision, self.folder, spare)
                for number, network in enumerate(networks, start=1)
            ]
            for kind, networks in (("classifier", pipeline.classifiers), ("segmenter", pipeline.segmenters))
        }

    def __iter__(self) -> Iterator[ExportedNetwork]:
        """Yield the classifiers, then the segmenters."""
        yield from itertools.chain.from_iterable(self._networks.values())

    def calibrate(self, sources: Sequence[Source]) -> None:
        """Quantise the networks, each on as many of the images as the time for large ones allows."""
        squares = {}
        for size in {each.network.image_size for each in self}:
            chosen = [sources[number] for number in _evenly(len(sources), _MOST_PIXELS // size**2)]
            squares[size] = letterboxed(chosen, size)
        for each in self:
            each.calibrate(squares[each.network.image_size])

    def settle(self, reference: Reference, *, search: bool = True, progress: bool = False) -> Comparison:
        """Compare with Keras, and keep more layers in float32 until the bounds hold or nothing is left to try.

        Args:
            reference: Outputs of the Keras pipeline.
            search: Whether to keep more layers; if not, there is one comparison.
            progress: Whether to show progress bars on stderr.

        Returns:
            The last comparison, of the networks as they are in `folder`.
        """
        comparison = self._compare(reference, progress)
        while search and self._precision == "int8" and (problems := comparison.problems(self._precision)):
            _log.info(f"{'; '.join(problems)}: looking for layers that must stay in float32")
            if not any([self._keep_more(kind, progress) for kind in _to_blame(comparison)]):  # noqa: C419  # all of them
                break
            comparison = self._compare(reference, progress)
        return comparison

    def _keep_more(self, kind: str, progress: bool) -> bool:
        return any([each.keep_more(progress) for each in self._networks[kind]])  # noqa: C419  # each of them keeps more

    def _compare(self, reference: Reference, progress: bool) -> Comparison:
        batch_size = self._pipeline.batch_size
        loaded = {kind: [each.load(batch_size) for each in several] for kind, several in self._networks.items()}
        export = replace(self._pipeline, classifiers=loaded["classifier"], segmenters=loaded["segmenter"])
        return compare(reference, export, progress=progress)
