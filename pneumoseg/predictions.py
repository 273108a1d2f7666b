"""Both networks run once over a set of images; what they say is kept, so that a rule can be tried in no time.

A folder of predictions holds `predictions.json` (which networks), `manifest.csv` (which images, with their truth),
`predictions.csv` (the classifier's probabilities; `partial.csv` until all are there) and `maps/` (the segmenter's maps,
a PNG an image: a pixel's probability times 255).
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
from pneumoseg.decision import dequantize, quantize
from pneumoseg.identifiers import read_text_table
from pneumoseg.inference import Pipeline

_IDENTITY, _MANIFEST, _MAPS = "predictions.json", "manifest.csv", "maps"
_TABLE, _PARTIAL = "predictions.csv", "partial.csv"
_COLUMNS = ("image_id", "probability", "seconds", "error")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What two networks say of a set of images.

    Attributes:
        folder: Where it is kept; of pooled ones the first's.
        maps: The file of each image's map, (n,).
        manifest: One row an image, see `index_dataset`.
        probability: The classifier's, float64 (n,), in the manifest's order; NaN of an image that could not be read.
        errors: Why an image could not be read, (n,); empty where it could.
        networks: SHA-256 of each bundle's spec, by name, see `PipelineFolder`.
        flip: Whether the mirrored images were averaged in.
        seconds: What an image took, in the mean.
    """

    folder: Path
    maps: Sequence[Path]
    manifest: pd.DataFrame
    probability: np.ndarray
    errors: Sequence[str]
    networks: Mapping[str, str]
    flip: bool
    seconds: float

    def rows(self, chosen: np.ndarray) -> "Predictions":
        """Some of the images only.

        Args:
            chosen: bool, (n,).
        """
        manifest = self.manifest[chosen].reset_index(drop=True)
        maps = list(itertools.compress(self.maps, chosen))
        errors = list(itertools.compress(self.errors, chosen))
        probability = self.probability[chosen]
        return dataclasses.replace(self, maps=maps, manifest=manifest, probability=probability, errors=errors)

    def prob_map(self, row: int) -> np.ndarray | None:
        """The segmenter's map of the image in a row of the manifest.

        Returns:
            float64, (size, size), probabilities in [0, 1], rounded to multiples of 1/255; None if the image could not be read.

        Raises:
            ValueError: If its file is missing or damaged.
        """
        if self.errors[row]:
            return None
        path = self.maps[row]
        try:
            with Image.open(path) as image:
                return dequantize(np.asarray(image))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's of a damaged PNG
            raise ValueError(f"{path}: {error}; remove {path.parents[1]} and predict anew") from error


def predict(
    pipeline: Pipeline,
    manifest: pd.DataFrame,
    folder: str | Path,
    *,
    progress: bool = False,
) -> Predictions:
    """Run both networks over images and keep what they say, at constant memory.

    Where a process was stopped, the next one with the same networks and images goes on; a folder with predictions of
    others is replaced.

    Args:
        pipeline: Its rule is not used: each image is classified and segmented.
        manifest: One row an image, see `index_dataset`.
        folder: Where to keep them.
        progress: Whether to show a bar.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If the manifest is empty.
    """
    folder = Path(folder)
    _check_names(manifest["image_id"])
    if manifest.empty:
        raise ValueError("the manifest has no row: nothing to predict")
    done = _open(folder, {"networks": pipeline.networks, "flip": pipeline.flip}, manifest)
    todo = manifest[~manifest["image_id"].isin(done)]
    if len(todo):
        # The first batch builds the networks' graphs, which is no part of what an image costs.
        list(pipeline.probabilities([np.zeros((8, 8), np.uint8)] * pipeline.batch_size))
    answers = track(pipeline.probabilities(todo["path"]), "Predicting", len(todo), disable=not progress)
    with open(folder / _PARTIAL, "a", newline="", encoding="utf-8") as file:
        writer, before = csv.writer(file, lineterminator="\n"), time.perf_counter()
        for row, answer in zip(todo.itertuples(), answers, strict=True):
            error = " ".join(str(answer.error or size_changed(row, answer.shape) or "").split())
            if answer.prob_map is not None:
                Image.fromarray(quantize(answer.prob_map)).save(_map_path(folder, row.image_id))
            now = time.perf_counter()
            # An image counts as done once its row is there, which is after its map.
            probability = math.nan if error else answer.probability
            writer.writerow((row.image_id, probability, round(now - before, 6), error))
            file.flush()
            before = now
    with atomic_write(folder / _TABLE) as temporary:
        _whole_lines(folder / _PARTIAL).set_index("image_id").loc[manifest["image_id"]].to_csv(temporary)
    (folder / _PARTIAL).unlink()
    return load_predictions(folder)


def load_predictions(folder: str | Path) -> Predictions:
    """Read what `predict` kept.

    Raises:
        FileNotFoundError: If there is no such folder of predictions.
        ValueError: If they are not complete, or damaged.
    """
    folder = Path(folder)
    if not (folder / _IDENTITY).is_file():
        raise FileNotFoundError(f"{folder}: holds no predictions; make them with `pneumoseg predict`")
    try:
        identity = json.loads((folder / _IDENTITY).read_text(encoding="utf-8"))
        networks, flip = dict(identity["networks"]), bool(identity["flip"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / _IDENTITY}: {error!r}; remove {folder} and predict anew") from error
    manifest = load_manifest(folder / _MANIFEST)
    if not (folder / _TABLE).exists():
        raise ValueError(f"{folder}: not all images are predicted; go on with the same `pneumoseg predict`")
    table = _whole_lines(folder / _TABLE)
    try:
        numbers = table[["probability", "seconds"]].astype(np.float64)
        names, errors = table["image_id"], table["error"].tolist()
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder / _TABLE}: {error}; remove {folder} and predict anew") from error
    if not names.equals(manifest["image_id"]):
        raise ValueError(f"{folder}: its tables are of different images; remove it and predict anew")
    probability, seconds = numbers["probability"].to_numpy(), float(numbers["seconds"].mean())
    maps = [_map_path(folder, image_id) for image_id in manifest["image_id"]]
    return Predictions(folder, maps, manifest, probability, errors, networks, flip, seconds)


def pool(parts: Sequence[Predictions]) -> Predictions:
    """Put predictions of different images together, such as each fold's of the images that it was not trained on.

    Raises:
        ValueError: If there are none, two hold one image, or some average mirrored images and some do not.
    """
    if not parts:
        raise ValueError("there are no predictions to put together")
    first = parts[0]
    names = pd.concat([part.manifest["image_id"] for part in parts])
    if names.duplicated().any():
        raise ValueError(f"{names[names.duplicated()].iloc[0]} is in more than one of the predictions")
    if len({part.flip for part in parts}) > 1:
        raise ValueError("some of the predictions average mirrored images and some do not")
    return Predictions(
        first.folder,
        [path for part in parts for path in part.maps],
        pd.concat([part.manifest for part in parts], ignore_index=True),
        np.concatenate([part.probability for part in parts]),
        [error for part in parts for error in part.errors],
        {f"{number}: {name}": value for number, part in enumerate(parts, 1) for name, value in part.networks.items()},
        first.flip,
        float(np.average([part.seconds for part in parts], weights=[len(part.maps) for part in parts])),
    )


def _open(folder: Path, identity: dict[str, Any], manifest: pd.DataFrame) -> set[str]:
    """Make the folder ready to be added to.

    Returns:
        The images that are done.
    """
    texts = {_IDENTITY: json.dumps(identity, indent=2), _MANIFEST: manifest.to_csv(index=False)}
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _IDENTITY).is_file():
            raise FileExistsError(f"{folder} exists and holds something else than predictions: choose another folder")
        if (folder / _TABLE).exists():
            (folder / _TABLE).replace(folder / _PARTIAL)
        present = all((folder / name).is_file() for name in (*texts, _PARTIAL))
        if present and all((folder / name).read_text(encoding="utf-8") == text for name, text in texts.items()):
            rows = _whole_lines(folder / _PARTIAL)
            rows = rows[rows["error"] == ""]  # what could not be read may be readable now
            with atomic_write(folder / _PARTIAL) as temporary:
                rows.to_csv(temporary, index=False)
            return set(rows["image_id"])
        shutil.rmtree(folder)
    # Made under another name, so that a folder with an identity is a whole one.
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / _MAPS).mkdir(parents=True)
    for name, text in {**texts, _PARTIAL: ",".join(_COLUMNS) + "\n"}.items():
        (draft / name).write_text(text, encoding="utf-8")
    draft.replace(folder)
    return set()


def _check_names(names: pd.Series) -> None:
    """Refuse ids that cannot name a map's file."""
    wrong = names[names.duplicated() | (names == "") | names.str.contains(r"[/\\\\]")]
    if len(wrong):
        raise ValueError(f"image_id {wrong.iloc[0]!r} is there twice, or no file name: index the data set anew")


def _whole_lines(path: Path) -> pd.DataFrame:
    """The rows of a table, without one that was cut off."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    return read_text_table(io.BytesIO(whole))


def _map_path(folder: Path, image_id: str) -> Path:
    return folder / _MAPS / f"{image_id}.png"
