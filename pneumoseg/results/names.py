"""Names of results: one per image, whatever the names of the files."""

from collections.abc import Iterable, Mapping

from pneumoseg.identifiers import image_id_of

_LONGEST = 200  # bytes: file systems take names of 255, and a suffix and the name of a temporary file come on top


def unique_names(paths: Iterable[str], kept: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each file: its image id, or with a number if another file has the same id.

    Names that differ only in case count as the same, because some file systems cannot hold both. A numbered name is
    never the id of another file.

    Args:
        paths: Paths of image files.
        kept: Names that were given before, by path.

    Returns:
        The names by path, in the order of `paths`.

    Example:
        >>> unique_names(["a/x.png", "b/X.dcm", "b/x_2.dcm"], {})
        {'a/x.png': 'x', 'b/X.dcm': 'X_3', 'b/x_2.dcm': 'x_2'}
    """
    ids = {path: _shortened(image_id_of(path)) for path in paths}
    reserved = {image_id.casefold() for image_id in ids.values()}
    taken = {name.casefold() for name in kept.values()}
    names, last = dict[str, str](), dict[str, int]()
    for path, image_id in ids.items():
        names[path] = kept.get(path) or _free(image_id, taken, reserved, last)
        taken.add(names[path].casefold())
    return names


def _free(image_id: str, taken: set[str], reserved: set[str], last: dict[str, int]) -> str:
    """Return a free name; `last` holds the number that each id got last, so that no smaller one is tried again."""
    number = last.get(image_id.casefold(), 1)
    name = image_id if number == 1 else f"{image_id}_{number}"
    while name.casefold() in taken or (number > 1 and name.casefold() in reserved):
        number += 1
        name = f"{image_id}_{number}"
    last[image_id.casefold()] = number
    return name


def _shortened(image_id: str) -> str:
    return image_id.encode()[:_LONGEST].decode(errors="ignore")
