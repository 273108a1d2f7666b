"""The staged decision: classify, segment what is positive, upscale, drop small regions (figure 1 of the paper)."""

import io
import itertools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np

from pneumoseg import rle
from pneumoseg.data.loaders import resize_to_square
from pneumoseg.dicom import DicomError, read_image
from pneumoseg.models.bundle import Bundle, BundleError, load_bundle
from pneumoseg.overlay import draw_outlines
from pneumoseg.postprocessing import remove_small_components, restore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBERS_FILE = "pipeline.json"
_BUILDERS = ("classifier", "segmenter")


@dataclass(frozen=True)
class Result:
    """What the pipeline says of one image.

    Attributes:
        image_id: The file's stem; empty for an array.
        probability: The classifier's probability of pneumothorax; NaN where there is no classifier or an error.
        rle: The mask's run-length code, `-1` where there is none.
        shape: (H, W) of the image and the mask; (0, 0) where the image could not be read.
        stage: Which stage decided: "classifier" (not above its threshold), "segmenter" (it drew nothing), "elimination"
            (what it drew was too small), "mask" (a mask was left), "error".
        error: Why the image could not be read; None otherwise.
        source: The path or array it came from.
    """

    image_id: str
    probability: float
    rle: str = field(repr=False)
    shape: tuple[int, int]
    stage: str
    error: DicomError | None = None
    source: str | Path | np.ndarray = field(default="", repr=False, compare=False)

    @property
    def mask(self) -> np.ndarray:
        """The final mask, bool (H, W)."""
        return rle.decode(self.rle, self.shape)

    @property
    def has_pneumothorax(self) -> bool:
        """Whether a mask was left."""
        return self.rle != rle.EMPTY

    @property
    def area_px(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())

    def show(self) -> "Figure":
        """Draw the image with the mask's outline.

        Raises:
            DicomError: If the image cannot be read.
        """
        image = self.source if isinstance(self.source, np.ndarray) else read_image(self.source)
        return draw_outlines(image, {"prediction": self.mask}, title=f"{self.image_id}  {self._summary()}".strip())

    def _repr_png_(self) -> bytes | None:
        """What Jupyter shows of a result: the picture, or nothing but the text where the image cannot be read."""
        if self.error is not None:
            return None
        file = io.BytesIO()
        self.show().savefig(file)
        return file.getvalue()

    def _summary(self) -> str:
        verdict = f"pneumothorax, {self.area_px} px" if self.has_pneumothorax else "no pneumothorax"
        return f"{verdict} (probability {self.probability:.2f}, decided by the {self.stage})"


@dataclass(frozen=True)
class Pipeline:
    """Both networks and the numbers that decide.

    Attributes:
        classifier: Decides whether an image is segmented; None to segment all.
        segmenter: Draws the mask.
        classifier_threshold: An image with a greater probability is segmented.
        mask_threshold: A pixel with a greater probability belongs to the mask.
        minimum_area: Components with fewer pixels, on a 1024 x 1024 grid, are dropped (table 2).
        batch_size: Images a batch, in both stages.
    """

    classifier: keras.Model | None
    segmenter: keras.Model
    classifier_threshold: float = 0.5
    mask_threshold: float = 0.5
    minimum_area: float = 3500
    batch_size: int = 4

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")

    def predict(self, source: str | Path | np.ndarray) -> Result:
        """Decide on one image.

        Args:
            source: A DICOM file, or an image as `read_image` gives it: uint8, (H, W), white is dense.

        Raises:
            DicomError: If the file cannot be read.
            ValueError: If an array is no such image.
        """
        result = next(self.predict_many([source]))
        if result.error is not None:
            raise result.error
        return result

    def predict_many(self, sources: Iterable[str | Path | np.ndarray]) -> Iterator[Result]:
        """Decide on many images, reading ahead, in batches, at constant memory.

        Args:
            sources: As for `predict`.

        Yields:
            One result an image, in order. A file that cannot be read is a result with an `error`.

        Raises:
            ValueError: If an array is no image, or one path is given instead of many.
        """
        if isinstance(sources, str | Path):
            raise ValueError(f"predict_many takes many sources, got one: predict({str(sources)!r}) takes one")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for chunk in _read_ahead(sources, 8 * self.batch_size, pool):
                yield from self._decide(chunk)

    def _decide(self, chunk: list["_Read"]) -> list[Result]:
        readable = [number for number, read in enumerate(chunk) if read.error is None]
        probabilities = dict(zip(readable, self._classify([chunk[n].image for n in readable]), strict=True))
        chosen = [n for n, p in probabilities.items() if self.classifier is None or p > self.classifier_threshold]
        outlines = dict(zip(chosen, self._segment([chunk[n].image for n in chosen]), strict=True))
        results = []
        for number, read in enumerate(chunk):
            code, stage = outlines.get(number, (rle.EMPTY, "classifier" if read.error is None else "error"))
            probability = probabilities.get(number, math.nan)
            results.append(
                Result(read.image_id, probability, code, read.image.shape, stage, read.error, source=read.source)
            )
        return results

    def _classify(self, images: list[np.ndarray]) -> list[float]:
        if self.classifier is None:
            return [math.nan] * len(images)
        return [float(output[0]) for output in _outputs(self.classifier, images, self.batch_size)]

    def _segment(self, images: list[np.ndarray]) -> Iterator[tuple[str, str]]:
        """Run-length code and deciding stage of each image."""
        for image, output in zip(images, _outputs(self.segmenter, images, self.batch_size), strict=True):
            drawn = restore(output[..., 0], *image.shape) > self.mask_threshold
            mask = remove_small_components(drawn, self.minimum_area)
            yield rle.encode(mask), "mask" if mask.any() else "elimination" if drawn.any() else "segmenter"


def load_pipeline(folder: str | Path, batch_size: int = 4) -> Pipeline:
    """Load a pipeline that `assemble_pipeline` wrote.

    Args:
        folder: Holds `pipeline.json` and the bundles `classifier/` and `segmenter/`.
        batch_size: Images a batch, in both stages.

    Raises:
        BundleError: If something is missing, damaged or changed.
    """
    folder = Path(folder)
    numbers = _read_numbers(folder / _NUMBERS_FILE)
    networks = {builder: _bundle_of(folder / builder, builder).model for builder in _BUILDERS}
    return Pipeline(**networks, **numbers, batch_size=batch_size)


def assemble_pipeline(
    classifier: str | Path,
    segmenter: str | Path,
    folder: str | Path,
    *,
    classifier_threshold: float | None = None,
    mask_threshold: float | None = None,
    minimum_area: float = 3500,
) -> None:
    """Put two bundles and the deciding numbers into one folder that `load_pipeline` reads.

    Args:
        classifier: The classifier's bundle.
        segmenter: The segmenter's bundle.
        folder: Replaced if it holds a pipeline.
        classifier_threshold: None takes the one in the bundle; likewise `mask_threshold`.
        mask_threshold: See `Pipeline`.
        minimum_area: See `Pipeline`.

    Raises:
        BundleError: If a bundle is missing, damaged, changed, or of the other network, or has no threshold.
        FileExistsError: If the folder holds anything but a pipeline.
        ValueError: If a number is out of its range.
    """
    folder = Path(folder)
    if folder.exists() and {path.name for path in folder.iterdir()} != {_NUMBERS_FILE, *_BUILDERS}:
        raise FileExistsError(f"{folder} exists and holds something else than a pipeline: choose another folder")
    numbers = {
        "classifier_threshold": _threshold(classifier, "classifier", classifier_threshold),
        "mask_threshold": _threshold(segmenter, "segmenter", mask_threshold),
        "minimum_area": minimum_area,
    }
    _check_numbers(numbers)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / "whole"
        shutil.copytree(classifier, whole / "classifier")
        shutil.copytree(segmenter, whole / "segmenter")
        (whole / _NUMBERS_FILE).write_text(json.dumps(numbers, indent=2), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        whole.rename(folder)


class _Read(NamedTuple):
    image_id: str
    source: str | Path | np.ndarray
    image: np.ndarray
    error: DicomError | None


def _read(source: str | Path | np.ndarray) -> _Read:
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype != np.uint8 or source.size == 0:
            raise ValueError(f"an image is uint8, (H, W), this array is {source.dtype}, {source.shape}")
        return _Read("", source, source, None)
    try:
        return _Read(Path(source).stem, source, read_image(source), None)
    except DicomError as error:
        return _Read(Path(source).stem, source, np.zeros((0, 0), np.uint8), error)


def _read_ahead(
    sources: Iterable[str | Path | np.ndarray], size: int, pool: ThreadPoolExecutor
) -> Iterator[list[_Read]]:
    """Chunks of images; the next one is being read while the caller works on this one."""
    remaining = iter(sources)

    def submit() -> list[Future[_Read]]:
        return [pool.submit(_read, source) for source in itertools.islice(remaining, size)]

    pending = submit()
    while pending:
        following = submit()
        yield [future.result() for future in pending]
        pending = following


def _outputs(model: keras.Model, images: list[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    size = model.input_shape[1]
    for first in range(0, len(images), batch_size):
        batch = [resize_to_square(image[..., None], size) for image in images[first : first + batch_size]]
        yield from np.asarray(model.predict_on_batch(np.stack(batch)))


def _bundle_of(folder: str | Path, builder: str) -> Bundle:
    bundle = load_bundle(folder)
    if bundle.builder != builder:
        raise BundleError(f"{folder}: holds a {bundle.builder}, expected a {builder}")
    return bundle


def _threshold(folder: str | Path, builder: str, chosen: float | None) -> float:
    bundle = _bundle_of(folder, builder)
    if chosen is not None:
        return chosen
    if "probability" not in bundle.thresholds:
        raise BundleError(f"{folder}: holds no threshold named probability; choose one")
    return bundle.thresholds["probability"]


def _read_numbers(path: Path) -> dict[str, float]:
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        _check_numbers(numbers)
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent}: no pipeline, it has no {path.name}; make one with `pneumoseg assemble`"
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {error}; assemble the pipeline anew") from error
    return numbers


def _check_numbers(numbers: dict[str, float]) -> None:
    limits = {"classifier_threshold": 1.0, "mask_threshold": 1.0, "minimum_area": math.inf}
    if not isinstance(numbers, dict) or numbers.keys() != limits.keys():
        raise ValueError(f"expected the numbers {', '.join(limits)}")
    for name, limit in limits.items():
        value = numbers[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= limit:
            raise ValueError(f"{name} is {value!r}, expected a number from 0 to {limit}")
