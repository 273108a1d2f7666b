"""Commands that choose a pipeline's rule, score it and show it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoseg.atomic_write import atomic_write
from pneumoseg.cli.app import (
    Assembled,
    KeptPredictions,
    PipelinePath,
    TunedPipeline,
    app,
    output_file,
    output_folder,
    tell_unreadable,
)

if TYPE_CHECKING:
    from pneumoseg.evaluation import Evaluation
    from pneumoseg.inference import PipelineFolder, Tuning
    from pneumoseg.predictions import Predictions


@app.command()
def tune(
    predictions: KeptPredictions,
    pipeline: TunedPipeline,
    share: Annotated[float, typer.Option(help="Choose on this share of the images, the rest is for reporting.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same share of the images.")] = 0,
) -> None:
    """Choose the pipeline's thresholds and areas on validation images."""
    import dataclasses

    from pneumoseg.evaluation.tuning import tune
    from pneumoseg.inference import PipelineFolder, save_tuning

    record = PipelineFolder.read(pipeline)
    tuning = tune(_predictions_of(record, predictions, pipeline), record.assembled, fraction=share, seed=seed)
    save_tuning(pipeline, tuning)
    scores = tuning.scores
    typer.echo(
        f"{pipeline}: rule chosen on {len(tuning.image_ids)} images, {scores['positives']} positive: mean Dice there "
        f"{scores['mean_dice']:.4f}, before {scores['mean_dice_before']:.4f}, "
        f"all-empty baseline {scores['baseline']:.4f}"
    )
    before = dataclasses.asdict(record.assembled)
    for name, value in dataclasses.asdict(tuning.rule).items():
        typer.echo(f"  {name}: {value:g} (before {before[name]:g})")


@app.command()
def evaluate(
    predictions: KeptPredictions,
    pipeline: PipelinePath,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write all tables to, as CSV.", callback=output_folder)
    ] = None,
    assembled: Assembled = False,
    run: Annotated[
        list[Path] | None, typer.Option(help="Run that trained it, to check its images; can be repeated.")
    ] = None,
) -> None:
    """Score a pipeline on kept predictions: every table, in seconds.

    Beside it stand its segmenter alone, both without elimination, and the floor of predicting nothing.
    """
    from pneumoseg.report.comparison import segmenter_scores
    from pneumoseg.report.page import warnings_about

    evaluation, _ = _evaluated(predictions, pipeline, assembled)
    cases, table_1 = evaluation.cases, segmenter_scores(run or [])
    tables, summaries = evaluation.tables(), evaluation.summaries()
    if len(table_1):
        tables["table_1"], summaries["Segmenter on its validation images (table 1)"] = table_1, table_1
    typer.echo(f"{len(cases)} images, {cases['positive'].sum()} positive; {evaluation.intervals}\n")
    for text in warnings_about(evaluation, run or []):
        typer.secho(text, fg="yellow", err=True)
    for title, table in summaries.items():
        typer.echo(f"{title}\n{table.to_string(float_format='{:.4f}'.format, na_rep='')}\n")
    if out is not None:
        for name, table in tables.items():
            with atomic_write(out / f"{name}.csv") as temporary:
                table.to_csv(temporary)
        typer.echo(f"{out}: all tables")
    if tell_unreadable(evaluation.predictions.errors):
        raise typer.Exit(1)


@app.command()
def report(
    predictions: KeptPredictions,
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="HTML page to write.", callback=output_file)] = Path("report.html"),
    run: Annotated[
        list[Path] | None, typer.Option(help="Run whose curves and scores to show; can be repeated.")
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Other predictions of the same images to set beside; can be repeated.")
    ] = None,
    assembled: Assembled = False,
    cases: Annotated[int, typer.Option(help="Most images in the gallery.", min=0)] = 500,
) -> None:
    """Write one page with every score, table and curve, and a gallery of the images."""
    from pneumoseg.evaluation import compare_predictions
    from pneumoseg.predictions import load_predictions
    from pneumoseg.report.page import write_report

    evaluation, tuning = _evaluated(predictions, pipeline, assembled)
    names = [path.name for path in compare or []]
    others = {path.name if names.count(path.name) == 1 else str(path): load_predictions(path) for path in compare or []}
    comparison = compare_predictions(evaluation.predictions, others, evaluation.rule) if others else None
    write_report(evaluation, out, tuning=tuning, runs=run or [], comparison=comparison, max_images=cases)
    typer.echo(f"{out}: {len(evaluation.cases)} images, {out.stat().st_size / 1e6:.1f} MB")


def _predictions_of(record: "PipelineFolder", predictions: Path, pipeline: Path) -> "Predictions":
    """Kept predictions, refused if they are another pipeline's."""
    from pneumoseg.predictions import load_predictions

    kept = load_predictions(predictions)
    if (dict(kept.networks), kept.flip) != (record.networks, record.flip):
        raise ValueError(
            f"{predictions} holds what other networks than those in {pipeline} say, or mirrored otherwise: predict anew"
        )
    return kept


def _evaluated(predictions: Path, pipeline: Path, assembled: bool) -> tuple["Evaluation", "Tuning | None"]:
    """Kept predictions scored, without the images that the rule was chosen on; and what it was chosen on."""
    import dataclasses

    from pneumoseg.evaluation import evaluate
    from pneumoseg.evaluation.tuning import without_tuning_images
    from pneumoseg.inference import PipelineFolder

    record = PipelineFolder.read(pipeline)
    if assembled:
        record = dataclasses.replace(record, tuning=None)
    kept = _predictions_of(record, predictions, pipeline)
    scored = without_tuning_images(kept, record.tuning)
    left_out = len(kept.manifest) - len(scored.manifest)
    if left_out:
        typer.echo(f"{left_out} images left out: the pipeline's rule was chosen on them, or their patients", err=True)
    return evaluate(scored, record.assembled, record.tuning.rule if record.tuning else None), record.tuning
