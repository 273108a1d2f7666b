"""Decisions of each export of a pipeline, compared with Keras on several sets of images.

    python benchmarks/engines.py PIPELINE MANIFEST... > benchmarks/results/engines.md

The exports are those in the pipeline's folder, made by `pneumoseg export`. A set is named after the folder of its
manifest.
"""

import sys
import tempfile
from pathlib import Path

from pneumoseg.data.index import load_manifest
from pneumoseg.engines.exports import export_names
from pneumoseg.inference import load_pipeline
from pneumoseg.inference.comparison import ComparedImages, Comparison, Reference, compare

_COLUMNS = (
    "images",
    "export",
    "passed on",
    "with a mask",
    "other gates",
    "other decisions",
    "largest difference of probability",
    "largest difference of the map",
    "mean Dice",
    "change",
)


def main(pipeline: Path, manifests: list[Path]) -> None:
    """Print a table in Markdown, with one row per set of images and export."""
    print(f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}")
    exports = {name: load_pipeline(pipeline, engine=name) for name in export_names(pipeline)}
    keras = load_pipeline(pipeline)
    for path in manifests:
        with tempfile.TemporaryDirectory() as maps:
            manifest = load_manifest(path)
            images = ComparedImages(manifest["path"].tolist(), manifest["rle"].tolist(), path.parent.name)
            reference = Reference(keras, images, Path(maps))
            for name, export in exports.items():
                print(_row(name, compare(reference, export)), flush=True)


def _row(name: str, found: Comparison) -> str:
    cells = (
        f"{found.origin} ({found.images})",
        name,
        found.passed,
        found.positive,
        found.flipped_gates,
        found.flipped_images,
        f"{found.probability_difference:.1e}",
        f"{found.map_difference:.1e}",
        "-" if found.dice_keras is None else f"{found.dice_keras:.4f}",
        "-" if found.dice_change is None else f"{found.dice_change:+.4f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
