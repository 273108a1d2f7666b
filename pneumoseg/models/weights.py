"""What can go wrong when a backbone gets its ImageNet weights, said in words that help."""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

Weights = str | Path | None

# What Keras and h5py raise on a damaged file or one of another architecture.
UNREADABLE = (ValueError, TypeError, KeyError, OSError, RuntimeError)
_STALL_SECONDS = 20.0


class WeightsUnavailableError(OSError):
    """The ImageNet weights of a backbone could not be downloaded."""


def check_weights(weights: Weights) -> None:
    """Refuse what is neither "imagenet", None nor the path of a weights file.

    Raises:
        ValueError: No such file, or not one of the two formats.
    """
    if weights is None or weights == "imagenet":
        return
    if not isinstance(weights, str | Path):
        raise ValueError(f"weights={weights!r}: expected 'imagenet', None or the path of a weights file.")
    if not Path(weights).is_file():
        raise ValueError(f"weights={str(weights)!r} is neither 'imagenet' nor None nor an existing file.")
    if Path(weights).suffix != ".h5":
        raise ValueError(
            f"weights={str(weights)!r} is not a weights file. Pass a Keras '*_notop.h5' or '*.weights.h5' file."
        )


@contextlib.contextmanager
def weights_errors(weights: Weights, backbone: str) -> Iterator[None]:
    """Turn what the libraries raise while they find and load weights into one clear error.

    Args:
        weights: "imagenet", None or a path, as the builder got it.
        backbone: The backbone's name, for the message.

    Raises:
        WeightsUnavailableError: "imagenet", and the download failed or stalled.
        ValueError: A path, and the file is unreadable or belongs to another architecture.
    """
    if weights == "imagenet":
        with _download_errors(backbone):
            yield
        return
    try:
        yield
    except UNREADABLE as error:
        if weights is None:
            raise
        cause = str(error).partition("\n")[0]
        raise ValueError(
            f"{weights} does not fit the {backbone} backbone: {cause} "
            f"Pass the weights of {backbone} without its top ('*_notop.h5' or '*.weights.h5')."
        ) from error


@contextlib.contextmanager
def _download_errors(backbone: str) -> Iterator[None]:
    patience = socket.getdefaulttimeout()
    # Keras sets no timeout: behind a firewall that drops packets a download would hang for minutes.
    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        yield
    except Exception as error:
        # Keras raises a bare Exception whose text alone tells that a download failed.
        wanted = re.search(r"URL fetch failure on (\S+?):? ", str(error))
        if wanted is None and not isinstance(error, OSError):
            raise
        source = wanted.group(1) if wanted else "the library's server"
        raise WeightsUnavailableError(
            f"The ImageNet weights of {backbone} could not be downloaded from {source} ({error}). "
            "Pass weights=PATH to a downloaded '*_notop.h5' file, or weights=None to train from scratch."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
