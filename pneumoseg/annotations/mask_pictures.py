"""Annotations as a folder of mask pictures, one or more per image, found by the image's name."""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoseg.annotations.annotations import Annotations, Found, Stray, Unusable, files_below
from pneumoseg.identifiers import image_id_of, normalize

_log = logging.getLogger(__name__)
SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp", ".gif", ".pbm", ".pgm", ".webp", ".jpg", ".jpeg"})
"""Suffixes of mask pictures, in lower case."""
_ID = "{}"
_DEFAULT_PATTERNS = ("{}", "{}_mask")


class _MaskError(ValueError):
    """Error of a picture that is not a mask; the message lacks the name of the file."""


class MaskPictures(Annotations):
    """Mask pictures of two values, of which 0, or black, is the background."""

    format: ClassVar[str] = "masks"
    absence: ClassVar[str] = "no mask picture"

    def __init__(self, path: str | os.PathLike[str], mask_name: str | None = None) -> None:
        """List the folder.

        Args:
            path: Folder with mask pictures, at any depth.
            mask_name: Name of the mask of an image, without its suffix: `{}` stands for the image id and `*` for any
                characters, such as `{}_mask` or `{}_*`. The masks of one image are joined by OR, but without a `*` only
                one is allowed. With a slash, the pattern is that of the path in the folder, such as `{}/*`. By default
                `{}_mask` and `{}`; of an image that has both, `{}_mask` is the mask, and the other is listed.

        Raises:
            FileNotFoundError: If there is no such folder, or no picture in it.
            ValueError: If the pattern does not hold `{}` once.
        """
        super().__init__(path)
        if mask_name is not None and mask_name.count(_ID) != 1:
            raise ValueError(f"mask_name is {mask_name!r}, expected {{}} once for the image id, as in '{{}}_mask'")
        self._pattern = mask_name
        files = files_below(self.path)
        self._pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not self._pictures:
            raise FileNotFoundError(f"{path}: no mask picture in it or below it, of {len(files)} files: expected PNG")
        if len(files) > len(self._pictures):
            _log.info(f"{path}: {len(files) - len(self._pictures)} of {len(files)} files are not pictures, not read")

    def find(self, image_ids: Collection[str], images: Collection[Path] = ()) -> Found:
        """Find the masks of the images by name, see `Annotations.find`."""
        image_ids = set(image_ids)
        by_image: dict[str, list[tuple[str, Path]]] = {}
        strays = []
        for picture, pattern in self._patterns(image_ids, set(images)):
            image_id = _image_of(self._name(picture, pattern), pattern, image_ids)
            if image_id is None:
                strays.append(Stray("", str(picture), f"not named by the pattern: {pattern}"))
            else:
                by_image.setdefault(image_id, []).append((pattern, picture))
        superseded = [pair for image_id in by_image for pair in _superseded(by_image, image_id)]
        if superseded:
            _log.warning(
                f"{self.path}: {len(superseded)} masks not used, because their images have masks named {{}}_mask"
            )
        strays += [Stray("", str(picture), "another mask of its image is named: {}_mask") for _, picture in superseded]
        entries = {image_id: _one_or_many(pairs) for image_id, pairs in by_image.items()}
        return Found(entries, frozenset(file.resolve() for group in by_image.values() for _, file in group), strays)

    def place(self, entry: Any) -> str:
        """Return the path of the first mask."""
        return "" if isinstance(entry, Unusable) else str(entry[0])

    def hint(self) -> str:
        """Return advice to name the pattern."""
        return "give the pattern of the masks' names with --mask-name, such as '{}_mask'"

    def _read(self, entry: list[Path], shape: tuple[int, int]) -> NDArray[np.bool_]:
        mask = read_mask_picture(entry[0], shape)
        for path in entry[1:]:
            mask |= read_mask_picture(path, shape)
        return mask

    def _patterns(self, image_ids: set[str], images: set[Path]) -> list[tuple[Path, str]]:
        """Return each picture with the pattern of its name, and log how many have which."""
        chosen = [(picture, self._pattern) for picture in self._pictures if self._pattern]
        if not chosen:
            chosen = self._choose_patterns(image_ids, images)
            counts = Counter(pattern for _, pattern in chosen)
            words = [f"{pattern} ({counts[pattern]})" if len(counts) > 1 else pattern for pattern in sorted(counts)]
            _log.info(f"{self.path}: the masks are named by the pattern {' and '.join(words)}")
        return chosen

    def _choose_patterns(self, image_ids: set[str], images: set[Path]) -> list[tuple[Path, str]]:
        plain, suffixed = _DEFAULT_PATTERNS
        with_end = [_image_of(self._name(picture, suffixed), suffixed, image_ids) for picture in self._pictures]
        if not image_ids.intersection(filter(None, with_end)):
            return [(picture, plain) for picture in self._pictures]
        chosen = []
        for picture, image_id in zip(self._pictures, with_end, strict=True):
            is_plain = image_id is None or (image_id not in image_ids and self._name(picture, plain) in image_ids)
            # In one folder of images and masks, a picture that is named like an image is the image.
            chosen.append((picture, plain if is_plain and picture.resolve() not in images else suffixed))
        return chosen

    def _name(self, picture: Path, pattern: str) -> str:
        name = picture.relative_to(self.path).with_suffix("").as_posix() if "/" in pattern else picture.stem
        return normalize(name)


def read_mask_picture(path: str | os.PathLike[str], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask in a picture.

    Args:
        path: Picture with at most two values: grey of any depth, equal channels, or a palette. The background is 0; in
            a palette it is black, or the first colour if black is not used.
        shape: (H, W) of the image, in pixels.

    Returns:
        The mask, bool, (H, W).

    Raises:
        ValueError: If the picture cannot be read, has another size than the image, more than two values, colours, or
            transparent parts. The message names the file.
    """
    try:
        with Image.open(path) as picture:
            if picture.size != (shape[1], shape[0]):
                raise _MaskError(f"{_sides(picture.height, picture.width)} and its image {_sides(*shape)}")
            if getattr(picture, "n_frames", 1) > 1:
                raise _MaskError(f"holds {picture.n_frames} pictures, expected one")
            return _is_foreground(picture)
    except _MaskError as error:
        raise ValueError(f"mask {path} {error}") from error
    except Exception as error:  # the plugins of Pillow have many classes of errors
        raise ValueError(f"mask {path} cannot be read ({error})") from error


def _sides(rows: int, columns: int) -> str:
    return f"is {rows} x {columns} pixels"


def _is_foreground(picture: Image.Image) -> NDArray[np.bool_]:
    if "A" in picture.getbands() or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise _MaskError("is partly transparent: save it without transparency")
    if picture.mode in ("P", "PA"):
        return _palette_foreground(picture)
    pixels = np.asarray(picture)
    if pixels.ndim == 3:
        channels = pixels[..., : len([band for band in picture.getbands() if band != "A"])]
        if (channels != channels[..., :1]).any():
            raise _MaskError("is coloured: save it with two values, 0 for the background")
        pixels = channels[..., 0]
    foreground = pixels != 0
    if not (pixels[foreground] == pixels.max()).all():
        hint = "; JPEG changes values" if picture.format == "JPEG" else ""
        values = np.unique(pixels)
        raise _MaskError(f"has the values {_listed(values)}, expected two with 0 for the background{hint}")
    return foreground


def _palette_foreground(picture: Image.Image) -> NDArray[np.bool_]:
    indices = np.asarray(picture.getchannel(0))
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    palette = np.zeros((256, 3), np.uint8)
    colors = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(colors)] = colors
    _require_colours(used, palette, len(colors))
    background = palette[0] if palette[used].any(axis=1).all() else np.zeros(3, np.uint8)
    is_background = (palette == background).all(axis=1)
    if len(np.unique(palette[used], axis=0)) > 2:
        raise _MaskError(f"has more than two colours, at the indices {_listed(used)}: save it with two")
    if len(np.unique(palette[used], axis=0)) == 2 and not is_background[used].any():
        raise _MaskError(f"has neither black nor the first colour of its palette, but the indices {_listed(used)}")
    return ~is_background[indices]


def _require_colours(used: NDArray[np.intp], palette: NDArray[np.uint8], size: int) -> None:
    """Refuse indices that the palette does not tell apart, because the mask would be empty without a word.

    A single index is compared with index 0, which is then the only other value that the picture might have had.
    """
    told_apart = used if used.size > 1 else np.union1d(used, [0])
    if used[-1] >= size or len(np.unique(palette[told_apart], axis=0)) < told_apart.size:
        raise _MaskError(
            f"has a palette with too few colours for the indices {_listed(told_apart)}, expected one for each: save it "
            "in grey, with 0 for the background"
        )


def _listed(values: NDArray[Any]) -> str:
    return ", ".join(map(str, values[:6].tolist())) + (f" and {values.size - 6} more" if values.size > 6 else "")


def _superseded(by_image: dict[str, list[tuple[str, Path]]], image_id: str) -> list[tuple[str, Path]]:
    """Take the masks named by `{}` from an image that also has some named by `{}_mask`, and return them."""
    plain, suffixed = _DEFAULT_PATTERNS
    pairs = by_image[image_id]
    if {pattern for pattern, _ in pairs} != {plain, suffixed}:
        return []
    by_image[image_id] = [pair for pair in pairs if pair[0] == suffixed]
    return [pair for pair in pairs if pair[0] == plain]


def _one_or_many(pairs: list[tuple[str, Path]]) -> list[Path] | Unusable:
    pictures = [picture for _, picture in pairs]
    if len(pictures) == 1 or "*" in pairs[0][0]:
        return pictures
    return Unusable(f"{len(pictures)} masks, {pictures[0]} and {pictures[1]}: allow several with a * in --mask-name")


def _image_of(name: str, pattern: str, image_ids: set[str]) -> str | None:
    """Return the image id in the name of a mask, the longest known one if there are several; None without a match."""
    known = [image_id for image_id in _candidates(name, pattern) if image_id in image_ids]
    if known:
        return max(known, key=len)
    match = re.fullmatch(_regular(pattern, "(.+)"), name)
    return image_id_of(match[1]) if match else None


def _candidates(name: str, pattern: str) -> Iterator[str]:
    """Yield every part of a name that the pattern allows to be the image id."""
    before, after = pattern.split(_ID)
    if "*" not in pattern:
        if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
            yield image_id_of(name[len(before) : len(name) - len(after)])
        return
    starts = range(len(name)) if "*" in before else [len(before)]
    ends = range(len(name), 0, -1) if "*" in after else [len(name) - len(after)]
    head, tail = re.compile(_regular(before)), re.compile(_regular(after))
    starts = [start for start in starts if head.fullmatch(name[:start])]
    ends = [end for end in ends if end > 0 and tail.fullmatch(name[end:])]
    yield from (image_id_of(name[start:end]) for start in starts for end in ends if start < end)


def _regular(pattern: str, group: str = "") -> str:
    any_characters = "[^/]*" if "/" in pattern else ".*"
    return re.escape(pattern).replace(re.escape(_ID), group).replace(re.escape("*"), any_characters)
