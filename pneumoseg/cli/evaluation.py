"""Commands that choose the decision rule of a pipeline, score the pipeline, and write its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoseg.atomic_write import atomic_write
from pneumoseg.cli.app import (
    Assembled,
    CachedPredictions,
    PipelinePath,
    TunedPipeline,
    app,
    output_file,
    output_folder,
    tell_unreadable,
)

if TYPE_CHECKING:
    import pandas as pd

    from pneumoseg.inference import PipelineFolder
    from pneumoseg.predictions import Predictions


@app.command()
def tune(
    predictions: CachedPredictions,
    pipeline: TunedPipeline,
    fraction: Annotated[
        float, typer.Option(help="Fraction of the images to choose on; the rest is left for scoring.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same fraction of the images.")] = 0,
) -> None:
    """Choose the decision rule of a pipeline.

    Tries thresholds and areas on images that the pipeline was not trained on. Images with a label and no mask are left
    out.
    """
    import dataclasses

    from pneumoseg.evaluation import require_predictions_of
    from pneumoseg.evaluation.tuning import tune
    from pneumoseg.inference import PipelineFolder, save_tuning
    from pneumoseg.predictions import load_predictions

    record, cached = PipelineFolder.read(pipeline), load_predictions(predictions)
    require_predictions_of(record, cached, pipeline)
    tuning = tune(cached, record.assembled, fraction=fraction, seed=seed)
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
    predictions: CachedPredictions,
    pipeline: PipelinePath,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for all tables as CSV.", callback=output_folder)
    ] = None,
    assembled: Assembled = False,
) -> None:
    """Score a pipeline on cached predictions.

    Also scores the segmenter alone, each with and without the removal of small components, and the all-empty baseline.
    Images with a label and no mask score the classifier alone.
    """
    from pneumoseg.data.masks import has_mask
    from pneumoseg.evaluation import evaluate, scorable_predictions
    from pneumoseg.evaluation.caveats import caveats
    from pneumoseg.inference import PipelineFolder
    from pneumoseg.predictions import load_predictions
    from pneumoseg.report.comparison import segmenter_scores

    record = PipelineFolder.read(pipeline, assembled=assembled)
    scored = scorable_predictions(record, load_predictions(predictions), pipeline)
    if not has_mask(scored.manifest).any():
        _evaluate_classifier(scored, record, out)
        return
    evaluation = evaluate(scored, record.assembled, record.tuning.rule if record.tuning else None)
    table_1 = segmenter_scores(record.runs)
    tables, summaries = evaluation.tables(), evaluation.summaries()
    if len(table_1):
        tables["table_1"], summaries["Segmenter on its validation images (table 1)"] = table_1, table_1
    typer.echo(f"{evaluation.images}; {evaluation.intervals}; networks ran on {scored.engine}\n")
    for text in caveats(scored, record.assembled, record):
        typer.secho(text, fg="yellow", err=True)
    _write_tables(summaries, tables, out)
    if tell_unreadable(scored.errors):
        raise typer.Exit(1)


@app.command()
def report(
    predictions: CachedPredictions,
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="HTML page to write.", callback=output_file)] = Path("report.html"),
    compare: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Other predictions of the same images to compare with; repeatable."),
    ] = None,
    assembled: Assembled = False,
    max_images: Annotated[int, typer.Option(help="Maximum number of images in the gallery.", min=0)] = 500,
) -> None:
    """Write all scores and images as an HTML page.

    Images with a label and no mask count only for the classifier's scores.
    """
    from pneumoseg.evaluation import compare_predictions, evaluate_pipeline
    from pneumoseg.inference import PipelineFolder
    from pneumoseg.predictions import load_predictions
    from pneumoseg.report.page import write_report

    record = PipelineFolder.read(pipeline, assembled=assembled)
    evaluation = evaluate_pipeline(load_predictions(predictions), pipeline, assembled=assembled)
    names = [path.name for path in compare or []]
    others = {path.name if names.count(path.name) == 1 else str(path): load_predictions(path) for path in compare or []}
    comparison = compare_predictions(evaluation.masked, others, evaluation.rule) if others else None
    write_report(evaluation, out, pipeline=record, comparison=comparison, max_images=max_images)
    typer.echo(f"{out}: {len(evaluation.cases)} images, {out.stat().st_size / 1e6:.1f} MB")


def _evaluate_classifier(scored: "Predictions", record: "PipelineFolder", out: Path | None) -> None:
    """Print the scores of the classifier, for images of which none has a mask."""
    from pneumoseg.evaluation import describe_intervals, evaluate_classifier, table_columns
    from pneumoseg.evaluation.caveats import caveats

    labels = scored.manifest["has_pneumothorax"]
    typer.echo(
        f"{len(labels)} images, {labels.sum()} positive, all with a label and without a mask, so that only the "
        f"classifier can be scored; {describe_intervals(scored.manifest)}; networks ran on {scored.engine}\n"
    )
    for text in caveats(scored, record.assembled, record):
        typer.secho(text, fg="yellow", err=True)
    table = table_columns(evaluate_classifier(scored, record.rule))
    title = f"Classifier at threshold {record.rule.classifier_threshold:.3f}"
    _write_tables({title: table}, {"classifier": table}, out)
    if any(scored.errors):
        raise typer.Exit(1)


def _write_tables(summaries: dict[str, "pd.DataFrame"], tables: dict[str, "pd.DataFrame"], out: Path | None) -> None:
    """Print tables by title, and write tables by name as CSV if there is a folder for them."""
    for title, table in summaries.items():
        typer.echo(f"{title}\n{table.to_string(float_format='{:.4f}'.format, na_rep='')}\n")
    if out is not None:
        for name, table in tables.items():
            with atomic_write(out / f"{name}.csv") as temporary:
                table.to_csv(temporary)
        typer.echo(f"{out}: all tables")
