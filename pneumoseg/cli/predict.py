"""The command that runs a pipeline on files and folders."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoseg.cli.app import Assembled, BatchSize, Engine, PipelinePath, app, output_folder, require_pipeline

if TYPE_CHECKING:
    from pneumoseg.inference.row import ResultRow

_MOST_LISTED = 50


@app.command()
def predict(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Image files, and folders with images at any depth.")
    ],
    pipeline: PipelinePath,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the results.", callback=output_folder)
    ] = None,
    overlays: Annotated[bool, typer.Option("--overlays", help="Also write images with their outlines.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the segmenter's maps, for all images.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each result as a line of JSON; makes --out optional.")
    ] = False,
    batch_size: BatchSize = 4,
    assembled: Assembled = False,
    engine: Engine = "keras",
    max_images: Annotated[int, typer.Option(help="Maximum number of images on the page.", min=0)] = 500,
) -> None:
    """Find and outline pneumothorax on images.

    Writes a table, masks and a page to look through them. Run the same command again to continue after a stop. The
    exit status is 1 if any file could not be read, or any folder could not be listed.
    """
    if out is None and not as_json:
        raise ValueError("nothing to do with the results: name a folder with --out, or print them with --json")
    if out is None and (overlays or probabilities):
        raise ValueError("--overlays and --probabilities need a folder: name one with --out")

    from pneumoseg.data.files import find_images

    found = find_images(inputs)
    require_pipeline(pipeline)

    from pneumoseg.inference import load_pipeline
    from pneumoseg.results import PAGE, result_rows, write_results

    networks, rows = load_pipeline(pipeline, batch_size, assembled=assembled, engine=engine), list["ResultRow"]()
    skipped = len(found.skipped)
    if out is None:
        for row in result_rows(networks, found.paths, progress=True):
            typer.echo(_as_line(row))
            rows.append(row)
    else:
        results = write_results(
            networks,
            found,
            out,
            overlays=overlays,
            probabilities=probabilities,
            max_images=max_images,
            progress=True,
        )
        rows, skipped = list(results.rows), len(results.skipped)
        for row in rows if as_json else ():
            typer.echo(_as_line(row))
    _sum_up(rows, skipped, "" if out is None else str(out / PAGE), to_stderr=as_json)
    if found.unlisted or any(row.error is not None for row in rows):
        raise typer.Exit(1)


def _as_line(row: "ResultRow") -> str:
    return json.dumps(row.as_dict(), ensure_ascii=False)


def _sum_up(rows: "Sequence[ResultRow]", skipped: int, page: str, *, to_stderr: bool) -> None:
    """Print the files that could not be read, then the counts."""
    errors = [row for row in rows if row.error is not None]
    for row in errors[:_MOST_LISTED]:
        typer.secho(f"{row.path}: {row.error}", fg="red", err=True)
    if len(errors) > _MOST_LISTED:
        typer.secho(f"... and {len(errors) - _MOST_LISTED} more files that could not be read", fg="red", err=True)
    counts = Counter(row.has_pneumothorax for row in rows)
    text = (
        f"{len(rows)} images: {counts[True]} with a pneumothorax, {counts[False]} without, {counts[None]} unreadable; "
        f"{skipped} other files skipped"
    )
    if unbelieved := sum(row.spacing_source is not None and row.area_mm2 is None for row in rows):
        text += f"\n{unbelieved} images without an area in mm2: by their pixel spacing they cannot show a chest"
    typer.echo(f"{text}\nLook through them: {page}" if page else text, err=to_stderr)
