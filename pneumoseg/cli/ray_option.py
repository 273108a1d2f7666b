"""The option `--ray [ADDRESS]`, whose address may be left out."""

import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pneumoseg.cluster import LOCAL

_ADDRESS = re.compile(r"auto|local|ray://\S+|(\[[0-9a-fA-F:.]+\]|[^\s/\\:]+):\d{1,5}")

RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Work on Ray: on this machine, or with an address (auto or HOST:PORT) on a cluster.",
    ),
]


class RayCommand(TyperCommand):
    """A command whose option `--ray` may come without a value.

    Neither Typer nor Click without Typer could tell `--ray auto INPUT` from `--ray INPUT`: a word after `--ray` is its
    address only if it has the form of one, see `with_address`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the name of the command."""
        return super().parse_args(ctx, with_address(args))


def with_address(words: list[str]) -> list[str]:
    """Return the words of a command with one word for `--ray` and its address.

    Args:
        words: The words as typed. A file that is named like an address is meant by a path, such as `./auto`.

    Raises:
        ValueError: If `--ray=...` holds no address.

    Example:
        >>> with_address(["in", "--ray", "auto", "--out", "o"]), with_address(["--ray", "in"])
        (['in', '--ray=auto', '--out', 'o'], ['--ray=local', 'in'])
    """
    joined, remaining = list[str](), list(words)
    while remaining and remaining[0] != "--":
        word = remaining.pop(0)
        if word == "--ray":
            is_address = bool(remaining) and _ADDRESS.fullmatch(remaining[0])
            word = f"--ray={remaining.pop(0) if is_address else LOCAL}"
        elif word.startswith("--ray=") and not _ADDRESS.fullmatch(word.removeprefix("--ray=")):
            raise ValueError(f"{word}: expected auto or HOST:PORT, or --ray alone for this machine")
        joined.append(word)
    return joined + remaining
