"""Page of the results of a run: each image with its predicted outline, to sort, filter and search."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pneumoseg
from pneumoseg import rle
from pneumoseg.atomic_write import atomic_write
from pneumoseg.identifiers import printable
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_with_header
from pneumoseg.inference import Pipeline
from pneumoseg.inference.row import ResultRow
from pneumoseg.report.templates import template
from pneumoseg.report.thumbnails import SIDE, make_ahead, outline_path, picture_of, picture_scale, picture_size

_FINDINGS = {True: "pneumothorax", False: "no pneumothorax", None: "unreadable"}
_STAGES = {
    "mask": "a mask is left",
    "classifier": "not above the classifier's threshold",
    "segmenter": "no pixel above the mask threshold",
    "triplet": "too few pixels above the top threshold",
    "elimination": "only small components",
}


@dataclass(frozen=True)
class ResultCard:
    """The content of one image's card on the page.

    Attributes:
        row: The image's result.
        finding: "pneumothorax", "no pneumothorax" or "unreadable".
        picture: The image as a JPEG in a data URI; None if it could not be read.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        predicted: Outline of the mask, as the `d` of an SVG path in the picture's pixels; empty without a mask.
        truth: Always empty: no true mask is known.
    """

    row: ResultRow
    finding: str
    picture: str | None
    width: int
    height: int
    predicted: str
    truth: str = ""


def write_results_page(
    rows: Sequence[ResultRow],
    path: str | Path,
    *,
    facts: Mapping[str, str],
    max_images: int = 500,
    skipped: int = 0,
) -> None:
    """Write the page of a run's results; it needs no network and no other file.

    The cards are made a few at a time, and the page is written as they are made.

    Args:
        rows: One row per image. The images are read again.
        path: HTML file to write.
        facts: What the page says about the pipeline, by name.
        max_images: Greatest number of images shown: errors, then the highest probabilities.
        skipped: Number of files that were skipped.

    Example:
        >>> write_results_page(results.rows, "index.html", facts=pipeline_facts(pipeline))  # doctest: +SKIP
    """
    shown = most_urgent_first(rows, max_images)
    page = template("results.html").stream(
        version=pneumoseg.__version__,
        facts=facts,
        total=len(rows),
        findings=_counts([_FINDINGS[row.has_pneumothorax] for row in rows], list(_FINDINGS.values())),
        shown=len(shown),
        shown_findings=_counts([_FINDINGS[row.has_pneumothorax] for row in shown], list(_FINDINGS.values())),
        shown_stages=_counts([row.stage for row in shown], list(_STAGES)),
        stages=_STAGES,
        skipped=skipped,
        cards=result_cards(shown),
    )
    with atomic_write(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")


def most_urgent_first(rows: Sequence[ResultRow], count: int) -> list[ResultRow]:
    """Return errors, then the highest probabilities; among equals masks by area, then the order of the rows.

    Args:
        rows: One row per image.
        count: Greatest number of rows to return.
    """

    def urgency(row: ResultRow) -> tuple[bool, float, int]:
        return row.error is None, -1.0 if row.probability is None else -row.probability, -(row.area_px or 0)

    return sorted(rows, key=urgency)[:count]


def result_cards(rows: Sequence[ResultRow]) -> Iterator[ResultCard]:
    """Make the cards of results, a few at a time.

    Args:
        rows: Results, whose images are read again.
    """
    yield from make_ahead(_card, rows)


def pipeline_facts(pipeline: Pipeline) -> dict[str, str]:
    """Return what a page says about a pipeline, by name.

    Args:
        pipeline: The networks and the rule.
    """
    kinds = {"classifier": pipeline.classifiers, "segmenter": pipeline.segmenters}
    networks = {}
    for kind, several in kinds.items():
        for number, network in enumerate(several, start=1):
            spec = pipeline.networks.get(f"{kind}_{number}", "")
            size = f"{network.image_size} × {network.image_size}"
            identity = f", {network.name}, SHA-256 of its spec {spec[:12]}…" if spec else ""
            networks[f"{kind} {number}"] = f"sees {size} pixels, {network.parameters:,} weights{identity}"
    rule = {name.replace("_", " "): f"{value:g}" for name, value in asdict(pipeline.rule).items()}
    flip = {"mirrored images averaged": "yes" if pipeline.flip else "no"}
    engine = {"engine": str(pipeline.engine)}
    return {**networks, **engine, **rule, **flip, **{name: printable(text) for name, text in pipeline.origin.items()}}


def _counts(values: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    return {name: values.count(name) for name in names if name in values}


def _card(row: ResultRow) -> ResultCard:
    finding = _FINDINGS[row.has_pneumothorax]
    try:
        if row.error is not None:
            raise ImageError(row.path, row.error)
        image, header = read_with_header(row.path)
    except ImageError:
        return ResultCard(row, finding, None, SIDE, SIDE, "")
    scale = picture_scale(image.shape, header.pixel_aspect)
    size = picture_size(image.shape, scale)
    predicted = outline_path(rle.decode(row.rle or rle.EMPTY, row.shape), scale)
    return ResultCard(row, finding, picture_of(image, size), *size, predicted)
