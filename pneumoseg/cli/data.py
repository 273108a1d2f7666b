"""Commands that generate and index data sets, and show their images."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoseg.atomic_write import atomic_write
from pneumoseg.cli.app import Assembled, Engine, Manifest, app, manifest_to_write, output_file, output_folder

if TYPE_CHECKING:
    import pandas as pd


class _Images(str, Enum):
    """Formats in which images are generated."""

    DICOM = "dicom"
    PNG = "png"


class _Annotations(str, Enum):
    """Formats in which annotations are generated."""

    CSV = "csv"
    ABSOLUTE_CSV = "absolute-csv"
    MASKS = "masks"
    COCO = "coco"
    SEG = "seg"
    LABELS = "labels"


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Folder to write.", callback=output_folder)],
    train: Annotated[int, typer.Option(help="Annotated training images.")] = 240,
    test: Annotated[int, typer.Option(help="Test images.")] = 60,
    size: Annotated[int, typer.Option(help="Height and width of each image, in pixels.")] = 1024,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same files.")] = 0,
    images: Annotated[_Images, typer.Option(help="Format of the images.")] = _Images.DICOM,
    annotations: Annotated[_Annotations, typer.Option(help="Format of the annotations.")] = _Annotations.CSV,
) -> None:
    """Generate a synthetic data set."""
    from pneumoseg.synthetic import write_dataset

    write_dataset(folder, train, test, size, seed, images.value, annotations.value)
    typer.echo(f"{folder}: {train} training and {test} test images")


@app.command()
def index(
    images: Annotated[Path, typer.Argument(help="Folder with image files at any depth.")],
    annotations: Annotated[
        Path,
        typer.Argument(help="CSV of run-length codes or labels, COCO JSON, or folder of mask pictures or DICOM SEG."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Manifest to write, .csv or .parquet; rejected.csv goes next to it.", callback=manifest_to_write
        ),
    ] = Path("manifest.csv"),
    annotations_format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="csv, absolute-csv, masks, coco, seg or labels; recognized by default."),
    ] = None,
    order: Annotated[
        str | None, typer.Option(metavar="columns|rows", help="Order of the pixels of absolute runs [columns].")
    ] = None,
    first_pixel: Annotated[
        int | None, typer.Option(metavar="0|1", help="Number of the first pixel of absolute runs [1].")
    ] = None,
    mask_name: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN", help="Names of mask pictures, such as {}_mask: {} is the image id, * any text."
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="Finding to take from COCO, SEG or labels [pneumothorax].")
    ] = None,
    unannotated_negative: Annotated[
        bool, typer.Option("--unannotated-negative", help="Take images without an annotation as negative.")
    ] = False,
    id_map: Annotated[
        Path | None, typer.Option(help="CSV of image ids and patients: NIH file names, or a column patient_id.")
    ] = None,
) -> None:
    """Read images and annotations into a manifest."""
    from pneumoseg.annotations import read_annotations
    from pneumoseg.data.index import index_dataset, save_manifest

    if not images.exists():  # before the annotations are read, which takes a while for thousands of SEG objects
        raise FileNotFoundError(f"{images}: no such folder, expected one with images")
    source = read_annotations(
        annotations,
        annotations_format,
        order=order,
        first_pixel=first_pixel,
        mask_name=mask_name,
        category=category,
    )
    manifest = index_dataset(
        images,
        source,
        id_map=id_map,
        unannotated_negative=unannotated_negative,
        rejected=out.with_name("rejected.csv"),
        progress=True,
    )
    save_manifest(manifest, out)
    typer.echo(f"{out}: {len(manifest)} images, {manifest['has_pneumothorax'].sum()} positive")


@app.command()
def show_masks(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="PNG to write.", callback=output_file)],
    count: Annotated[int, typer.Option(help="Number of positive images, chosen at random.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same images.")] = 0,
    pipeline: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also draw the predictions of this pipeline, on images that it was not trained on."
        ),
    ] = None,
    assembled: Assembled = False,
    engine: Engine = "keras",
) -> None:
    """Draw masks over their images; images with a label and no mask are left out."""
    from pneumoseg.data.index import load_manifest
    from pneumoseg.data.masks import leave_out_unknown_masks
    from pneumoseg.report.contact_sheet import draw_contact_sheet

    if pipeline is None and engine != "keras":
        raise ValueError(f"--engine is {engine}, and only a pipeline runs on an engine: name one with --pipeline")
    table, networks = load_manifest(manifest), None
    if pipeline is not None:
        from pneumoseg.inference import load_pipeline

        networks = load_pipeline(pipeline, assembled=assembled, engine=engine)
        table = networks.leave_out_training_images(table)
    table = leave_out_unknown_masks(table, "show-masks")
    chosen = _sample_positives(table, manifest, count, seed)
    results = list(networks.predict_many(chosen["path"])) if networks else None
    with atomic_write(out) as temporary:
        draw_contact_sheet(chosen, results).savefig(temporary, format="png")
    typer.echo(f"{out}: {len(chosen)} images")


@app.command()
def show_augmentations(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="PNG to write.", callback=output_file)],
    count: Annotated[int, typer.Option(help="Number of positive images, chosen at random.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same images and changes.")] = 0,
) -> None:
    """Draw images next to their augmented versions."""
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.contact_sheet import draw_augmentations

    chosen = _sample_positives(load_manifest(manifest), manifest, count, seed)
    with atomic_write(out) as temporary:
        draw_augmentations(chosen, seed).savefig(temporary, format="png")
    typer.echo(f"{out}: {len(chosen)} images")


def _sample_positives(table: "pd.DataFrame", manifest: Path, count: int, seed: int) -> "pd.DataFrame":
    positives = table[table["has_pneumothorax"]]
    if positives.empty:
        raise ValueError(f"{manifest}: no positive image to show; name another manifest")
    return positives.sample(min(count, len(positives)), random_state=seed)
