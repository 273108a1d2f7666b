"""Exported networks computed by ONNX Runtime, on the CPU."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pneumoseg.engines.export_record import AGAIN, ExportError
from pneumoseg.processor import usable_cores

_ERRORS_ONLY = 3
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class OnnxNetwork:
    """A network of an export as a network of a pipeline, see `Network`.

    Each image is computed on its own, so that its probabilities do not depend on the other images of its batch; up to
    `batch_size` images share the cores. An image that is alone on two cores uses one of them.

    Args:
        path: The network's file, `.onnx`.
        name: Name of the network.
        image_size: Height and width of the images, in pixels.
        parameters: Number of its weights.
        precision: Precision that the file was made in: "float32" or "int8".
        batch_size: Number of images that are computed at the same time.

    Attributes:
        precision: The same precision; ONNX Runtime computes what the file says.
        library: Name and version of the library.

    Raises:
        ExportError: If ONNX Runtime is not installed, or cannot read or run the file.

    Example:
        >>> folder = Path("runs/pipeline/engines/onnx-float32")  # doctest: +SKIP
        >>> network = OnnxNetwork(folder / "classifier_1.onnx", "xception", 1024, 20861480, "float32")  # doctest: +SKIP
        >>> network(np.zeros((2, 1024, 1024, 1), np.uint8)).shape  # doctest: +SKIP
        (2, 1)
    """

    def __init__(
        self, path: str | Path, name: str, image_size: int, parameters: int, precision: str, batch_size: int = 4
    ) -> None:
        self.name, self.image_size, self.parameters, self.precision = name, image_size, parameters, precision
        runtime, cores = _library(), usable_cores()
        self.library = f"ONNX Runtime {runtime.__version__}"
        options = runtime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        callers = min(batch_size, cores)
        # A session's threads help whichever thread calls it.
        options.intra_op_num_threads = cores - callers + 1
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (self._input,) = self._session.get_inputs()
            self._type = _TYPES[self._input.type]
        except Exception as error:  # the library has a class of its own for each kind of failure
            cause = str(error).strip().partition("\n")[0].rstrip(".")
            raise ExportError(f"{path}: {self.library} cannot run it ({cause}): {AGAIN}") from error
        self._callers = ThreadPoolExecutor(callers)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the probabilities of a batch, see `Network`."""
        return np.concatenate(list(self._callers.map(self._compute, np.split(images, len(images)))))

    def _compute(self, image: np.ndarray) -> np.ndarray:
        (output,) = self._session.run(None, {self._input.name: image.astype(self._type)})
        return np.asarray(output)


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"ONNX Runtime cannot be imported ({error}): pip install 'pneumoseg[onnx]'") from error
    onnxruntime.disable_telemetry_events()  # on Windows it would report its use
    return onnxruntime
