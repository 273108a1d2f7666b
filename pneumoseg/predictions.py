"""Cache of the predictions of both networks for a set of images, so that rules can be tried without running them again.

A folder of predictions holds:

- `predictions.json`: the networks, and their engine unless it is Keras.
- `manifest.csv`: the images with their true masks.
- `predictions.csv`: the classifier's probabilities; `partial.csv` until all images are done.
- `maps/`: the segmenter's probability maps, one PNG per image, uint8: 255 times the probability.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.progress import track

from pneumoseg.atomic_write import atomic_write
from pneumoseg.data.files import size_changed
from pneumoseg.data.index import load_manifest
from pneumoseg.data.manifest_files import csv_text
from pneumoseg.data.masks import has_mask, leave_out_unknown_masks
from pneumoseg.decision import dequantize, quantize
from pneumoseg.engines import Engine
from pneumoseg.identifiers import read_text_table
from pneumoseg.inference import Pipeline, Probabilities

_IDENTITY, _MANIFEST, _MAPS = "predictions.json", "manifest.csv", "maps"
_TABLE, _PARTIAL = "predictions.csv", "partial.csv"
_COLUMNS = ("image_id", "probability", "seconds", "error")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Cached predictions of both networks for a set of images.

    Attributes:
        folder: Folder of the cache; the first one if several were pooled.
        maps: Path of each image's probability map, (n,).
        manifest: One row per image, see `index_dataset`.
        probability: The classifier's probabilities, float64 (n,), in the manifest's order; NaN if the image could not
            be read.
        errors: Why each image could not be read, (n,); empty if it could.
        networks: SHA-256 of each bundle's spec, by name, see `PipelineFolder`.
        flip: Whether the mirrored images were averaged in.
        seconds: Mean time per image, in seconds.
        engine: The library, and the precision, that computed the networks.
    """

    folder: Path
    maps: Sequence[Path]
    manifest: pd.DataFrame
    probability: np.ndarray
    errors: Sequence[str]
    networks: Mapping[str, str]
    flip: bool
    seconds: float
    engine: Engine = dataclasses.field(default_factory=Engine)

    def select(self, mask: np.ndarray) -> "Predictions":
        """Return the predictions of some of the images.

        Args:
            mask: bool, (n,), whether to keep each image.

        Example:
            >>> women = predictions.select(predictions.manifest["sex"] == "F")  # doctest: +SKIP
        """
        mask = np.asarray(mask)
        manifest = self.manifest[mask].reset_index(drop=True)
        maps = list(itertools.compress(self.maps, mask))
        errors = list(itertools.compress(self.errors, mask))
        probability = self.probability[mask]
        return dataclasses.replace(self, maps=maps, manifest=manifest, probability=probability, errors=errors)

    def with_masks(self, purpose: str) -> "Predictions":
        """Return the predictions of the images whose true masks are known, and log how many are left out.

        Args:
            purpose: Use of the predictions, for the message, such as "the decision rule".

        Raises:
            ValueError: If no image remains.

        Example:
            >>> masked = predictions.with_masks("this comparison")  # doctest: +SKIP
        """
        known = len(leave_out_unknown_masks(self.manifest, purpose))
        return self if known == len(self.manifest) else self.select(has_mask(self.manifest))

    def prob_map(self, row: int) -> np.ndarray | None:
        """Return the segmenter's probability map of one image.

        Args:
            row: Position of the image in the manifest.

        Returns:
            float64, (size, size), probabilities in [0, 1], rounded to multiples of 1/255; None if the image could not
            be read.

        Raises:
            ValueError: If the map's file is missing or damaged.
        """
        if self.errors[row]:
            return None
        path = self.maps[row]
        try:
            with Image.open(path) as image:
                return dequantize(np.asarray(image))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a damaged PNG
            raise ValueError(f"{path}: {error}; {_remedy(path.parents[1])}") from error


def cache_predictions(
    pipeline: Pipeline,
    manifest: pd.DataFrame,
    folder: str | Path,
    *,
    progress: bool = False,
) -> Predictions:
    """Run both networks over all images and write their predictions to a folder, at constant memory.

    Images that the pipeline was trained on are left out, so that no score can rest on them. A process that was stopped
    is continued by the next one with the same networks, engine and images. Other predictions in the folder are
    replaced.

    Args:
        pipeline: The networks. The rule is not used: each image is classified and segmented.
        manifest: One row per image, see `index_dataset`.
        folder: Folder to write.
        progress: Whether to show a progress bar.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If the manifest is empty, all its images are training images, an image id cannot name a file, or the
            pipeline has no classifier or one that gives NaN.

    Example:
        >>> predictions = cache_predictions(pipeline, manifest, "runs/predictions")  # doctest: +SKIP
    """
    folder = Path(folder)
    _check_names(manifest["image_id"])
    if manifest.empty:
        raise ValueError("the manifest has no row: index a folder with images")
    manifest = pipeline.leave_out_training_images(manifest).reset_index(drop=True)
    identity = {"networks": pipeline.networks, "flip": pipeline.flip, **pipeline.engine.identity}
    done = _open(folder, identity, manifest)
    todo = manifest[~manifest["image_id"].isin(done)]
    if len(todo):
        # The first batch builds the graphs of the networks. That time is not counted.
        list(pipeline.probabilities([np.zeros((8, 8), np.uint8)] * pipeline.batch_size))
    answers = track(pipeline.probabilities(todo["path"]), "Predicting", len(todo), disable=not progress)
    with open(folder / _PARTIAL, "a", newline="", encoding="utf-8") as file:
        writer, before = csv.writer(file, lineterminator="\n"), time.perf_counter()
        for row, answer in zip(todo.itertuples(), answers, strict=True):
            _require_number(row.path, answer)
            error = " ".join(str(answer.error or size_changed(row, answer.shape, answer.pixel_aspect) or "").split())
            if answer.prob_map is not None:
                Image.fromarray(quantize(answer.prob_map)).save(_map_path(folder, row.image_id))
            now = time.perf_counter()
            # An image is done once its row is written, which happens after its map is.
            probability = math.nan if error else answer.probability
            writer.writerow((row.image_id, probability, round(now - before, 6), error))
            file.flush()
            before = now
    with atomic_write(folder / _TABLE) as temporary:
        _whole_lines(folder / _PARTIAL).set_index("image_id").loc[manifest["image_id"]].to_csv(temporary)
    (folder / _PARTIAL).unlink()
    return load_predictions(folder)


def load_predictions(folder: str | Path) -> Predictions:
    """Load predictions that `cache_predictions` wrote.

    Args:
        folder: The folder that was written.

    Raises:
        FileNotFoundError: If the folder holds no predictions.
        ValueError: If the predictions are incomplete or damaged.

    Example:
        >>> predictions = load_predictions("runs/predictions")  # doctest: +SKIP
        >>> predictions.prob_map(0).max()  # doctest: +SKIP
        0.9019607843137255
    """
    folder = Path(folder)
    if not (folder / _IDENTITY).is_file():
        raise FileNotFoundError(f"{folder}: holds no predictions; write them with `pneumoseg cache-predictions`")
    try:
        identity = json.loads((folder / _IDENTITY).read_text(encoding="utf-8"))
        networks, flip = dict(identity["networks"]), bool(identity["flip"])
        engine = Engine(**identity.get("engine", {}))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / _IDENTITY}: {error!r}; {_remedy(folder)}") from error
    manifest = load_manifest(folder / _MANIFEST)
    if not (folder / _TABLE).exists():
        raise ValueError(
            f"{folder}: not all images are predicted; run the same `pneumoseg cache-predictions` again to continue"
        )
    table = _whole_lines(folder / _TABLE)
    try:
        numbers = table[["probability", "seconds"]].astype(np.float64)
        names, errors = table["image_id"], table["error"].tolist()
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder / _TABLE}: {error}; {_remedy(folder)}") from error
    if not names.equals(manifest["image_id"]):
        raise ValueError(f"{folder}: its tables are of different images; {_remedy(folder)}")
    probability, seconds = numbers["probability"].to_numpy(), float(numbers["seconds"].mean())
    maps = [_map_path(folder, image_id) for image_id in manifest["image_id"]]
    return Predictions(folder, maps, manifest, probability, errors, networks, flip, seconds, engine)


def pool(parts: Sequence[Predictions]) -> Predictions:
    """Join predictions of different images, such as those of each fold for the images it was not trained on.

    Args:
        parts: One or more predictions, without an image in common.

    Raises:
        ValueError: If there are none, two hold the same image, some average mirrored images and some do not, or
            different engines computed them.

    Example:
        >>> everything = pool([load_predictions("fold_1"), load_predictions("fold_2")])  # doctest: +SKIP
    """
    if not parts:
        raise ValueError("there are no predictions to put together")
    first = parts[0]
    names = pd.concat([part.manifest["image_id"] for part in parts])
    if names.duplicated().any():
        raise ValueError(f"{names[names.duplicated()].iloc[0]} is in more than one of the predictions")
    if len({part.flip for part in parts}) > 1:
        raise ValueError("some of the predictions average mirrored images and some do not")
    if len(engines := {str(part.engine) for part in parts}) > 1:
        raise ValueError(f"the predictions were computed by different engines: {'; '.join(sorted(engines))}")
    return Predictions(
        first.folder,
        [path for part in parts for path in part.maps],
        pd.concat([part.manifest for part in parts], ignore_index=True),
        np.concatenate([part.probability for part in parts]),
        [error for part in parts for error in part.errors],
        {f"{number}: {name}": value for number, part in enumerate(parts, 1) for name, value in part.networks.items()},
        first.flip,
        float(np.average([part.seconds for part in parts], weights=[len(part.maps) for part in parts])),
        first.engine,
    )


def _open(folder: Path, identity: dict[str, Any], manifest: pd.DataFrame) -> set[str]:
    """Prepare the folder for more predictions, and return the ids of the images that are done."""
    texts = {_IDENTITY: json.dumps(identity, indent=2), _MANIFEST: csv_text(manifest)}
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _IDENTITY).is_file():
            raise FileExistsError(f"{folder} exists and holds something other than predictions: choose another folder")
        if (folder / _TABLE).exists():
            (folder / _TABLE).replace(folder / _PARTIAL)
        present = all((folder / name).is_file() for name in (*texts, _PARTIAL))
        if present and all((folder / name).read_text(encoding="utf-8") == text for name, text in texts.items()):
            rows = _whole_lines(folder / _PARTIAL)
            rows = rows[rows["error"] == ""]  # a file that could not be read may be readable now
            with atomic_write(folder / _PARTIAL) as temporary:
                rows.to_csv(temporary, index=False)
            return set(rows["image_id"])
        shutil.rmtree(folder)
    # Written under another name first, so that a folder with an identity is always complete.
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / _MAPS).mkdir(parents=True)
    for name, text in {**texts, _PARTIAL: ",".join(_COLUMNS) + "\n"}.items():
        (draft / name).write_text(text, encoding="utf-8")
    draft.replace(folder)
    return set()


def _require_number(path: str, answer: Probabilities) -> None:
    if answer.error is None and math.isnan(answer.probability):
        raise ValueError(f"{path}: the pipeline gives no probability: it has no classifier, or a diverged one")


def _check_names(names: pd.Series) -> None:
    """Check that each image id can name the file of its map."""
    wrong = names[names.duplicated() | (names == "") | names.str.contains(r"[/\\\\]")]
    if len(wrong):
        raise ValueError(f"image_id {wrong.iloc[0]!r} occurs twice or cannot be a file name: index the data set again")


def _whole_lines(path: Path) -> pd.DataFrame:
    """Read the rows of a table, without a last one that was cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    return read_text_table(io.BytesIO(whole))


def _map_path(folder: Path, image_id: str) -> Path:
    return folder / _MAPS / f"{image_id}.png"


def _remedy(folder: Path) -> str:
    return f"remove {folder} and run `pneumoseg cache-predictions` again"
