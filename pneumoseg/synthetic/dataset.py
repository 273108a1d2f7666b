"""A whole synthetic data set: patients and their images, folders, and annotation files."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from pneumoseg.synthetic.annotation_files import (
    AnnotatedImage,
    AnnotationFormat,
    require_library,
    write_annotations,
    write_table,
)
from pneumoseg.synthetic.case import check_size, render_case
from pneumoseg.synthetic.chest import sample_chest
from pneumoseg.synthetic.dicom_file import Encoding, Identity, write_dicom
from pneumoseg.synthetic.png_file import write_png

ImageFormat = Literal["dicom", "png"]

_POSITIVE_FRACTION = 0.22

# The competition's 12,047 images show 6,171 patients; its 2,669 positive images come from 802 of them.
_PATIENTS_PER_IMAGE = 6171 / 12047
_PATIENTS_PER_POSITIVE = 802 / 2669
_NIH_PATIENTS = 30805


@dataclass(frozen=True)
class _Plan:
    """Decisions about one file before it is painted.

    Attributes:
        part: "train" or "test".
        number: Number of the file within its part.
        patient: Number of the patient.
        follow_up: Number of earlier images of the patient in this part.
        positive: Whether the image shows a pneumothorax.
        style: Annotation style (see `sample_annotation_style`); sampled if None.
        encoding: Encoding of the DICOM file.
        annotated: Whether the image has annotation rows.
    """

    part: str
    number: int
    patient: int
    follow_up: int = 0
    positive: bool = False
    style: str | None = None
    encoding: Encoding = "jpeg"
    annotated: bool = True


@dataclass(frozen=True)
class _Layout:
    """Place and formats of a data set.

    Attributes:
        folder: Output folder.
        size: Rows and columns of every image.
        seed: Seed of the data set.
        images: Format of the images.
        annotations: Format of the annotations.
    """

    folder: Path
    size: int
    seed: int
    images: ImageFormat
    annotations: AnnotationFormat


def write_dataset(
    folder: Path,
    train: int = 240,
    test: int = 60,
    size: int = 1024,
    seed: int = 0,
    images: ImageFormat = "dicom",
    annotations: AnnotationFormat = "csv",
) -> None:
    """Write synthetic chest radiographs and annotations, by default in the layout of the competition's data.

    ::

        dicom-images-train/<study>/<series>/<image id>.dcm    train + 2 files
        dicom-images-test/ID_xxxxxxxxx.dcm                    test files
        train-rle.csv                    stage-1 header and spaces; one or more rows per image, ` -1` if empty
        test-rle.csv                     ground truth of the test images, stage-2 header
        stage_2_sample_submission.csv    every test image with `-1`
        nih_id.csv                       training images and NIH file names, whose first part is the patient

    `train` counts the training images that can be read and are annotated. Two negative files are added: one without an
    annotation row, and one with a row but only half of its JPEG. So `train-rle.csv` names `train + 1` images and
    `nih_id.csv` names `train + 2`.

    With `images="png"` the images lie in `images-train/<image id>.png` and `images-test/<image id>.png`, and each PNG
    has exactly the pixels that the DICOM file of the same seed displays. Other annotations than `csv` take the place of
    `train-rle.csv` and `test-rle.csv`, see `annotation_files.write_annotations`. For `seg`, the test images have SOP
    Instance UIDs that are UIDs, unlike those of the competition.

    In each part `round(0.22 * n)` images are positive. The first of them is annotated in overlapping rows, the second
    in separate rows, and the others as often in each style as in the competition. One image in 80, and at least one,
    is MONOCHROME1; equally many have 12 bits and a window. No patient is in both parts. The annotation files are
    written last: if they exist, the images are complete.

    Args:
        folder: Output folder. It is created if missing and must be empty.
        train: Number of usable training images, 1 or more.
        test: Number of test images, 0 or more.
        size: Rows and columns of every image, 32 or more.
        seed: Seed, 0 or more. The same seed gives the same bytes for any number of cores.
        images: Format of the images, `dicom` or `png`.
        annotations: Format of the annotations: `csv`, `absolute-csv`, `masks`, `coco`, `seg` or `labels`.

    Raises:
        ValueError: If `train`, `test`, `size` or `seed` is too small, a segmentation is asked for of images that are
            not DICOM, or the library that writes the annotations is not installed.
        FileExistsError: If `folder` is not empty.

    Example:
        >>> write_dataset(Path("data"), train=40, test=12, size=128, seed=7)  # doctest: +SKIP
        >>> write_dataset(Path("pictures"), size=128, images="png", annotations="masks")  # doctest: +SKIP
    """
    folder = Path(folder)
    check_size(size)
    if annotations == "seg" and images != "dicom":
        raise ValueError(
            f"annotations are seg and images are {images}: a DICOM SEG refers to DICOM images, write those"
        )
    require_library(annotations)
    if train < 1 or test < 0 or seed < 0:
        raise ValueError(f"train is {train}, test is {test} and seed is {seed}, expected at least 1, 0 and 0")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: delete it or name another folder")
    plans = _plan(np.random.default_rng(seed), train, test)
    layout = _Layout(folder, size, seed, images, annotations)
    # Threads, because numpy, scipy and pillow release the lock, and a fork may hang once TensorFlow is loaded.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = list(pool.map(lambda plan: _write_image(layout, plan), plans))
    _write_tables(layout, plans, written)


def _plan(rng: np.random.Generator, train: int, test: int) -> list[_Plan]:
    patients = rng.permutation(max(_NIH_PATIENTS, train + test + 1)) + 1
    # The two files that no split should see belong to a patient who has no other images.
    apart = int(patients[-1])
    return [
        *_plan_part(rng, "train", train, patients[:train]),
        _Plan("train", train, apart, 0, annotated=False),
        _Plan("train", train + 1, apart, 1, encoding="damaged"),
        *_plan_part(rng, "test", test, patients[train : train + test]),
    ]


def _plan_part(rng: np.random.Generator, part: str, count: int, patients: NDArray[np.int64]) -> list[_Plan]:
    order = rng.permutation(count).tolist()
    positives = set(order[: round(_POSITIVE_FRACTION * count)])
    styles = dict(zip(sorted(positives), ("overlapping", "separate"), strict=False))
    few = max(1, count // 80)
    unusual = rng.permutation(count).tolist()
    encodings: dict[int, Encoding] = dict.fromkeys(unusual[few : 2 * few], "twelve_bit")
    encodings |= dict.fromkeys(unusual[:few], "monochrome1")
    follow_ups: Counter[int] = Counter()
    plans = []
    for number in range(count):
        patient = _sample_patient(rng, number in positives, len(positives), patients)
        follow_up, positive = follow_ups[patient], number in positives
        follow_ups[patient] += 1
        encoding = encodings.get(number, "jpeg")
        plans.append(_Plan(part, number, patient, follow_up, positive, styles.get(number), encoding))
    return plans


def _sample_patient(rng: np.random.Generator, positive: bool, positives: int, patients: NDArray[np.int64]) -> int:
    """Return a patient. Positive images come from few patients, who have negative images as well."""
    ill = max(1, round(_PATIENTS_PER_POSITIVE * positives))
    everyone = max(ill + 1, round(_PATIENTS_PER_IMAGE * len(patients)))
    return int(patients[rng.integers(ill) if positive else rng.integers(everyone) % len(patients)])


def _write_image(layout: _Layout, plan: _Plan) -> AnnotatedImage:
    """Paint and write one image."""
    seed = layout.seed
    chest_rng = np.random.default_rng([seed, plan.patient])
    # Counted from 1, because numpy ignores trailing zeros of a seed and would repeat the stream of the chest.
    image_rng = np.random.default_rng([seed, plan.patient, 1 + plan.follow_up])
    chest = sample_chest(chest_rng)
    case = render_case(chest, int(image_rng.integers(2**63)), layout.size, plan.positive, plan.style)
    identity = Identity(
        image=_image_id(plan, seed),
        sop_instance=_uid(plan, seed, "image"),
        study=_uid(plan, seed, "study"),
        series=_uid(plan, seed, "series"),
        patient=_digest(plan, seed, "patient")[:36],
        sex=chest.sex,
        age=int(chest_rng.integers(18, 80)) + plan.follow_up // 4,
        view=str(image_rng.choice(["PA", "AP"], p=[0.6, 0.4])),
        spacing=float(image_rng.choice([0.139, 0.143, 0.168, 0.171, 0.194])),
    )
    path = layout.folder / _relative_path(layout, plan, identity)
    if layout.images == "png":
        write_png(path, case.image, plan.encoding)
    else:
        # A segmentation needs a UID to refer to.
        stored = replace(identity, image=identity.sop_instance) if layout.annotations == "seg" else identity
        write_dicom(path, case.image, stored, plan.encoding)
    return AnnotatedImage.of(identity.image, path, case.mask.shape, case.components)


def _relative_path(layout: _Layout, plan: _Plan, identity: Identity) -> Path:
    if layout.images == "png":
        return Path(f"images-{plan.part}", f"{identity.image}.png")
    name = f"{identity.image}.dcm"
    if plan.part == "test":
        return Path("dicom-images-test", name)
    return Path("dicom-images-train", identity.study, identity.series, name)


def _image_id(plan: _Plan, seed: int) -> str:
    return _uid(plan, seed, "image") if plan.part == "train" else "ID_" + _digest(plan, seed, "image")[:9]


def _uid(plan: _Plan, seed: int, purpose: str) -> str:
    return str(generate_uid(entropy_srcs=[f"pneumoseg/{seed}/{plan.part}/{plan.number}/{purpose}"]))


def _digest(plan: _Plan, seed: int, purpose: str) -> str:
    return hashlib.sha256(f"pneumoseg/{seed}/{plan.part}/{plan.number}/{purpose}".encode()).hexdigest()


def _write_tables(layout: _Layout, plans: list[_Plan], images: list[AnnotatedImage]) -> None:
    """Write everything but the images."""
    folder, both = layout.folder, list(zip(plans, images, strict=True))
    names = [(image.image_id, _nih_name(plan)) for plan, image in both if plan.part == "train"]
    write_table(folder / "nih_id.csv", ("Kaggle_ID", "NIH_ID"), names)
    empty = [(image.image_id, "-1") for plan, image in both if plan.part == "test"]
    write_table(folder / "stage_2_sample_submission.csv", ("ImageId", "EncodedPixels"), empty)
    for part in ("test", "train"):
        annotated = (image for plan, image in both if plan.part == part and plan.annotated)
        write_annotations(layout.annotations, folder, part, annotated)


def _nih_name(plan: _Plan) -> str:
    return f"{plan.patient:08d}_{plan.follow_up:03d}.png"
