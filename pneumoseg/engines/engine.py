"""The engine that computes a pipeline's networks, as its results name it."""

from dataclasses import asdict, dataclass

_TITLES = {"keras": "Keras", "openvino": "OpenVINO", "onnx": "ONNX Runtime"}


@dataclass(frozen=True)
class Engine:
    """The library, and the precision, that computes the probabilities.

    Attributes:
        name: "keras", "openvino" or "onnx".
        precision: "float32", "bfloat16" or "int8", as it is computed. A CPU without bfloat16 computes a bfloat16 export
            in float32.
        sha256: SHA-256 of the record of the export; '' for Keras.

    Raises:
        ValueError: If no engine has this name.

    Example:
        >>> str(Engine("openvino", "int8", "4f...")), str(Engine())
        ('OpenVINO, int8', 'Keras, float32')
    """

    name: str = "keras"
    precision: str = "float32"
    sha256: str = ""

    def __post_init__(self) -> None:
        """Refuse an unknown engine, as in a file of a newer version."""
        if self.name not in _TITLES:
            raise ValueError(f"engine is {self.name!r}, expected one of {', '.join(_TITLES)}")

    @property
    def title(self) -> str:
        """The name of the library as it is written."""
        return _TITLES[self.name]

    @property
    def identity(self) -> dict[str, dict[str, str]]:
        """The part of it in the identity of results: none for Keras, as before there were other engines."""
        return {} if self == Engine() else {"engine": asdict(self)}

    def __str__(self) -> str:
        """Return the library and the precision."""
        return f"{self.title}, {self.precision}"
