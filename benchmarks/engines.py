"""Decisions of each export of a pipeline, compared with Keras on several sets of images.

    python benchmarks/engines.py PIPELINE MANIFEST...

The exports are those in the pipeline's folder, made by `pneumoseg export`. A set is named after the folder of its
manifest. "Seen" counts the images that the export was compared on when it was made: an int8 export then keeps layers in
float32 until these are decided as Keras decides, so that only the others show how it does on new images.
"""

import sys
import tempfile
from pathlib import Path

from pneumoseg.data.index import load_manifest
from pneumoseg.engines.export_record import EXPORTS, ExportRecord, read_record
from pneumoseg.engines.exports import export_names
from pneumoseg.inference import load_pipeline
from pneumoseg.inference.comparison import ComparedImages, Comparison, Reference, compare

_COLUMNS = (
    "images",
    "export",
    "seen",
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
    """Print how each export was made, and a table in Markdown with one row per set of images and export."""
    records = [read_record(pipeline / EXPORTS / name) for name in export_names(pipeline)]
    print("\n".join(map(_origin, records)))
    print(f"\n| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}")
    exports = [load_pipeline(pipeline, engine=record.name) for record in records]
    keras = load_pipeline(pipeline)
    for path in manifests:
        with tempfile.TemporaryDirectory() as maps:
            images = ComparedImages.of(load_manifest(path), path.parent.name)
            reference = Reference(keras, images, Path(maps))
            for record, export in zip(records, exports, strict=True):
                print(_row(record, compare(reference, export)), flush=True)


def _origin(record: ExportRecord) -> str:
    made = record.comparison
    kept = [f"{len(layers)} layers of {name} in float32" for name, layers in made["kept_in_float32"].items()]
    facts = [
        f"calibrated on {made['calibrated_on']}" if made["calibrated_on"] else "",
        f"compared on {made['origin']}",
        *kept,
        f"not quantised: {', '.join(made['not_quantised'])}" if made["not_quantised"] else "",
        *(f"accepted: {problem}" for problem in made["problems"]),
    ]
    return f"- `{record.name}`: {'; '.join(filter(None, facts))}"


def _row(record: ExportRecord, found: Comparison) -> str:
    cells = (
        f"{found.origin} ({found.images})",
        record.name,
        len(set(found.image_ids).intersection(record.comparison["image_ids"])),
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
