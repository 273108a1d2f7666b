"""Exported networks computed by OpenVINO, on the CPU."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from pneumoseg.engines.export_record import AGAIN, ExportError

_BFLOAT16 = "BF16"


class OpenVinoNetwork:
    """A network of an export as a network of a pipeline, see `Network`.

    Each image is a request of its own, so that its probabilities do not depend on the other images of its batch. Images
    share the cores in groups as large as OpenVINO chooses; those that are left over get all cores, one after the other.

    Args:
        path: The network's file, `.xml`, next to its `.bin`.
        name: Name of the network.
        image_size: Height and width of the images, in pixels.
        parameters: Number of its weights.
        precision: Precision to compute in: "float32", "bfloat16", or "int8" for a file that was quantized; its other
            layers are computed in float32.
        batch_size: Number of images that are computed at the same time.

    Attributes:
        precision: The precision that it is computed in, see `computed_precision`.
        library: Name and version of the library.

    Raises:
        ExportError: If OpenVINO is not installed, or cannot read or run the file.

    Example:
        >>> folder = Path("runs/pipeline/engines/openvino-int8")  # doctest: +SKIP
        >>> network = OpenVinoNetwork(folder / "classifier_1.xml", "xception", 1024, 20861480, "int8")  # doctest: +SKIP
        >>> network(np.zeros((2, 1024, 1024, 1), np.uint8)).shape  # doctest: +SKIP
        (2, 1)
    """

    def __init__(
        self, path: str | Path, name: str, image_size: int, parameters: int, precision: str, batch_size: int = 4
    ) -> None:
        self.name, self.image_size, self.parameters = name, image_size, parameters
        self.precision = computed_precision(precision)
        openvino = _library()
        self.library = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        # OpenVINO would choose bfloat16 by itself where the CPU has it.
        self._options = {"INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bfloat16" else "f32"}
        self._core, self._batch_size = openvino.Core(), batch_size
        try:
            model = self._core.read_model(Path(path))
            model.reshape([1, image_size, image_size, 1])
            steps = openvino.preprocess.PrePostProcessor(model)
            steps.input().tensor().set_element_type(openvino.Type.u8)
            self._model = steps.build()
            self._alone = self._requests(PERFORMANCE_HINT="LATENCY")
        except RuntimeError as error:
            raise ExportError(f"{path}: {self.library} cannot run it ({_cause(error)}): {AGAIN}") from error
        self._together: Any = None  # compiled with the first batch, since a single image does not need it
        # Two threads that start requests could get the same one, and the image of one of them would be lost.
        self._one_batch = threading.Lock()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the probabilities of a batch, see `Network`."""
        outputs: list[Any] = [None] * len(images)
        with self._one_batch:
            whole = 0
            if min(len(images), self._batch_size) > 1:
                if self._together is None:
                    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": self._batch_size}
                    self._together = self._requests(**hints)
                whole = len(images) - len(images) % len(self._together)
                _compute(self._together, images, range(whole), outputs)
            _compute(self._alone, images, range(whole, len(images)), outputs)
        return np.concatenate(outputs)

    def _requests(self, **hints: Any) -> Any:
        """Return a queue with as many requests as are computed at the same time."""
        queue = _library().AsyncInferQueue(self._core.compile_model(self._model, "CPU", {**self._options, **hints}))
        queue.set_callback(_keep)
        return queue


def _compute(queue: Any, images: np.ndarray, numbers: range, outputs: list[Any]) -> None:
    for number in numbers:
        queue.start_async({0: images[number : number + 1]}, (outputs, number))
    queue.wait_all()


def computed_precision(precision: str) -> str:
    """Return the precision in which this CPU computes an export.

    Args:
        precision: Precision of the export.

    Returns:
        "float32" for "bfloat16" on a CPU without instructions for it, otherwise the same precision.

    Raises:
        ExportError: If OpenVINO is not installed.
    """
    return "float32" if precision == "bfloat16" and _BFLOAT16 not in cpu_capabilities() else precision


def cpu_capabilities() -> list[str]:
    """Return the precisions that OpenVINO finds this CPU to be fast in, such as "FP32", "BF16" and "INT8".

    Raises:
        ExportError: If OpenVINO is not installed.
    """
    return list(_library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ExportError(f"OpenVINO cannot be imported ({error}): pip install 'pneumoseg[openvino]'") from error
    return openvino


def _keep(request: Any, place: tuple[list[Any], int]) -> None:
    """Copy the output of a request, whose memory the next request will use, to its place among the outputs."""
    outputs, number = place
    outputs[number] = np.array(request.get_output_tensor().data)


def _cause(error: Exception) -> str:
    """Return the last line of an error of OpenVINO: those before it name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
