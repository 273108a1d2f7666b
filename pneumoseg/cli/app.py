"""The application of the command line, and the options and checks that its commands share."""

import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import pneumoseg
from pneumoseg.backend_errors import backend_reason
from pneumoseg.data.manifest_files import require_format
from pneumoseg.import_hook import import_within

# Keras imports them if it can, for functions that no command uses; that takes almost a third of its import.
_UNUSED_BY_KERAS = ("IPython", "matplotlib", "sklearn")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pneumoseg {pneumoseg.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="pneumoseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help appears in half the time
)


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what TensorFlow says when it starts, too.")] = False,
) -> None:
    """Find and outline pneumothorax on chest X-rays. For research; not for diagnosis."""
    if verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"  # read when TensorFlow is imported
        logging.getLogger("pneumoseg").setLevel(logging.DEBUG)


def output_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Check that a file can be written before any work is done, and make its folder; a callback of an option.

    Raises:
        OSError: If the file cannot be written.
    """
    if path is None or ctx.resilient_parsing:
        return path
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write")
    _require_writable(path.parent, path)
    return path


def output_folder(ctx: typer.Context, path: Path | None) -> Path | None:
    """Check that a folder can be made or written to before any work is done; a callback of an option.

    Raises:
        OSError: If the folder cannot be made or written to.
    """
    if path is None or ctx.resilient_parsing:
        return path
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: name a folder to write")
    _require_writable(path if path.is_dir() else path.parent, path)
    return path


def manifest_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Check that the format of a manifest is known and can be read and written; a callback of an option.

    Raises:
        ValueError: If it is not.
    """
    if path is not None and not ctx.resilient_parsing:
        require_format(path)
    return path


def manifest_to_write(ctx: typer.Context, path: Path) -> Path | None:
    """Check that a manifest can be written before any work is done, and make its folder; a callback of an option.

    Raises:
        ValueError: If its format is not known or cannot be written.
        OSError: If the file cannot be written.
    """
    return manifest_file(ctx, output_file(ctx, path))


def changed_folder(ctx: typer.Context, path: Path) -> Path:
    """Check that an existing folder can be written to before any work is done; a callback of an option.

    Raises:
        OSError: If the folder cannot be written to.
    """
    if path.is_dir() and not ctx.resilient_parsing:
        _require_writable(path, path)
    return path


def require_pipeline(path: Path) -> None:
    """Check that a folder holds a pipeline before TensorFlow is loaded, which takes seconds.

    Raises:
        FileNotFoundError: If it does not.
    """
    if not (path / "pipeline.json").is_file():
        raise FileNotFoundError(f"{path}: no pipeline, it has no pipeline.json; make one with `pneumoseg assemble`")


def _require_writable(folder: Path, output: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{output} cannot be written ({error.strerror}: {folder}): name another place") from error


Manifest = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Manifest made by `pneumoseg index`, CSV or Parquet.", callback=manifest_file),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume a stopped run after its last finished epoch.")]
PipelinePath = Annotated[Path, typer.Option(metavar="DIR", help="Folder made by `pneumoseg assemble`.")]
TunedPipeline = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Folder made by `pneumoseg assemble`; gets the rule.", callback=changed_folder),
]
Assembled = Annotated[
    bool, typer.Option("--assembled", help="Use the decision rule as assembled, even if another was tuned.")
]
CachedPredictions = Annotated[Path, typer.Option(metavar="DIR", help="Folder made by `pneumoseg cache-predictions`.")]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Engine of the networks: keras, openvino or onnx, or an export made by `pneumoseg export`, such as "
        "openvino-int8.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Backend of Keras to train on: tensorflow, which uses one device, or jax, which uses all.",
        show_default="KERAS_BACKEND, or tensorflow",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images per batch.", min=1)]


def main() -> None:
    """Run the command line; report a mistake of the user in one line, with exit status 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names need not be UTF-8
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.showwarning = lambda message, *_, **__: typer.secho(str(message), fg="yellow", err=True)
    logging.getLogger("pneumoseg").setLevel(logging.INFO)
    socket.setdefaulttimeout(20.0)  # Keras sets none, so a download would hang behind a firewall that drops packets
    import_within("keras", _without_unused_packages)
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"pneumoseg: {error}", err=True)
        raise SystemExit(2) from error
    except Exception as error:
        text = backend_reason(error)
        if text is None:
            raise
        typer.echo(f"pneumoseg: {text}", err=True)
        raise SystemExit(2) from error


@contextmanager
def _without_unused_packages() -> Iterator[None]:
    hidden = [name for name in _UNUSED_BY_KERAS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def tell_unreadable(errors: Sequence[str]) -> bool:
    """Print how many files could not be read, and return whether there are any."""
    unreadable = [error for error in errors if error]
    if unreadable:
        typer.secho(
            f"{len(unreadable)} UNREADABLE FILES are scored as predicted empty, the first: {unreadable[0]}: "
            "index the data set again",
            fg="red",
            err=True,
        )
    return bool(unreadable)
