"""Commands from files to a manifest, and a look at it."""

from pathlib import Path
from typing import Annotated

import typer

from pneumoseg.atomic_write import atomic_write
from pneumoseg.cli.app import Assembled, ExcludedRuns, Manifest, app, output_file, output_folder


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Folder to write.", callback=output_folder)],
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
    out: Annotated[
        Path, typer.Option(help="Manifest to write; rejected.csv goes next to it.", callback=output_file)
    ] = Path("manifest.csv"),
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
    out: Annotated[Path, typer.Option(help="PNG to write.", callback=output_file)],
    count: Annotated[int, typer.Option(help="How many positives, drawn at random.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    pipeline: Annotated[Path | None, typer.Option(help="Also draw what this pipeline predicts.")] = None,
    exclude_training: ExcludedRuns = None,
    assembled: Assembled = False,
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

        results = list(load_pipeline(pipeline, assembled=assembled).predict_many(chosen["path"]))
    with atomic_write(out) as temporary:
        draw_contact_sheet(chosen, results).savefig(temporary, format="png")
    typer.echo(f"{out}: {len(chosen)} images")


@app.command()
def show_augmentations(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="PNG to write.", callback=output_file)],
    count: Annotated[int, typer.Option(help="How many positives, drawn at random.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Same seed, same images and changes.")] = 0,
) -> None:
    """Draw images beside what each augmentation transform makes of them."""
    from pneumoseg.data.index import load_manifest
    from pneumoseg.report.contact_sheet import draw_augmentations

    table = load_manifest(manifest)
    positives = table[table["has_pneumothorax"]]
    chosen = positives.sample(min(count, len(positives)), random_state=seed)
    with atomic_write(out) as temporary:
        draw_augmentations(chosen, seed).savefig(temporary, format="png")
    typer.echo(f"{out}: {len(chosen)} images")
