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
from pneumoseg.cli.ray_option import RayAddress, RayCommand

if TYPE_CHECKING:
    from pneumoseg.training.ray_tasks import OnRay

GpusPerTask = Annotated[
    float | None,
    typer.Option(help="With --ray: GPUs of each training, such as 0.5.  [default: 1 if there are any]", min=0),
]
CpusPerTask = Annotated[
    int | None, typer.Option(help="With --ray: CPUs that each training counts for.  [default: 1]", min=1)
]


@app.command(cls=RayCommand)
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
    ray: RayAddress = None,
    gpus_per_task: GpusPerTask = None,
    cpus_per_task: CpusPerTask = None,
) -> None:
    """Train the network of an experiment file.

    With --ray the folds of a cross-validation are trained at the same time, each with a log.txt in its folder.
    """
    from pneumoseg.backend import choose_backend
    from pneumoseg.checksums import file_sha256
    from pneumoseg.config import load_experiment
    from pneumoseg.hosts import joined_hosts, place_of
    from pneumoseg.training.own_folder import own_folder

    choose_backend(backend)
    place = place_of(hosts, host, coordinator)
    if place.writes:
        output_folder(ctx, out)
    else:
        _say_warnings_alone()
    settings = load_experiment(experiment)
    if ray is not None and not settings.cross_validate:
        raise ValueError(
            f"{experiment}: --ray trains the folds of a cross-validation, but cross_validate is false: leave --ray out"
        )
    if place.count > 1 and ray is not None:
        raise ValueError("--ray trains each fold in one process: leave out --hosts, --host and --coordinator")
    with joined_hosts(place) as joined:
        if place.count > 1:
            joined.require_same("the version of pneumoseg", pneumoseg.__version__, "install one version on all hosts")
            joined.require_same("the experiment", settings.model_dump_json(), "start all processes with the same file")
            joined.require_same("the manifest", file_sha256(manifest), "give all processes the same file")
            joined.require_same("--resume", str(resume), "give it to all processes or to none")
            out = own_folder(out, joined)

        from pneumoseg.data.index import load_manifest
        from pneumoseg.report.live_curves import live_curves
        from pneumoseg.training.jobs import here
        from pneumoseg.training.run import Run
        from pneumoseg.training.tasks import task_for
        from pneumoseg.training.train import cross_validate, train

        run_jobs = _jobs_on(ray, gpus_per_task, cpus_per_task)
        task = task_for(settings)
        run, table = Run(out, manifest.parent / "cache", resume=resume), load_manifest(manifest)
        if settings.cross_validate:
            metrics = cross_validate(task, table, run, make_callback=live_curves(task), run_jobs=run_jobs or here)
        else:
            metrics = train(task, table, run, make_callback=live_curves(task))
        typer.echo(json.dumps(metrics, indent=2))


def _say_warnings_alone() -> None:
    """Print nothing that process 0 prints too."""
    logging.getLogger("pneumoseg").setLevel(logging.WARNING)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _jobs_on(address: str | None, gpus_per_task: float | None, cpus_per_task: int | None) -> "OnRay | None":
    """Return what carries out jobs on Ray; None without an address."""
    if address is None:
        if gpus_per_task is not None or cpus_per_task is not None:
            raise ValueError("--gpus-per-task and --cpus-per-task are for --ray: add it, or leave them out")
        return None
    from pneumoseg.cluster import require_ray
    from pneumoseg.training.ray_tasks import OnRay

    require_ray()
    return OnRay(address, gpus_per_task, cpus_per_task or 1)


@app.command(cls=RayCommand)
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file: an experiment, and the values of some of its settings.")],
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="Folder of the runs, one per trial.", callback=output_folder)],
    backend: Backend = None,
    ray: RayAddress = None,
    gpus_per_task: GpusPerTask = None,
    cpus_per_task: CpusPerTask = None,
) -> None:
    """Train an experiment with each combination of some values.

    Finished trials stay, stopped ones are resumed. The trials are trained one after the other, with --ray at the same
    time, each with a log.txt in its folder. One that fails does not end the others. The table goes to sweep.csv in the
    folder. Exits with status 1 if a trial failed.
    """
    from pneumoseg.backend import choose_backend

    choose_backend(backend)
    from pneumoseg.sweep.sweep_file import load_trials
    from pneumoseg.sweep.table import describe_table, sweep_table, write_table
    from pneumoseg.sweep.trials import train_trials
    from pneumoseg.training.jobs import in_turn

    run_jobs = _jobs_on(ray, gpus_per_task, cpus_per_task)
    trials = load_trials(file)
    failures = train_trials(trials, manifest, out, run_jobs=run_jobs or in_turn)
    table = sweep_table(trials, out, failures)
    written = write_table(table, out)
    typer.echo(describe_table(table))
    typer.echo(" and ".join(map(str, written)))
    if failures:
        raise typer.Exit(1)


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
