"""Commands that join networks to a pipeline and let it predict."""

from pathlib import Path
from typing import Annotated

import typer

from pneumoseg.cli.app import (
    Assembled,
    ExcludedRuns,
    Manifest,
    PipelinePath,
    app,
    output_file,
    output_folder,
    tell_unreadable,
)

_STAGES = {
    "classifier": "below the classifier's threshold",
    "segmenter": "without a segmented pixel",
    "triplet": "with too few confident pixels",
    "elimination": "with small regions only",
    "mask": "with a mask",
    "error": "unreadable",
}


@app.command()
def assemble(
    classifier: Annotated[list[Path], typer.Option(help="The classifier's bundle; of several the mean is taken.")],
    segmenter: Annotated[list[Path], typer.Option(help="The segmenter's bundle; of several the mean is taken.")],
    out: Annotated[Path, typer.Option(help="The pipeline's folder.", callback=output_folder)],
    classifier_threshold: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    mask_threshold: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    minimum_area: Annotated[float, typer.Option(help="Smallest component kept, in pixels at 1024 x 1024.")] = 3500,
    flip: Annotated[bool, typer.Option("--flip", help="Average over the mirrored image, too.")] = False,
) -> None:
    """Join a classifier and a segmenter."""
    from pneumoseg.inference import assemble_pipeline
    from pneumoseg.training.averaging import worse_average

    assemble_pipeline(
        classifier,
        segmenter,
        out,
        classifier_threshold=classifier_threshold,
        mask_threshold=mask_threshold,
        minimum_area=minimum_area,
        flip=flip,
    )
    for text in filter(None, map(worse_average, segmenter)):
        typer.secho(text, fg="yellow", err=True)
    typer.echo(f"{out}: pipeline of {', '.join(map(str, [*classifier, *segmenter]))}")


@app.command()
def predict(
    manifest: Manifest,
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="Folder of predictions to write.", callback=output_folder)],
    exclude_training: ExcludedRuns = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average over the mirrored image, too.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images a batch.", min=1)] = 4,
) -> None:
    """Run both networks once over annotated images and keep what they say."""
    import dataclasses

    from pneumoseg.data.index import load_manifest
    from pneumoseg.data.splits import without_training_images
    from pneumoseg.inference import load_pipeline
    from pneumoseg.predictions import cache_predictions

    runs = exclude_training or []
    everything = load_manifest(manifest)
    table = without_training_images(everything, runs)
    networks = load_pipeline(pipeline, batch_size)
    networks = dataclasses.replace(networks, flip=networks.flip or flip)
    kept = cache_predictions(networks, table, out, progress=True)
    left_out = f" ({len(everything) - len(table)} images of the manifest were, and are left out)"
    trained = f", none of them trained on by {', '.join(map(str, runs))}{left_out}" if runs else ""
    typer.echo(f"{out}: {len(table)} images, {table['has_pneumothorax'].sum()} positive{trained}")
    tell_unreadable(kept.errors)


@app.command()
def submit(
    dicom_dir: Annotated[Path, typer.Argument(help="Folder with .dcm files at any depth.")],
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="Submission to write.", callback=output_file)] = Path("submission.csv"),
    assembled: Assembled = False,
    batch_size: Annotated[int, typer.Option(help="Images a batch.", min=1)] = 4,
) -> None:
    """Write a submission for a folder of DICOM files."""
    from rich.progress import track

    from pneumoseg.data.files import choose_one_per_id, find_dicoms
    from pneumoseg.inference import load_pipeline
    from pneumoseg.submission import write_submission

    paths, left_out = choose_one_per_id(find_dicoms(dicom_dir))
    results = track(
        load_pipeline(pipeline, batch_size, assembled=assembled).predict_many(paths), "Predicting", len(paths)
    )
    stages = write_submission(results, out, left_out=left_out)
    counts = ", ".join(f"{count} {_STAGES[stage]}" for stage, count in sorted(stages.items()))
    typer.echo(f"{out}: {stages.total()} rows: {counts}")
    if left_out:
        typer.secho(
            f"{len(left_out)} FILES LEFT OUT, the first: {left_out[0][1]}: {out.with_suffix('.errors.csv')}",
            fg="red",
            err=True,
        )
    if stages["error"]:
        typer.secho(
            f"{stages['error']} UNREADABLE FILES, submitted as -1: {out.with_suffix('.errors.csv')}", fg="red", err=True
        )


@app.command()
def validate_submission(
    submission: Annotated[Path, typer.Argument(help="CSV to check.")],
    expected: Annotated[Path, typer.Option(help="CSV with the ids it should hold, such as the sample submission.")],
    rows: Annotated[int, typer.Option(help="Height of every mask.")] = 1024,
    columns: Annotated[int, typer.Option(help="Width of every mask.")] = 1024,
) -> None:
    """Check a submission, list its problems.

    Exits with status 1 if there are any.
    """
    from pneumoseg.data.annotations import read_annotations
    from pneumoseg.submission import validate_submission

    ids = read_annotations(expected)["image_id"]
    problems = validate_submission(submission, ids, (rows, columns))
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{submission}: valid, {ids.nunique()} rows")
