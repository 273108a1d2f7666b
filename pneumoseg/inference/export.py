"""Export of a pipeline to another engine: converted, compared with Keras, and written whole or not at all."""

import importlib.metadata
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from pneumoseg.atomic_write import flush
from pneumoseg.engines.conversion import require_libraries
from pneumoseg.engines.export_record import (
    ENGINES,
    EXPORTS,
    PRECISIONS,
    ExportError,
    ExportRecord,
    sum_files,
    write_record,
)
from pneumoseg.engines.openvino_network import computed_precision
from pneumoseg.folder_lock import locked_folder
from pneumoseg.inference.comparison import Reference
from pneumoseg.inference.export_images import choose_images
from pneumoseg.inference.exported_networks import ExportedNetworks
from pneumoseg.inference.folder import PipelineFolder, load_pipeline
from pneumoseg.processor import has_bfloat16, has_vnni, processor_name

_log = logging.getLogger(__name__)
_PACKAGES = ("pneumoseg", "keras", "tensorflow", "openvino", "onnx", "onnxruntime", "tf2onnx", "nncf")
_TEMPORARY = ".export."


def export_pipeline(
    folder: str | Path,
    engine: str,
    precision: str,
    *,
    calibration: pd.DataFrame | None = None,
    images: pd.DataFrame | None = None,
    accept_differences: bool = False,
    batch_size: int = 4,
    progress: bool = False,
) -> ExportRecord:
    """Export the networks of a pipeline to another engine, and write them into the pipeline's folder.

    The export is compared with Keras first: on `images`, otherwise on the images of `calibration` that were not used to
    calibrate, otherwise on generated X-rays. If it differs by more than its precision allows, see
    `Comparison.problems`, it is not written. An older export of the same engine and precision is replaced.

    Args:
        folder: Folder of the pipeline, made by `assemble_pipeline`.
        engine: "openvino" or "onnx".
        precision: "float32", "bfloat16" (OpenVINO, on a CPU that computes it) or "int8".
        calibration: Manifest of the images that show the ranges of the activations, for "int8"; None for generated
            ones.
        images: Manifest of the images to compare on.
        accept_differences: Whether to write an export that differs by more than its precision allows; one in "int8" is
            then written with all layers quantised.
        batch_size: Number of images per batch.
        progress: Whether to show progress on stderr.

    Returns:
        The record of the export, which holds the comparison.

    Raises:
        ExportError: If the engine does not know the precision, a library is missing or fails, or the export differs by
            more than it may.
        BundleError: If the pipeline is missing, damaged or changed.
        FileExistsError: If another process exports the pipeline.

    Example:
        >>> record = export_pipeline("runs/pipeline", "openvino", "int8", calibration=manifest)  # doctest: +SKIP
        >>> record.comparison["flipped_images"]  # doctest: +SKIP
        0
    """
    folder = Path(folder)
    _check_combination(engine, precision, calibration)
    PipelineFolder.read(folder)  # refuses a folder without a pipeline
    require_libraries(engine, precision)
    if engine == "openvino":
        _check_cpu(precision)
    with locked_folder(folder, "exported"), _temporary_folder(folder) as temporary:
        pipeline = load_pipeline(folder, batch_size)
        size = max(network.image_size for network in (*pipeline.classifiers, *pipeline.segmenters))
        chosen = choose_images(size, calibrated=precision == "int8", calibration=calibration, images=images)
        networks = ExportedNetworks(pipeline, engine, precision, temporary)
        if precision == "int8":
            networks.calibrate(chosen.calibration)
        (temporary / "maps").mkdir()
        reference = Reference(pipeline, chosen.compared, temporary / "maps", progress=progress)
        comparison = networks.settle(reference, search=not accept_differences, progress=progress)
        for doubt in comparison.doubts():
            _log.warning(f"THE COMPARISON SHOWS LITTLE: {doubt}; name other images with --images")
        problems = comparison.problems(precision)
        if problems and not accept_differences:
            raise ExportError(_refusal(folder, engine, precision, problems))
        numbers = {
            **comparison.as_json(),
            "problems": problems,
            "rule": asdict(pipeline.rule),
            "flip": pipeline.flip,
            "calibrated_on": chosen.calibrated_on,
            "kept_in_float32": {each.bundle: each.kept for each in networks if each.kept},
            "not_quantised": [each.bundle for each in networks if precision == "int8" and not each.quantised],
        }
        written = ExportRecord(
            engine,
            precision,
            pipeline.networks,
            {each.bundle: each.facts for each in networks},
            sum_files(networks.folder),
            numbers,
            _versions(),
            describe_cpu(),
        )
        write_record(networks.folder, written)
        _put_in_place(networks.folder, folder / EXPORTS / written.name, temporary / "replaced")
    return written


def _check_combination(engine: str, precision: str, calibration: pd.DataFrame | None) -> None:
    for name, value, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ExportError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    if (engine, precision) == ("onnx", "bfloat16"):
        raise ExportError(
            "ONNX Runtime does not compute these networks in bfloat16 on a CPU: choose openvino, or float32 or int8"
        )
    if calibration is not None and precision != "int8":
        raise ExportError(
            f"calibration images are for int8, and the precision is {precision}: name the images to compare on with "
            "--images"
        )


def _check_cpu(precision: str) -> None:
    if computed_precision(precision) != precision:
        raise ExportError(
            "this CPU does not compute in bfloat16, so the export could not be compared: export on a CPU with AVX-512 "
            "BF16 or AMX, or choose --precision float32 or int8"
        )


def _refusal(folder: Path, engine: str, precision: str, problems: list[str]) -> str:
    other = {"int8": "name more images with --calibrate, choose another precision", "bfloat16": "choose float32"}
    remedy = other.get(precision, "choose another engine")
    return (
        f"{folder}: not exported, {engine}-{precision} differs too much from Keras: {'; '.join(problems)}; {remedy}, "
        "or export all the same with --accept-differences"
    )


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder in the pipeline's, without those that a killed process has left; the folder is locked."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_TEMPORARY) as temporary:
        yield Path(temporary)


def _put_in_place(whole: Path, target: Path, replaced: Path) -> None:
    for path in (*whole.iterdir(), whole):
        flush(path)
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        target.rename(replaced)
    whole.rename(target)
    flush(target.parent)


def _versions() -> dict[str, str]:
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def describe_cpu() -> dict[str, Any]:
    """Return the model of the CPU, and whether it computes in bfloat16 and multiplies 8-bit numbers without overflow.

    Example:
        >>> describe_cpu()  # doctest: +SKIP
        {'model': 'AMD EPYC', 'bfloat16': False, 'vnni': False}
    """
    return {"model": processor_name(), "bfloat16": has_bfloat16(), "vnni": has_vnni()}
