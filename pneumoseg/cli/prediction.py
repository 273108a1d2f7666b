"""Commands that assemble pipelines, run them, and check submissions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoseg.cli.app import (
    Assembled,
    BatchSize,
    Engine,
    Manifest,
    PipelinePath,
    app,
    output_file,
    output_folder,
    tell_unreadable,
)

if TYPE_CHECKING:
    from pneumoseg.training.run import Run

_STAGES = {
    "classifier": "not above the classifier's threshold",
    "segmenter": "without a segmented pixel",
    "triplet": "stopped by the triplet rule",
    "elimination": "with small regions only",
    "mask": "with a mask",
    "error": "unreadable",
    "missing": "without a file",
}


@app.command()
def assemble(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Finished runs of a classifier and of a segmenter, or folders of bundles; several are averaged.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the pipeline.", callback=output_folder)],
    classifier_threshold: Annotated[float | None, typer.Option(help="Replaces the one that the runs chose.")] = None,
    mask_threshold: Annotated[float | None, typer.Option(help="Replaces the one that the runs chose.")] = None,
    minimum_area: Annotated[float, typer.Option(help="Smallest component kept, in pixels at 1024 x 1024.")] = 3500,
    flip: Annotated[bool, typer.Option("--flip", help="Also average over the mirrored image.")] = False,
) -> None:
    """Combine trained networks into a pipeline.

    Uses the averaged weights of a run if there are any, otherwise those of its best epoch, and the networks of all
    folds of a cross-validation.
    """
    from pneumoseg.inference import assemble_pipeline
    from pneumoseg.models.bundle_spec import is_bundle, read_bundle_spec
    from pneumoseg.training.averaging import worse_average
    from pneumoseg.training.run import Run

    bundles = [path for each in sources for path in ([each] if is_bundle(each) else Run(each).deployable())]
    kinds = {bundle: read_bundle_spec(bundle).builder for bundle in bundles}
    classifiers, segmenters = (
        [bundle for bundle in bundles if kinds[bundle] == kind] for kind in ("classifier", "segmenter")
    )
    runs = [Run(each.resolve().parent if is_bundle(each) else each) for each in sources]
    assemble_pipeline(
        classifiers,
        segmenters,
        out,
        classifier_threshold=classifier_threshold,
        mask_threshold=mask_threshold,
        minimum_area=minimum_area,
        flip=flip,
        records=_records(runs),
    )
    for text in filter(None, map(worse_average, segmenters)):
        typer.secho(text, fg="yellow", err=True)
    typer.echo(f"{out}: pipeline of {', '.join(map(str, bundles))}")


def _records(runs: "Iterable[Run]") -> dict[str, Path]:
    """Return the files of each run that a report shows, by their path in the pipeline's folder of runs."""
    records: dict[str, Path] = {}
    for folder, run in {run.folder.resolve(): run for run in runs}.items():
        name = folder.name
        while any(path.startswith(f"{name}/") for path in records):
            name = f"{name}_"
        records |= {f"{name}/{path.relative_to(run.folder).as_posix()}": path for path in run.report_files()}
    return records


@app.command()
def cache_predictions(
    manifest: Manifest,
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.", callback=output_folder)],
    flip: Annotated[bool, typer.Option("--flip", help="Also average over the mirrored image.")] = False,
    batch_size: BatchSize = 4,
    engine: Engine = "keras",
) -> None:
    """Run both networks once and keep their outputs.

    The images are those of a manifest, without the ones that the pipeline was trained on.
    """
    import dataclasses

    from pneumoseg.data.index import load_manifest
    from pneumoseg.inference import load_pipeline
    from pneumoseg.predictions import cache_predictions

    table = load_manifest(manifest)
    networks = load_pipeline(pipeline, batch_size, engine=engine)
    networks = dataclasses.replace(networks, flip=networks.flip or flip)
    cached = cache_predictions(networks, table, out, progress=True)
    positive = cached.manifest["has_pneumothorax"].sum()
    typer.echo(f"{out}: {len(cached.manifest)} images, {positive} positive")
    tell_unreadable(cached.errors)


@app.command()
def submit(
    images: Annotated[Path, typer.Argument(help="Folder with images at any depth.")],
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="Submission to write.", callback=output_file)] = Path("submission.csv"),
    ids: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Ids to write, such as the sample submission; by default those of all files."),
    ] = None,
    assembled: Assembled = False,
    batch_size: BatchSize = 4,
    engine: Engine = "keras",
) -> None:
    """Write a submission for a folder of images.

    With --ids it has exactly these ids: other files are left out, and an id without a file gets -1.
    """
    from rich.progress import track

    from pneumoseg.data.files import choose_one_per_id, find_images
    from pneumoseg.inference import load_pipeline
    from pneumoseg.submission import read_ids, write_submission

    asked = None if ids is None else read_ids(ids)
    paths, left_out = choose_one_per_id(_asked_files(find_images(images).paths, asked))
    networks = load_pipeline(pipeline, batch_size, assembled=assembled, engine=engine)
    results = track(networks.predict_many(paths), "Predicting", len(paths))
    stages = write_submission(results, out, ids=asked, left_out=left_out)
    counts = ", ".join(f"{count} {_STAGES[stage]}" for stage, count in sorted(stages.items()))
    typer.echo(f"{out}: {stages.total()} rows: {counts}")
    _tell_problems(stages, left_out, out.with_suffix(".errors.csv"))


def _asked_files(paths: list[Path], ids: list[str] | None) -> list[Path]:
    """Return the files to predict, and say how many are left out."""
    from pneumoseg.submission import files_of_ids

    if ids is None:
        return paths
    chosen = files_of_ids(paths, ids)
    if len(chosen) < len(paths):
        typer.echo(
            f"{len(paths) - len(chosen)} of {len(paths)} files are left out: their ids are not asked for", err=True
        )
    return chosen


def _tell_problems(stages: Counter[str], left_out: Sequence[tuple[str, str]], listed: Path) -> None:
    texts = []
    if left_out:
        texts.append(f"{len(left_out)} FILES LEFT OUT, the first: {left_out[0][1]}: {listed}")
    if stages["error"]:
        texts.append(f"{stages['error']} UNREADABLE FILES, submitted as -1: {listed}")
    if stages["missing"]:
        texts.append(f"{stages['missing']} IDS WITHOUT A FILE, submitted as -1: {listed}")
    for text in texts:
        typer.secho(text, fg="red", err=True)


@app.command()
def validate_submission(
    submission: Annotated[Path, typer.Argument(help="CSV to check.")],
    expected: Annotated[Path, typer.Option(help="CSV with the ids it should hold, such as the sample submission.")],
    rows: Annotated[int, typer.Option(help="Height of every mask.")] = 1024,
    columns: Annotated[int, typer.Option(help="Width of every mask.")] = 1024,
) -> None:
    """Check a submission and list its problems.

    Exits with status 1 if there are any.
    """
    from pneumoseg.submission import read_ids, validate_submission

    ids = read_ids(expected)
    problems = validate_submission(submission, ids, (rows, columns))
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{submission}: valid, {len(ids)} rows")
