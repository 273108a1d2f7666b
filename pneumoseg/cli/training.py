"""Commands that train networks, average their weights, and compare runs."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pneumoseg
from pneumoseg.atomic_write import atomic_write
from pneumoseg.cli.app import Backend, Manifest, Resume, app, changed_folder, output_file, output_folder

if TYPE_CHECKING:
    from pneumoseg.config import Experiment
    from pneumoseg.training.train import CallbackMaker


@app.command()
def train(
    ctx: typer.Context,
    experiment: Annotated[Path, typer.Argument(help="Experiment file of a classifier or a segmenter.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    resume: Resume = False,
    backend: Backend = None,
    hosts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Processes that train together on JAX, usually one per host; start each with the same command but its "
            "own --host. In a step of SLURM these three options are not needed.",
        ),
    ] = None,
    host: Annotated[int | None, typer.Option(metavar="I", help="Number of this process, 0 to N - 1.")] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address and free port of host 0, as all others reach it.")
    ] = None,
) -> None:
    """Train the network of an experiment file."""
    from pneumoseg.backend import choose_backend
    from pneumoseg.checksums import file_sha256
    from pneumoseg.config import load_experiment
    from pneumoseg.hosts import joined_hosts, place_of
    from pneumoseg.training.own_folder import own_folder

    settings = load_experiment(experiment)
    choose_backend(backend)
    place = place_of(hosts, host, coordinator)
    if place.writes:
        output_folder(ctx, out)
    else:
        _say_warnings_alone()
    with joined_hosts(place) as joined:
        if place.count > 1:
            joined.require_same("the version of pneumoseg", pneumoseg.__version__, "install one version on all hosts")
            joined.require_same("the experiment", settings.model_dump_json(), "start all processes with the same file")
            joined.require_same("the manifest", file_sha256(manifest), "give all processes the same file")
            joined.require_same("--resume", str(resume), "give it to all processes or to none")
            out = own_folder(out, joined)

        from pneumoseg.data.index import load_manifest
        from pneumoseg.training.run import Run
        from pneumoseg.training.tasks import task_for
        from pneumoseg.training.train import cross_validate, train

        run, table = Run(out, manifest.parent / "cache", resume=resume), load_manifest(manifest)
        start = cross_validate if settings.cross_validate else train
        metrics = start(task_for(settings), table, run, make_callback=_live_curves(settings))
        typer.echo(json.dumps(metrics, indent=2))


def _say_warnings_alone() -> None:
    """Print nothing that process 0 prints too."""
    logging.getLogger("pneumoseg").setLevel(logging.WARNING)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _live_curves(settings: "Experiment") -> "CallbackMaker":
    """Return a function that makes the callback which draws a run's curves."""
    from pneumoseg.config import ClassifierSettings
    from pneumoseg.report.live_curves import LiveCurves
    from pneumoseg.training.schedule import learning_rates

    if isinstance(settings, ClassifierSettings):
        return lambda run: LiveCurves(run, "mcc")
    chosen, rates = settings.swa, learning_rates(settings.phases)
    averaged = range(chosen.start_epoch, chosen.end_epoch + 1, chosen.every) if chosen else ()
    return lambda run: LiveCurves(run, "iou", averaged=averaged, learning_rates=rates)


@app.command()
def swa(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a finished segmenter run that kept the weights of its epochs.", callback=changed_folder
        ),
    ],
    epochs: Annotated[
        str, typer.Option(help="A window such as 13-16; or best:4, the four epochs with the best mean validation IoU.")
    ],
    manifest: Manifest,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the bundle; by default in the run's folder.", callback=output_folder),
    ] = None,
) -> None:
    """Average the weights of a segmenter's epochs."""
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.curves import draw_curves
    from pneumoseg.training.averaging import average_epochs
    from pneumoseg.training.run import Run
    from pneumoseg.training.schedule import learning_rates

    trained = Run(run, manifest.parent / "cache")
    metrics = average_epochs(trained, epochs, load_manifest(manifest), out)
    history, folder = trained.history(), Path(metrics["folder"])
    rates = learning_rates(trained.settings().phases)
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
    """Compare the scores and the curves of classifier runs."""
    from pneumoseg.evaluation import table_columns
    from pneumoseg.report.comparison import compare_runs, draw_comparison

    table = table_columns(compare_runs(runs))
    with atomic_write(out.with_suffix(".csv")) as temporary:
        table.to_csv(temporary)
    with atomic_write(out) as temporary:
        draw_comparison(runs).savefig(temporary, dpi=120, format="png")
    typer.echo(table.T.to_string(float_format="{:.4g}".format))
    typer.echo(f"{out} and {out.with_suffix('.csv')}")
