"""Commands that train networks and set runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pneumoseg.atomic_write import atomic_write
from pneumoseg.cli.app import Manifest, Resume, app, changed_folder, output_file, output_folder


@app.command()
def train_classifier(
    experiment: Annotated[Path, typer.Argument(help="Experiment file.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="The run's folder.", callback=output_folder)],
    resume: Resume = False,
) -> None:
    """Train the classifier as an experiment file says."""
    from pneumoseg.config import load_classifier_settings
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.live_curves import LiveCurves
    from pneumoseg.training.classifier import train_classifier
    from pneumoseg.training.cross_validation import cross_validate

    settings = load_classifier_settings(experiment)
    train = cross_validate if settings.cross_validate else train_classifier
    cache, table = manifest.parent / "cache", load_manifest(manifest)
    metrics = train(settings, table, out, cache, resume=resume, watch=lambda run: LiveCurves(run, "mcc"))
    typer.echo(json.dumps(metrics, indent=2))


@app.command()
def train_segmenter(
    experiment: Annotated[Path, typer.Argument(help="Experiment file.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="The run's folder.", callback=output_folder)],
    resume: Resume = False,
) -> None:
    """Train the segmenter as an experiment file says."""
    from pneumoseg.config import load_segmenter_settings
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.live_curves import LiveCurves
    from pneumoseg.training.cross_validation import cross_validate
    from pneumoseg.training.phases import learning_rates
    from pneumoseg.training.segmenter import train_segmenter

    settings = load_segmenter_settings(experiment)
    cache, table = manifest.parent / "cache", load_manifest(manifest)
    chosen = settings.swa
    averaged = range(chosen.start_epoch, chosen.end_epoch + 1, chosen.every) if chosen else ()
    rates = learning_rates(settings.phases)

    def watch(run: Path) -> LiveCurves:
        return LiveCurves(run, "iou", averaged=averaged, learning_rates=rates)

    train = cross_validate if settings.cross_validate else train_segmenter
    metrics = train(settings, table, out, cache, resume=resume, watch=watch)
    typer.echo(json.dumps(metrics, indent=2))


@app.command()
def swa(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a finished segmenter run that kept its epochs' weights.", callback=changed_folder
        ),
    ],
    epochs: Annotated[str, typer.Option(help="13-16, say; or best:4, the four with the best mean validation IoU.")],
    manifest: Manifest,
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder; by default in the run's.", callback=output_folder)
    ] = None,
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
    with atomic_write(folder.with_name(f"{folder.name}.png")) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    typer.echo(json.dumps(metrics, indent=2))
    typer.echo(f"{folder}: validation IoU {metrics['val_iou']:.4f}, best single epoch {history['val_iou'].max():.4f}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished classifier runs.")],
    out: Annotated[
        Path, typer.Option(help="PNG to write; the table goes next to it as CSV.", callback=output_file)
    ] = Path("comparison.png"),
) -> None:
    """Set classifier runs side by side: scores and curves."""
    from pneumoseg.report.comparison import compare_runs, draw_comparison

    table = compare_runs(runs)
    with atomic_write(out.with_suffix(".csv")) as temporary:
        table.to_csv(temporary)
    with atomic_write(out) as temporary:
        draw_comparison(runs).savefig(temporary, dpi=120, format="png")
    typer.echo(table.T.to_string(float_format="{:.4g}".format))
    typer.echo(f"{out} and {out.with_suffix('.csv')}")
