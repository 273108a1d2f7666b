"""The command that exports a pipeline to another engine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pneumoseg.cli.app import BatchSize, app, changed_folder, manifest_file, require_pipeline

if TYPE_CHECKING:
    from pneumoseg.engines.export_record import ExportRecord


@app.command()
def export(
    pipeline: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder made by `pneumoseg assemble`; gets the export.", callback=changed_folder
        ),
    ],
    engine: Annotated[Literal["openvino", "onnx"], typer.Option(help="Library that will compute the networks.")],
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"], typer.Option(help="Kind of numbers that it will compute with.")
    ] = "float32",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Manifest of images that show the ranges of numbers, for int8.", callback=manifest_file
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Manifest of the images to compare with Keras on.", callback=manifest_file),
    ] = None,
    accept_differences: Annotated[
        bool, typer.Option("--accept-differences", help="Write the export even if it decides otherwise than Keras.")
    ] = False,
    batch_size: BatchSize = 4,
) -> None:
    """Export a pipeline to a faster engine.

    Compares the export with Keras on images, and writes it into the pipeline's folder if they decide the same. Without
    a manifest the images are generated ones.
    """
    from pneumoseg.data.index import load_manifest

    require_pipeline(pipeline)
    calibration, compared = (None if path is None else load_manifest(path) for path in (calibrate, images))

    from pneumoseg.inference.export import export_pipeline

    record = export_pipeline(
        pipeline,
        engine,
        precision,
        calibration=calibration,
        images=compared,
        accept_differences=accept_differences,
        batch_size=batch_size,
        progress=True,
    )
    _print_comparison(record)
    for text in record.comparison["problems"]:
        typer.secho(f"ACCEPTED DIFFERENCE: {text}", fg="red", err=True)
    typer.echo(f"{pipeline}: exported; use it with: pneumoseg predict ... --engine {record.name}")


def _print_comparison(record: "ExportRecord") -> None:
    from rich.console import Console
    from rich.table import Table

    numbers = record.comparison
    table = Table(title=f"{record.name} and Keras on {numbers['origin']}", title_justify="left", show_header=False)
    for name, value in _rows(numbers):
        table.add_row(name, value)
    Console().print(table)


def _rows(numbers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "images", str(numbers["images"])
    yield "passed on by the classifier", str(numbers["passed"])
    yield "with a mask", str(numbers["positive"])
    yield "other decisions of the classifier", str(numbers["flipped_gates"])
    yield "other decisions on the image", str(numbers["flipped_images"])
    yield "largest difference of probability", f"{numbers['probability_difference']:.2g}"
    yield "least distance from the threshold", "-" if numbers["closest"] is None else f"{numbers['closest']:.2g}"
    yield "largest difference of the map", f"{numbers['map_difference']:.2g}"
    if numbers["dice_change"] is not None:
        yield "images with a known mask", str(numbers["with_truth"])
        yield "mean Dice", f"{numbers['dice_export']:.4f} (Keras {numbers['dice_keras']:.4f})"
        yield "change of the mean Dice", f"{numbers['dice_change']:+.4f}"
    for network, layers in numbers["kept_in_float32"].items():
        note = " (all: NOT QUANTISED)" if network in numbers["not_quantised"] else ""
        yield f"layers of {network} in float32", f"{len(layers)}{note}"
