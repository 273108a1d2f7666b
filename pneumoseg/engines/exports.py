"""The exports in a pipeline's folder: chosen by engine, checked, and loaded."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoseg.engines.engine import Engine
from pneumoseg.engines.export_record import (
    ENGINES,
    EXPORT_NAMES,
    EXPORTS,
    RECORD,
    ExportError,
    ExportRecord,
    check_files,
    read_record,
)
from pneumoseg.engines.network import Network
from pneumoseg.identifiers import is_hidden
from pneumoseg.processor import has_vnni, processor_name, usable_cores

if TYPE_CHECKING:
    from pneumoseg.engines.onnx_network import OnnxNetwork
    from pneumoseg.engines.openvino_network import OpenVinoNetwork

_log = logging.getLogger(__name__)


def load_export(
    pipeline: str | Path, engine: str, networks: Mapping[str, str], batch_size: int, decision: Mapping[str, Any]
) -> tuple[dict[str, Network], Engine]:
    """Load the networks of an export, and log the processor, the library, the precision, and doubts about it.

    Args:
        pipeline: Folder of the pipeline.
        engine: "openvino" or "onnx", for the only export for it, or the name of an export, such as "openvino-int8".
        networks: SHA-256 of each bundle's spec by the bundle's name, see `PipelineFolder.networks`.
        batch_size: Number of images that are computed at the same time.
        decision: The `rule` and `flip` of the pipeline, as `ExportRecord.comparison` has them.

    Returns:
        The networks by the names of their bundles, and the engine that computes them.

    Raises:
        ExportError: If there is no such export or more than one, it was changed or is of other networks, or its library
            is missing or cannot run it.
        ValueError: If no engine has this name.

    Example:
        >>> networks, engine = load_export("p", "openvino-int8", record.networks, 4, decision)  # doctest: +SKIP
        >>> str(engine)  # doctest: +SKIP
        'OpenVINO, int8'
    """
    folder = _choose(Path(pipeline), engine)
    record = _read(folder, networks)
    make, suffix = network_class(record.engine)
    loaded = {
        name: make(folder / f"{name}{suffix}", **facts, precision=record.precision, batch_size=batch_size)
        for name, facts in record.facts.items()
    }
    first = next(iter(loaded.values()))
    _log.info(f"Device: {processor_name()}, {usable_cores()} cores, {first.library}, {first.precision}")
    for doubt in _doubts(record, first.precision, decision):
        _log.warning(f"{folder}: {doubt}")
    return dict(loaded), Engine(record.engine, first.precision, record.sha256)


def read_export(pipeline: str | Path, engine: str, networks: Mapping[str, str]) -> ExportRecord:
    """Return the record of an export that `load_export` would load, after the same checks.

    Args:
        pipeline: Folder of the pipeline.
        engine: Engine or name of the export, see `load_export`.
        networks: SHA-256 of each bundle's spec by the bundle's name.

    Raises:
        ExportError: If there is no such export, or it was changed or is of other networks.
        ValueError: If no engine has this name.

    Example:
        >>> read_export("runs/pipeline", "openvino-int8", record.networks).precision  # doctest: +SKIP
        'int8'
    """
    return _read(_choose(Path(pipeline), engine), networks)


def _doubts(record: ExportRecord, precision: str, decision: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words why an export may not decide here as Keras does, or not compute in its precision.

    The words name no image: the log of a service must not.
    """
    compared = record.comparison
    if precision != record.precision:
        yield f"this CPU has no instructions for {record.precision}, so its networks are computed in {precision}"
    if full := compared.get("not_quantised"):
        yield f"not quantised, and so computed in float32: {', '.join(full)}"
    if compared.get("problems"):
        yield f"it was accepted although it differs from Keras by more than it may, see problems in {RECORD}"
    if record.precision == "float32":  # its bound does not depend on decisions
        return
    if any(compared.get(name) != value for name, value in decision.items()):
        yield f"it was compared with Keras under another decision rule; to compare again, {record.again}"
    if record.precision == "int8" and record.cpu.get("vnni") and has_vnni() is False:
        yield (
            "it was compared with Keras on a CPU with VNNI, and without it 8-bit products may overflow; to compare "
            f"again, {record.again} on this CPU"
        )


def export_names(pipeline: Path) -> list[str]:
    """Return the names of the exports in a pipeline's folder, such as "openvino-int8"."""
    names = sorted(path.parent.name for path in (pipeline / EXPORTS).glob(f"*/{RECORD}"))
    return [name for name in names if not is_hidden(name)]


def _choose(pipeline: Path, engine: str) -> Path:
    """Return the folder of the export that a name stands for."""
    if engine not in (*ENGINES, *EXPORT_NAMES):
        raise ValueError(
            f"engine is {engine!r}, expected keras, {', '.join(ENGINES)}, or the name of an export: "
            f"{', '.join(EXPORT_NAMES)}"
        )
    found = export_names(pipeline)
    chosen = [name for name in found if engine in (name, name.partition("-")[0])]
    if len(chosen) > 1:
        raise ExportError(f"{pipeline} has several exports for {engine}: name one of {', '.join(chosen)}")
    if not chosen:
        others = f", only {', '.join(found)}" if found else ""
        library, _, precision = engine.partition("-")
        options = f"--engine {library} --precision {precision or 'float32'}"
        raise ExportError(f"{pipeline} has no export {engine}{others}: make it with `pneumoseg export {options}`")
    return pipeline / EXPORTS / chosen[0]


def _read(folder: Path, networks: Mapping[str, str]) -> ExportRecord:
    """Return the record of an export, after all checks."""
    record = read_record(folder)
    if folder.name != record.name:
        raise ExportError(f"{folder} holds the export {record.name}: rename the folder, or {record.again}")
    if record.networks != networks:
        raise ExportError(f"{folder} is of other networks than those that the pipeline has now: {record.again}")
    check_files(folder, record)
    return record


def network_class(engine: str) -> tuple[type["OpenVinoNetwork"] | type["OnnxNetwork"], str]:
    """Return the class for the networks of an engine, and the suffix of their files.

    Args:
        engine: "openvino" or "onnx".
    """
    if engine == "openvino":
        from pneumoseg.engines.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork, ".xml"
    from pneumoseg.engines.onnx_network import OnnxNetwork

    return OnnxNetwork, ".onnx"
