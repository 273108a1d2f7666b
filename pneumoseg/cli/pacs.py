"""Commands that give results as DICOM objects, to a folder or to a PACS."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoseg.cli.app import Assembled, BatchSize, Engine, PipelinePath, app, require_pipeline

if TYPE_CHECKING:
    from pneumoseg.pacs.folder_result import FolderResult

Objects = Annotated[
    str,
    typer.Option(
        metavar="KINDS",
        help="Objects to write, separated by commas: seg (segmentation), sr (report), sc (picture with the outline).",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Write segmentations without the geometry that only viewers ask for.")
]


@app.command()
def dicom(
    pipeline: PipelinePath,
    source: Annotated[Path | None, typer.Argument(metavar="IN", help="Folder with DICOM files at any depth.")] = None,
    target: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder of the results.")] = None,
    objects: Objects = "seg,sr,sc",
    strict: Strict = False,
    batch_size: BatchSize = 4,
    assembled: Assembled = False,
    engine: Engine = "keras",
) -> None:
    """Write the results of a folder as DICOM objects.

    Writes a segmentation (if there is a pneumothorax), a report and a picture for each image, and result.json at the
    end. Without IN and OUT, takes the folders from the environment: MERCURE_IN_DIR and MERCURE_OUT_DIR,
    HOLOSCAN_INPUT_PATH and HOLOSCAN_OUTPUT_PATH, or MONAI_INPUTPATH and MONAI_OUTPUTPATH.

    Images that cannot be read, or have no study, are refused with a reason; other files are skipped. The folder may
    hold no image at all. Messages name files by their numbers in result.json, because paths may hold names and UIDs.
    After a stop, run the same command again; it begins with the first file. The exit status is 1 after an unexpected
    failure of a file, and if a folder could not be listed; it is 2 if the results cannot be written.
    """
    kinds = parse_kinds(objects)
    require_extra("dicom", "highdicom")

    from pneumoseg.pacs.work_folders import choose_folders, require_folders

    folders = choose_folders(source, target, os.environ)
    require_folders(folders.source, folders.target)
    require_pipeline(pipeline)
    if folders.variables:
        typer.echo(f"Folders: {folders.variables}", err=True)
    with keep_libraries_from_writing():
        from pneumoseg.inference import load_pipeline
        from pneumoseg.pacs.folder import process_folder

    networks = load_pipeline(pipeline, batch_size, assembled=assembled, engine=engine)
    result = process_folder(folders.source, folders.target, networks, kinds, strict=strict)
    _sum_up(result)
    if not result.is_complete:
        raise typer.Exit(1)


def parse_kinds(text: str) -> list[str]:
    """Return the kinds of objects that an option names, in the order of `dicom_objects.KINDS`.

    Raises:
        ValueError: If a kind is unknown, or there is none.

    Example:
        >>> parse_kinds("sr, seg")
        ['seg', 'sr']
    """
    from pneumoseg.dicom_objects import KINDS

    named = {part.strip() for part in text.split(",")}
    if unknown := sorted(named - set(KINDS)):
        raise ValueError(f"--objects names {', '.join(map(repr, unknown))}: expected some of {','.join(KINDS)}")
    return [kind for kind in KINDS if kind in named]


def require_extra(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed, before TensorFlow is loaded, which takes seconds.

    Raises:
        ValueError: If one is missing.

    Example:
        >>> require_extra("dicom", "json")
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise ValueError(f"this command needs {', '.join(missing)}: pip install 'pneumoseg[{extra}]'")


@contextmanager
def keep_libraries_from_writing() -> Iterator[None]:
    """Keep Keras from leaving files in the home folder, or in /tmp, when it is imported while the context lasts.

    Keras writes its settings, and Matplotlib, which it imports, a list of fonts, if they find none. The variables
    KERAS_HOME and MPLCONFIGDIR stay if the user has set them.
    """
    os.environ.setdefault("KERAS_HOME", os.devnull)
    if os.environ.get("MPLCONFIGDIR"):
        yield
        return
    # Removed at once, because the process may be ended without further notice.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


def _sum_up(result: "FolderResult") -> None:
    counts = result.counts
    typer.echo(
        f"{counts['files']} files: {counts['positive']} with a pneumothorax, {counts['negative']} without, "
        f"{counts['refused']} refused, {counts['failed']} failed; {counts['skipped']} others skipped; "
        f"{counts['objects']} objects written"
    )
    if hidden := sum(result.hidden.values()):
        typer.secho(
            f"{hidden} warnings are not shown, because they may quote patient data ({', '.join(result.hidden)})",
            fg="yellow",
            err=True,
        )
    if counts["unlisted"]:
        typer.secho(f"{counts['unlisted']} FOLDERS CANNOT BE LISTED: images may be missing", fg="red", err=True)
