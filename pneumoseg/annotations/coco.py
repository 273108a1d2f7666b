"""Annotations as COCO JSON: polygons, and runs as lists or as compressed text."""

import json
import logging
import os
from collections import Counter, defaultdict
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumoseg.annotations.annotations import PNEUMOTHORAX, Annotations, Found, Stray, Unusable, examples
from pneumoseg.identifiers import image_id_of

_log = logging.getLogger(__name__)


class _Image(NamedTuple):
    """Size that the file gives for an image, None if it gives none, and the annotations of the category."""

    shape: tuple[int, int] | None
    annotations: list[dict[str, Any]]


class CocoSegmentations(Annotations):
    """Segmentations of one category; images that are listed without one are negative."""

    format: ClassVar[str] = "coco"
    absence: ClassVar[str] = "not listed in the COCO file"

    def __init__(self, path: str | os.PathLike[str], category: str | None = None) -> None:
        """Read the file.

        Args:
            path: COCO JSON file. An image is found by its `file_name`, without folders and suffix.
            category: Name of the category, in upper or lower case. None stands for pneumothorax or, if the file holds a
                single category, for that one, whatever its name.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a COCO file, lacks the category, or pycocotools is not installed.
        """
        _pycocotools()
        super().__init__(path, _found(path, category))

    def _read(self, entry: _Image, shape: tuple[int, int]) -> NDArray[np.bool_]:
        if entry.shape is not None and entry.shape != shape:
            raise ValueError(
                f"{self.path} says {entry.shape[0]} x {entry.shape[1]} pixels, the image has {shape[0]} x {shape[1]}"
            )
        mask = np.zeros(shape, bool)
        for annotation in entry.annotations:
            try:
                mask |= segmentation_mask(annotation.get("segmentation"), shape)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"annotation {annotation.get('id')}: {error}") from error
        return mask


def segmentation_mask(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of a COCO segmentation.

    Args:
        segmentation: List of polygons, each a list x, y, x, y, ...; or a dict with `size` (rows, columns) and `counts`,
            the lengths of runs of background and mask in turn, by columns, as a list or as compressed text.
        shape: (H, W) of the image, in pixels.

    Returns:
        The mask, bool, (H, W).

    Raises:
        ValueError: If the segmentation is missing or malformed, or is of another size than the image.

    Example:
        >>> segmentation_mask({"size": [2, 2], "counts": [2, 2]}, (2, 2)).astype(int).tolist()  # doctest: +SKIP
        [[0, 1], [0, 1]]
    """
    if not segmentation:
        raise ValueError("no segmentation (a box alone gives no mask): delete it or outline the region")
    if isinstance(segmentation, dict):
        return _run_mask(segmentation, shape)
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation is {str(segmentation)[:40]!r}, expected polygons or runs")
    for polygon in segmentation:
        _check_polygon(polygon, shape)
    library = _pycocotools()
    return library.decode(library.merge(library.frPyObjects(segmentation, *shape))).astype(bool)


def _run_mask(segmentation: dict[str, Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != list(shape):
        raise ValueError(f"the runs are of size {size}, the image has {shape[0]} x {shape[1]} pixels")
    library = _pycocotools()
    if isinstance(counts, str):
        _check_total(_lengths_in(counts), shape)
        return library.decode({"size": size, "counts": counts.encode()}).astype(bool)
    if not isinstance(counts, list):
        raise ValueError(f"counts is {str(counts)[:40]!r}, expected a list or a compressed text")
    _check_total(counts, shape)
    return library.decode(library.frPyObjects(segmentation, *shape)).astype(bool)


def _check_total(lengths: list[Any], shape: tuple[int, int]) -> None:
    """Refuse runs that do not fill the image, because pycocotools would read and write past their ends."""
    for length in lengths:
        if not isinstance(length, int) or isinstance(length, bool) or length < 0:
            raise ValueError(f"run of length {str(length)[:20]!r}, expected a number of pixels")
    if sum(lengths) != shape[0] * shape[1]:
        raise ValueError(f"the runs cover {sum(lengths)} pixels, the image has {shape[0]} x {shape[1]}")


def _lengths_in(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text.

    Each character holds 5 bits, lowest first, plus one that says whether more follow; from the fourth number on, the
    difference to the number two before it is written (`rleFrString` of pycocotools).
    """
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r} in compressed runs")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        lengths.append(number + lengths[-2] if len(lengths) > 2 else number)
        number = shift = 0
    if shift:
        raise ValueError("compressed runs are cut short")
    return lengths


def _check_polygon(polygon: Any, shape: tuple[int, int]) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"polygon {str(polygon)[:40]} is not a list of three or more pairs x, y")
    if not all(isinstance(value, int | float) for value in polygon):
        raise ValueError(f"polygon {str(polygon)[:40]} holds values that are not numbers")
    # Points on the border are often a little outside; pycocotools walks along each side, so far ones cost memory.
    points, limits = np.array(polygon, float).reshape(-1, 2), np.array([shape[1], shape[0]], float)
    inside = np.isfinite(points) & (points >= -0.1 * limits) & (points <= 1.1 * limits)
    if not inside.all():
        x, y = points[~inside.all(axis=1)][0]
        raise ValueError(f"polygon with the point x {x:g}, y {y:g} outside the {shape[0]} x {shape[1]} pixels")


def _found(path: str | os.PathLike[str], category: str | None) -> Found:
    content = _load(path)
    numbers = _category_ids(path, content["categories"], category)
    known = {_key(category.get("id")) for category in content["categories"]}
    by_image = defaultdict[str, list[dict[str, Any]]](list)
    unknown = dict[str, Unusable]()
    for annotation in content["annotations"]:
        number, key = _key(annotation.get("category_id")), _key(annotation.get("image_id"))
        if number not in known:
            by_image[key] += []
            unknown[key] = Unusable(
                f"{path}: annotation {annotation.get('id')} has the category_id {annotation.get('category_id')!r}, "
                "which is not among the categories"
            )
        elif number in numbers:
            by_image[key].append(annotation)
    entries: dict[str, _Image | Unusable] = {}
    times = Counter(_key(image.get("id")) for image in content["images"])
    for image in content["images"]:
        image_id, key = image_id_of(str(image.get("file_name", ""))), _key(image.get("id"))
        entry = unknown.get(key) or _Image(_shape_of(image), by_image.get(key, []))
        if key == "" or times[key] > 1:
            entry = Unusable(f"{path} lists {times[key]} images with the id {image.get('id')!r}: give each its own")
        if image_id in entries:
            entry = Unusable(f"{path} lists several images named {image_id}: give them different file names")
        entries[image_id] = entry
    strays = [
        Stray("", str(path), f"annotation of an image that is not listed: image_id {key or None}, {count} annotations")
        for key, count in Counter(_key(annotation.get("image_id")) for annotation in content["annotations"]).items()
        if key in by_image and (key not in times or key == "")
    ]
    return Found(entries, strays=strays)


def _key(value: Any) -> str:
    """Return an id as text, because some exports write numbers as texts; '' if it is missing."""
    is_whole = isinstance(value, float) and value.is_integer()
    return "" if value is None else str(int(value) if is_whole else value).strip()


def _load(path: str | os.PathLike[str]) -> dict[str, list[dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file in UTF-8 ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a COCO file, it holds a {type(content).__name__} instead of an object")
    for key in ("images", "annotations", "categories"):
        value = content.get(key, [] if key == "annotations" else None)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ValueError(f"{path}: not a COCO file, it has no list {key!r} of objects")
        content[key] = value
    return content


def _category_ids(path: str | os.PathLike[str], categories: list[dict[str, Any]], wanted: str | None) -> set[str]:
    """Return all ids of the categories of a name, in upper or lower case."""
    names = sorted({str(category.get("name")) for category in categories})
    same = {name.lower() for name in names}
    name = (wanted or PNEUMOTHORAX).lower()
    if name not in same:
        if wanted is not None or len(same) != 1:
            found = examples(names) or "none"
            raise ValueError(f"{path}: no category {wanted or PNEUMOTHORAX!r}, only {found}: name one with --category")
        _log.info(f"{path}: no category {name}, taking the only one, {names[0]}")
        [name] = same
    return {_key(category.get("id")) for category in categories if str(category.get("name")).lower() == name} - {""}


def _shape_of(image: dict[str, Any]) -> tuple[int, int] | None:
    rows, columns = image.get("height"), image.get("width")
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError(
            "COCO annotations need pycocotools, which is not installed: pip install 'pneumoseg[coco]'"
        ) from error
    return mask
