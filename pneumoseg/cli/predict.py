"""The command that runs a pipeline on files and folders."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoseg.cli.app import Assembled, BatchSize, Engine, app, output_folder, require_pipeline
from pneumoseg.cli.ray_option import RayAddress, RayCommand
from pneumoseg.cluster import require_ray
from pneumoseg.remote_files import is_remote, without_file_protocol

if TYPE_CHECKING:
    from pneumoseg.inference.row import ResultRow

_MOST_LISTED = 50


def _local_or_remote(ctx: typer.Context, place: str | None) -> str | None:
    """Check that a local folder can be written; a callback of an option."""
    place = place and without_file_protocol(place)
    if place is not None and not is_remote(place):
        output_folder(ctx, Path(place))
    return place


@app.command(cls=RayCommand)
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="Image files, and folders with images at any depth; with --ray also URLs."
        ),
    ],
    pipeline: Annotated[
        str, typer.Option(metavar="DIR", help="Folder made by `pneumoseg assemble`; with --ray also a URL.")
    ],
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the results; with --ray also a URL.", callback=_local_or_remote),
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
    max_images: Annotated[
        int | None, typer.Option(help="Maximum number of images on the page.  [default: 500]", min=0)
    ] = None,
    ray: RayAddress = None,
    workers: Annotated[
        int | None,
        typer.Option(help="With --ray: number of workers.  [default: one per GPU or CPU that is there]", min=1),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            help="With --ray: GPUs per worker, such as 0.5; name it if machines with GPUs join the cluster later.  "
            "[default: 1 if there are any]",
            min=0,
        ),
    ] = None,
) -> None:
    """Find and outline pneumothorax on images.

    Writes a table, masks and a page to look through them; with --ray, Parquet files with the table and the masks' codes
    only. Run the same command again to continue after a stop. The exit status is 1 if any file could not be read, or
    any folder could not be listed.
    """
    if ray is not None:
        given = {"--overlays": overlays, "--probabilities": probabilities, "--json": as_json}
        given["--max-images"] = max_images is not None
        _require_none(given, "not possible with --ray, which writes no pictures and no page")
        _predict_on_ray(
            pipeline,
            inputs,
            out,
            ray,
            workers,
            gpus_per_worker,
            batch_size=batch_size,
            assembled=assembled,
            engine=engine,
        )
        return
    _require_none({"--workers": workers, "--gpus-per-worker": gpus_per_worker}, "for --ray: add it")
    for place in filter(is_remote, (*inputs, pipeline, out)):
        raise ValueError(f"{place} is a URL, which only --ray reads and writes: add it, or name a local path")
    if out is None and not as_json:
        raise ValueError("nothing to do with the results: name a folder with --out, or print them with --json")
    if out is None and (overlays or probabilities):
        raise ValueError("--overlays and --probabilities need a folder: name one with --out")

    from pneumoseg.data.files import find_images

    found = find_images(inputs)
    require_pipeline(Path(pipeline))

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
            max_images=500 if max_images is None else max_images,
            progress=True,
        )
        rows, skipped = list(results.rows), len(results.skipped)
        for row in rows if as_json else ():
            typer.echo(_as_line(row))
    _sum_up(rows, skipped, "" if out is None else str(Path(out) / PAGE), to_stderr=as_json)
    if found.unlisted or any(row.error is not None for row in rows):
        raise typer.Exit(1)


def _predict_on_ray(
    pipeline: str,
    inputs: list[str],
    out: str | None,
    address: str,
    number: int | None,
    gpus: float | None,
    **options: Any,
) -> None:
    if out is None:
        raise ValueError("nothing to do with the results: name a folder with --out")
    require_ray("pyarrow", "fsspec")

    from pneumoseg.bulk.placement import Workers
    from pneumoseg.bulk.run import predict_in_bulk

    workers = Workers(address, number, gpus)
    try:
        done = predict_in_bulk(pipeline, inputs, out, workers=workers, progress=True, **options)
    except RuntimeError as error:
        typer.echo(f"pneumoseg: {error}", err=True)
        raise typer.Exit(2) from error
    counts = Counter({True: done.positive, False: done.negative, None: len(done.errors)})
    _tell(done.errors, counts, done.skipped, done.unbelieved)
    typer.echo(f'Read them: pneumoseg.bulk.read_results("{out}")')
    if done.unlisted or done.errors:
        raise typer.Exit(1)


def _require_none(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that were given.

    Raises:
        ValueError: If any was.
    """
    if given := [name for name, value in options.items() if value not in (None, False)]:
        raise ValueError(f"{', '.join(given)}: {reason}")


def _as_line(row: "ResultRow") -> str:
    return json.dumps(row.as_dict(), ensure_ascii=False)


def _sum_up(rows: "Sequence[ResultRow]", skipped: int, page: str, *, to_stderr: bool) -> None:
    """Print the files that could not be read, then the counts."""
    errors = [(row.path, row.error) for row in rows if row.error is not None]
    unbelieved = sum(row.spacing_source is not None and row.area_mm2 is None for row in rows)
    _tell(errors, Counter(row.has_pneumothorax for row in rows), skipped, unbelieved, to_stderr=to_stderr)
    if page:
        typer.echo(f"Look through them: {page}", err=to_stderr)


def _tell(
    errors: Sequence[tuple[str, str]],
    counts: "Counter[bool | None]",
    skipped: int,
    unbelieved: int,
    *,
    to_stderr: bool = False,
) -> None:
    for path, error in errors[:_MOST_LISTED]:
        typer.secho(f"{path}: {error}", fg="red", err=True)
    if len(errors) > _MOST_LISTED:
        typer.secho(f"... and {len(errors) - _MOST_LISTED} more files that could not be read", fg="red", err=True)
    text = (
        f"{counts.total()} images: {counts[True]} with a pneumothorax, {counts[False]} without, {counts[None]} "
        f"unreadable; {skipped} other files skipped"
    )
    if unbelieved:
        text += f"\n{unbelieved} images without an area in mm2: by their pixel spacing they cannot show a chest"
    typer.echo(text, err=to_stderr)
