"""The command line: parses, loads, calls."""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoseg.whole_file import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pneumoseg.evaluation import Evaluation
    from pneumoseg.inference import PipelineFolder
    from pneumoseg.predictions import Predictions

# Read when TensorFlow is imported, which happens only inside the commands that need it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

app = typer.Typer(
    name="pneumoseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help appears in half the time
    help="Find and outline pneumothorax on chest X-rays. For research; not for diagnosis.",
)

_STAGES = {
    "classifier": "below the classifier's threshold",
    "segmenter": "without a segmented pixel",
    "triplet": "with too few confident pixels",
    "elimination": "with small regions only",
    "mask": "with a mask",
    "error": "unreadable",
}

Manifest = Annotated[Path, typer.Option(help="Manifest made by `pneumoseg index`.")]
ExcludedRuns = Annotated[
    list[Path] | None, typer.Option(help="Run whose training images are left out; can be given several times.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a stopped run after its last finished epoch.")]
PipelinePath = Annotated[Path, typer.Option(help="Folder made by `pneumoseg assemble`.")]
KeptPredictions = Annotated[Path, typer.Option(help="Folder made by `pneumoseg predict`.")]


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    train: Annotated[int, typer.Option(help="Annotated training images.")] = 240,
    test: Annotated[int, typer.Option(help="Test images.")] = 60,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
) -> None:
    """Generate a data set of drawn chests."""
    from pneumoseg.synthetic import write_dataset

    write_dataset(folder, train=train, test=test, seed=seed)
    typer.echo(f"{folder}: {train} training and {test} test images")


@app.command()
def index(
    dicom_dir: Annotated[Path, typer.Argument(help="Folder with .dcm files at any depth.")],
    annotations: Annotated[Path, typer.Argument(help="CSV of ImageId,EncodedPixels.")],
    out: Annotated[Path, typer.Option(help="Manifest to write; rejected.csv goes beside it.")] = Path("manifest.csv"),
    id_map: Annotated[Path | None, typer.Option(help="CSV from image ids to NIH file names.")] = None,
) -> None:
    """List the usable DICOM files in a manifest."""
    from pneumoseg.data.index import index_dataset, save_manifest

    rejected = out.with_name("rejected.csv")
    manifest = index_dataset(dicom_dir, annotations, id_map=id_map, rejected=rejected, progress=True)
    save_manifest(manifest, out)
    typer.echo(f"{out}: {len(manifest)} images, {manifest['has_pneumothorax'].sum()} positive")


@app.command()
def show_masks(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    count: Annotated[int, typer.Option(help="How many positives, drawn at random.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    pipeline: Annotated[Path | None, typer.Option(help="Also draw what this pipeline predicts.")] = None,
    exclude_training: ExcludedRuns = None,
) -> None:
    """Draw masks over their images."""
    from pneumoseg.data.index import load_manifest
    from pneumoseg.data.splits import without_training_images
    from pneumoseg.report.contact_sheet import draw_contact_sheet

    table = without_training_images(load_manifest(manifest), exclude_training or [])
    positives = table[table["has_pneumothorax"]]
    chosen = positives.sample(min(count, len(positives)), random_state=seed)
    results = None
    if pipeline is not None:
        from pneumoseg.inference import load_pipeline

        results = list(load_pipeline(pipeline).predict_many(chosen["path"]))
    draw_contact_sheet(chosen, results).savefig(out)
    typer.echo(f"{out}: {len(chosen)} images")


@app.command()
def show_augmentations(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    count: Annotated[int, typer.Option(help="How many positives, drawn at random.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Same seed, same images and changes.")] = 0,
) -> None:
    """Draw images beside what each augmentation technique makes of them."""
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.contact_sheet import draw_augmentations

    table = load_manifest(manifest)
    positives = table[table["has_pneumothorax"]]
    chosen = positives.sample(min(count, len(positives)), random_state=seed)
    draw_augmentations(chosen, seed).savefig(out)
    typer.echo(f"{out}: {len(chosen)} images")


@app.command()
def train_classifier(
    experiment: Annotated[Path, typer.Argument(help="Experiment file.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    resume: Resume = False,
) -> None:
    """Train the classifier as an experiment file says."""
    from pneumoseg.config import load_classifier_settings
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.live_curves import LiveCurves
    from pneumoseg.training.classifier import train_classifier
    from pneumoseg.training.cross_validation import cross_validate_classifier

    settings = load_classifier_settings(experiment)
    train = cross_validate_classifier if settings.cross_validate else train_classifier
    cache, table = manifest.parent / "cache", load_manifest(manifest)
    metrics = train(settings, table, out, cache, resume=resume, watch=lambda run: LiveCurves(run, "mcc"))
    typer.echo(json.dumps(metrics, indent=2))


@app.command()
def train_segmenter(
    experiment: Annotated[Path, typer.Argument(help="Experiment file.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    resume: Resume = False,
) -> None:
    """Train the segmenter as an experiment file says."""
    from pneumoseg.config import load_segmenter_settings
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.live_curves import LiveCurves
    from pneumoseg.training.phases import learning_rates
    from pneumoseg.training.segmenter import train_segmenter

    settings = load_segmenter_settings(experiment)
    cache, table = manifest.parent / "cache", load_manifest(manifest)
    chosen = settings.swa
    averaged = range(chosen.start_epoch, chosen.end_epoch + 1, chosen.every) if chosen else ()
    rates = learning_rates(settings.phases)

    def watch(run: Path) -> LiveCurves:
        return LiveCurves(run, "iou", averaged=averaged, learning_rates=rates)

    metrics = train_segmenter(settings, table, out, cache, resume=resume, watch=watch)
    typer.echo(json.dumps(metrics, indent=2))


@app.command()
def swa(
    run: Annotated[Path, typer.Argument(help="Folder of a finished segmenter run that kept its epochs' weights.")],
    epochs: Annotated[str, typer.Option(help="13-16, say; or best:4, the four with the best mean validation IoU.")],
    manifest: Manifest,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; by default in the run's.")] = None,
) -> None:
    """Average the weights of some epochs of a segmenter run."""
    import pandas as pd

    from pneumoseg.config import load_segmenter_settings
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.curves import draw_curves
    from pneumoseg.training.averaging import average_epochs
    from pneumoseg.training.phases import learning_rates

    metrics = average_epochs(run, epochs, load_manifest(manifest), manifest.parent / "cache", out)
    history, folder = pd.read_csv(run / "history.csv"), Path(metrics["folder"])
    rates = learning_rates(load_segmenter_settings(run / "settings.yaml").phases)
    averaged = range(metrics["start_epoch"], metrics["end_epoch"] + 1)
    figure = draw_curves(history, "iou", averaged=averaged, learning_rates=rates)
    figure.savefig(folder.with_name(f"{folder.name}.png"), dpi=120)
    typer.echo(json.dumps(metrics, indent=2))
    typer.echo(f"{folder}: validation IoU {metrics['val_iou']:.4f}, best single epoch {history['val_iou'].max():.4f}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished classifier runs.")],
    out: Annotated[Path, typer.Option(help="PNG to write; the table goes beside it as CSV.")] = Path("comparison.png"),
) -> None:
    """Set classifier runs side by side: scores and curves."""
    from pneumoseg.report.comparison import compare_runs, draw_comparison

    table = compare_runs(runs)
    with whole_file(out.with_suffix(".csv")) as temporary:
        table.to_csv(temporary)
    draw_comparison(runs).savefig(out, dpi=120)
    typer.echo(table.T.to_string(float_format="{:.4g}".format))
    typer.echo(f"{out} and {out.with_suffix('.csv')}")


@app.command()
def assemble(
    classifier: Annotated[list[Path], typer.Option(help="The classifier's bundle; of several the mean is taken.")],
    segmenter: Annotated[list[Path], typer.Option(help="The segmenter's bundle; of several the mean is taken.")],
    out: Annotated[Path, typer.Option(help="The pipeline's folder.")],
    classifier_threshold: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    mask_threshold: Annotated[float | None, typer.Option(help="Instead of the bundle's.")] = None,
    minimum_area: Annotated[float, typer.Option(help="Smallest component kept, in pixels at 1024 x 1024.")] = 3500,
    flip: Annotated[bool, typer.Option("--flip", help="Average over the mirrored image, too.")] = False,
) -> None:
    """Join a classifier and a segmenter."""
    from pneumoseg.inference import assemble_pipeline

    assemble_pipeline(
        classifier,
        segmenter,
        out,
        classifier_threshold=classifier_threshold,
        mask_threshold=mask_threshold,
        minimum_area=minimum_area,
        flip=flip,
    )
    typer.echo(f"{out}: pipeline of {', '.join(map(str, [*classifier, *segmenter]))}")


@app.command()
def predict(
    manifest: Manifest,
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="Folder of predictions to write.")],
    exclude_training: ExcludedRuns = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average over the mirrored image, too.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images a batch.", min=1)] = 4,
) -> None:
    """Run both networks once over annotated images and keep what they say."""
    import dataclasses

    from pneumoseg.data.index import load_manifest
    from pneumoseg.data.splits import without_training_images
    from pneumoseg.inference import PipelineFolder, load_pipeline
    from pneumoseg.predictions import predict

    runs = exclude_training or []
    table = without_training_images(load_manifest(manifest), runs)
    networks = load_pipeline(pipeline, batch_size)
    networks = dataclasses.replace(networks, flip=networks.flip or flip)
    kept = predict(networks, PipelineFolder.read(pipeline).networks, table, out, progress=True)
    trained = f", none of them trained on by {', '.join(map(str, runs))}" if runs else ""
    typer.echo(f"{out}: {len(table)} images, {table['has_pneumothorax'].sum()} positive{trained}")
    _tell_unreadable(kept.errors)


@app.command()
def tune(
    predictions: KeptPredictions,
    pipeline: PipelinePath,
    share: Annotated[float, typer.Option(help="Choose on this share of the images, the rest is for reporting.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same share of the images.")] = 0,
) -> None:
    """Choose the pipeline's thresholds and areas on validation images."""
    import dataclasses

    from pneumoseg.evaluation.tuning import tune
    from pneumoseg.inference import PipelineFolder, save_tuning

    record = PipelineFolder.read(pipeline)
    tuning = tune(_predictions_of(record, predictions, pipeline), record.assembled, share=share, seed=seed)
    save_tuning(pipeline, tuning)
    scores = tuning.scores
    typer.echo(
        f"{pipeline}: rule chosen on {len(tuning.image_ids)} images, {scores['positives']} positive: mean Dice there "
        f"{scores['mean_dice']:.4f}, before {scores['mean_dice_before']:.4f}, all empty {scores['floor']:.4f}"
    )
    before = dataclasses.asdict(record.assembled)
    for name, value in dataclasses.asdict(tuning.rule).items():
        typer.echo(f"  {name}: {value:g} (before {before[name]:g})")


@app.command()
def submit(
    dicom_dir: Annotated[Path, typer.Argument(help="Folder with .dcm files at any depth.")],
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="Submission to write.")] = Path("submission.csv"),
    batch_size: Annotated[int, typer.Option(help="Images a batch.", min=1)] = 4,
) -> None:
    """Write a submission for a folder of DICOM files."""
    from rich.progress import track

    from pneumoseg.data.index import find_dicoms
    from pneumoseg.inference import load_pipeline
    from pneumoseg.submission import write_submission

    paths = find_dicoms(dicom_dir)
    results = track(load_pipeline(pipeline, batch_size).predict_many(paths), "Predicting", len(paths))
    stages = write_submission(results, out)
    counts = ", ".join(f"{count} {_STAGES[stage]}" for stage, count in sorted(stages.items()))
    typer.echo(f"{out}: {stages.total()} rows: {counts}")
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


@app.command()
def evaluate(
    predictions: KeptPredictions,
    pipeline: PipelinePath,
    out: Annotated[Path | None, typer.Option(help="Folder to write all tables to, as CSV.")] = None,
) -> None:
    """Score a pipeline on kept predictions: every table, in seconds.

    Beside it stand its segmenter alone, both without elimination, and the floor of predicting nothing.
    """
    evaluation = _evaluated(predictions, pipeline)
    cases = evaluation.cases
    typer.echo(f"{len(cases)} images, {cases['positive'].sum()} positive; 95% intervals by patient\n")
    for title, table in evaluation.summaries().items():
        typer.echo(f"{title}\n{table.to_string(float_format='{:.4f}'.format, na_rep='')}\n")
    if out is not None:
        for name, table in evaluation.tables().items():
            with whole_file(out / f"{name}.csv") as temporary:
                table.to_csv(temporary)
        typer.echo(f"{out}: all tables")
    if _tell_unreadable(evaluation.predictions.errors):
        raise typer.Exit(1)


@app.command()
def report(
    predictions: KeptPredictions,
    pipeline: PipelinePath,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("report.html"),
    run: Annotated[
        list[Path] | None, typer.Option(help="Run whose curves and scores to show; can be repeated.")
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Other predictions of the same images to set beside; can be repeated.")
    ] = None,
    cases: Annotated[int, typer.Option(help="Most images in the gallery.", min=0)] = 500,
) -> None:
    """Write one page with every score, table and curve, and a gallery of the images."""
    from pneumoseg.evaluation import compare_predictions
    from pneumoseg.predictions import load_predictions
    from pneumoseg.report.page import write_report

    evaluation = _evaluated(predictions, pipeline)
    others = {path.name: load_predictions(path) for path in compare or []}
    variants = compare_predictions(evaluation.predictions, others, evaluation.rule) if others else None
    write_report(evaluation, out, pipeline=pipeline, runs=run or [], variants=variants, cases=cases)
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


def _evaluated(predictions: Path, pipeline: Path) -> "Evaluation":
    """Kept predictions scored, without the images that the rule was chosen on."""
    from pneumoseg.evaluation import evaluate
    from pneumoseg.evaluation.tuning import without_tuning_images
    from pneumoseg.inference import PipelineFolder

    record = PipelineFolder.read(pipeline)
    kept = _predictions_of(record, predictions, pipeline)
    scored = without_tuning_images(kept, record.tuning)
    left_out = len(kept.manifest) - len(scored.manifest)
    if left_out:
        typer.echo(f"{left_out} images left out: the pipeline's rule was chosen on them, or their patients", err=True)
    return evaluate(scored, record.assembled, record.tuning.rule if record.tuning else None)


def _tell_unreadable(errors: "Sequence[str]") -> bool:
    unreadable = [error for error in errors if error]
    if unreadable:
        typer.secho(
            f"{len(unreadable)} UNREADABLE FILES are scored as predicted empty, the first: {unreadable[0]}: "
            "index the data set anew",
            fg="red",
            err=True,
        )
    return bool(unreadable)


def main() -> None:
    """Run the command line; a mistake of the user ends it with one clear line and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.showwarning = lambda message, *_, **__: typer.secho(str(message), fg="yellow", err=True)
    logging.getLogger("pneumoseg").setLevel(logging.INFO)
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"pneumoseg: {error}", err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
