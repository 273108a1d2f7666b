"""Pretrained weights of a backbone: checks, the download, and error messages."""

import contextlib
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoseg.data_parallel import is_first_process, on_one_device, spans_processes
from pneumoseg.folder_lock import locked_folder

if TYPE_CHECKING:
    import keras

Weights = str | Path | None

# Errors of Keras and h5py for a file that is damaged or belongs to another architecture.
UNREADABLE = (ValueError, TypeError, KeyError, OSError, RuntimeError)


class WeightsUnavailableError(OSError):
    """Raised if the ImageNet weights of a backbone cannot be downloaded."""


def check_weights(weights: Weights) -> None:
    """Check that weights are "imagenet", None or the path of a weights file.

    Args:
        weights: Weights of a backbone, as passed to a model builder.

    Raises:
        ValueError: If there is no such file, or it is not an `.h5` file.
    """
    if weights is None or weights == "imagenet":
        return
    if not isinstance(weights, str | Path):
        raise ValueError(f"weights={weights!r}: expected 'imagenet', None or the path of a weights file")
    if not Path(weights).is_file():
        raise ValueError(f"weights={str(weights)!r} is neither 'imagenet' nor None nor an existing file")
    if Path(weights).suffix != ".h5":
        raise ValueError(
            f"weights={str(weights)!r} is not a weights file: pass a Keras '*_notop.h5' or '*.weights.h5' file"
        )


def build_pretrained(build: "Callable[[], keras.Model]", weights: Weights, backbone: str) -> "keras.Model":
    """Build a network, of which the library that builds it downloads or loads the weights.

    One process or thread of a machine at a time downloads, and of processes that train together the first one before
    the others: the library writes straight to the file that others look for, such as those of other folds.

    Args:
        build: Builds the network with the weights.
        weights: "imagenet", None or a path, as passed to the model builder.
        backbone: Name of the backbone, for messages.

    Returns:
        The network.

    Raises:
        WeightsUnavailableError: If weights are "imagenet" and the download failed or stalled.
        ValueError: If weights are a path, and the file is unreadable or belongs to another architecture.
    """
    with weights_errors(weights, backbone):
        if weights == "imagenet" and spans_processes():
            _download_in_turn(build)
        elif weights == "imagenet":
            with _one_download_at_a_time():
                return build()
        return build()


def _download_in_turn(build: "Callable[[], keras.Model]") -> None:
    """Download weights in the first process, which may share its home with the others, and then where still needed.

    The network is built on one device and thrown away: on all devices each of its variables would wait for the other
    processes, and they for the lock.
    """
    from jax.experimental.multihost_utils import sync_global_devices

    state = random.getstate()  # Keras takes the seeds of initial weights from it
    for is_our_turn in (is_first_process(), not is_first_process()):
        if is_our_turn:
            with _one_download_at_a_time(), on_one_device():
                build()
        sync_global_devices("weights")
    random.setstate(state)


@contextlib.contextmanager
def weights_errors(weights: Weights, backbone: str) -> Iterator[None]:
    """Turn errors of the libraries that download and load weights into one clear error.

    A stalled download is an error only if sockets have a timeout. The command line sets one.

    Args:
        weights: "imagenet", None or a path, as passed to the model builder.
        backbone: Name of the backbone, for the message.

    Raises:
        WeightsUnavailableError: If weights are "imagenet" and the download failed or stalled.
        ValueError: If weights are a path, and the file is unreadable or belongs to another architecture.
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
        cause = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{weights} does not fit the {backbone} backbone ({cause}): "
            f"pass the weights of {backbone} without its top ('*_notop.h5' or '*.weights.h5')"
        ) from error


@contextlib.contextmanager
def _one_download_at_a_time() -> Iterator[None]:
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    with locked_folder(folder, "written", wait=True) if folder.is_dir() else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _download_errors(backbone: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Keras raises a plain Exception, and only its text tells that a download failed.
        wanted = re.search(r"URL fetch failure on (\S+?):? ", str(error))
        if wanted is None and not isinstance(error, OSError):
            raise
        source = wanted.group(1) if wanted else "the library's server"
        raise WeightsUnavailableError(
            f"the ImageNet weights of {backbone} could not be downloaded from {source} ({error}): "
            "pass weights=PATH to a downloaded '*_notop.h5' file, or weights=None to train from scratch"
        ) from error
