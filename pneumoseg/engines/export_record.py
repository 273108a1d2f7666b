"""Exports on disk: networks converted for another engine, and a record of their origin, checksums and comparison.

An export lies in the pipeline's folder, in `engines/` and a folder named after engine and precision, such as
`engines/openvino-int8/`: the files of each network, named after its bundle, and `export.json`. The checksums reveal
damage and careless edits. They are not a signature.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from pneumoseg.atomic_write import atomic_write
from pneumoseg.checksums import content_sha256, file_sha256
from pneumoseg.identifiers import is_hidden

EXPORTS = "engines"
"""Name of the folder of all exports in a pipeline's folder."""
RECORD = "export.json"
ENGINES = ("openvino", "onnx")
PRECISIONS = ("float32", "bfloat16", "int8")
EXPORT_NAMES = ("openvino-float32", "openvino-bfloat16", "openvino-int8", "onnx-float32", "onnx-int8")
"""Names of all exports that can be made: ONNX Runtime does not compute these networks in bfloat16 on a CPU."""
AGAIN = "export the pipeline again with `pneumoseg export`"
"""Remedy of an error about an export whose record is not known."""
_FORMAT = 1
_OWN_SUM = "sha256"


class ExportError(ValueError):
    """Raised if an export cannot be written, read or run; the message names the folder and the remedy."""


class NetworkFacts(TypedDict):
    """Facts about an exported network: its name, the side of its images in pixels, the number of its weights."""

    name: str
    image_size: int
    parameters: int


@dataclass(frozen=True)
class ExportRecord:
    """The content of `export.json`.

    Attributes:
        engine: "openvino" or "onnx".
        precision: "float32", "bfloat16" or "int8".
        networks: SHA-256 of each exported bundle's spec by the name of the bundle, see `PipelineFolder.networks`.
        facts: Facts about each network, by the same names.
        files: SHA-256 of each file of the export by its name.
        comparison: Numbers that compare the export with Keras, the images they rest on, and the `rule` and `flip` that
            both decided with.
        versions: Versions of the packages that made the export.
        cpu: Facts about the machine on which the export was compared.

    Example:
        >>> facts = {"classifier_1": {"name": "classifier_xception", "image_size": 1024, "parameters": 20861480}}
        >>> record = ExportRecord("openvino", "int8", {"classifier_1": "4f..."}, facts, {}, {}, {}, {})
        >>> record.name, len(record.sha256)
        ('openvino-int8', 64)
    """

    engine: str
    precision: str
    networks: dict[str, str]
    facts: dict[str, NetworkFacts]
    files: dict[str, str]
    comparison: dict[str, Any]
    versions: dict[str, str]
    cpu: dict[str, Any]

    @property
    def name(self) -> str:
        """Engine and precision, the name of the export's folder."""
        return f"{self.engine}-{self.precision}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the record, which contains those of the files."""
        return content_sha256(self._content, _OWN_SUM)

    @property
    def again(self) -> str:
        """The remedy of an error about this export: the command that makes it."""
        return f"export the pipeline again with `pneumoseg export --engine {self.engine} --precision {self.precision}`"

    @property
    def _content(self) -> dict[str, Any]:
        return {"format": _FORMAT, **asdict(self)}


def write_record(folder: str | Path, record: ExportRecord) -> None:
    """Write `export.json` into the folder of an export, next to the files that it lists.

    Example:
        >>> write_record("runs/pipeline/engines/openvino-int8", record)  # doctest: +SKIP
    """
    content = {**record._content, _OWN_SUM: record.sha256}
    with atomic_write(Path(folder) / RECORD) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_record(folder: str | Path) -> ExportRecord:
    """Read the record of an export, and check it against its own checksum.

    Args:
        folder: Folder of the export, with `export.json`.

    Raises:
        ExportError: If the record is missing, damaged, edited, or of a newer format.

    Example:
        >>> read_record("runs/pipeline/engines/openvino-int8").precision  # doctest: +SKIP
        'int8'
    """
    path = Path(folder) / RECORD
    content = _read_json(path)
    if content.get("format") != _FORMAT:
        raise ExportError(
            f"{path} has format {content.get('format')!r}, and this version of pneumoseg reads {_FORMAT}: install a "
            f"newer one, or {AGAIN}"
        )
    if content.pop(_OWN_SUM, None) != content_sha256(content, _OWN_SUM):
        raise ExportError(f"{path} was changed after it was written (SHA-256): {AGAIN}")
    del content["format"]
    if problem := _problem_of(content):
        raise ExportError(f"{path}: {problem}: {AGAIN}")
    return ExportRecord(**content)


def check_files(folder: str | Path, record: ExportRecord) -> None:
    """Check that the folder of an export holds exactly the files that its record lists, unchanged.

    Hidden files, which file managers leave behind, are ignored.

    Args:
        folder: Folder of the export.
        record: Its record.

    Raises:
        ExportError: If a file is missing, changed or not listed.
    """
    folder = Path(folder)
    found = set(_listed(folder))
    if missing := sorted(record.files.keys() - found):
        raise ExportError(f"{folder} has no {missing[0]}: copy the whole folder, or {record.again}")
    if added := sorted(found - record.files.keys()):
        raise ExportError(f"{folder / added[0]} is not part of the export: remove it, or {record.again}")
    for name, expected in record.files.items():
        if file_sha256(folder / name) != expected:
            raise ExportError(f"{folder / name} is not the file that {RECORD} describes (SHA-256): {record.again}")


def sum_files(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file in the folder of an export, for `ExportRecord.files`."""
    return {name: file_sha256(Path(folder) / name) for name in _listed(Path(folder))}


def _listed(folder: Path) -> list[str]:
    """Return the names of the files that the record of an export lists."""
    return sorted(path.name for path in folder.iterdir() if not is_hidden(path.name) and path.name != RECORD)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{path.parent}: no export, it has no {path.name}: {AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON ({error}): {AGAIN}") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path}: expected a JSON object: {AGAIN}")
    return content


def _problem_of(content: Mapping[str, Any]) -> str | None:
    """Return the first problem of the keys and values of a record; None if there is none."""
    expected = ExportRecord.__dataclass_fields__
    if content.keys() != expected.keys():
        return f"expected the keys {', '.join(expected)}"
    if (name := f"{content['engine']}-{content['precision']}") not in EXPORT_NAMES:
        return f"engine and precision are {name}, expected one of {', '.join(EXPORT_NAMES)}"
    if not all(isinstance(content[key], dict) for key in expected if key not in ("engine", "precision")):
        return "networks, facts, files, comparison, versions and cpu must be objects"
    if content["facts"].keys() != content["networks"].keys() or not all(map(_are_facts, content["facts"].values())):
        return "facts must hold name, image_size and parameters of each network"
    if not all(Path(name).name == name and isinstance(digest, str) for name, digest in content["files"].items()):
        return "files must hold the SHA-256 of each file by its name"
    return None


def _are_facts(facts: Any) -> bool:
    types = NetworkFacts.__annotations__
    return isinstance(facts, dict) and {key: type(value) for key, value in facts.items()} == types
