"""A whole synthetic data set: patients and their images, folders, and annotation files."""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from pneumoseg.synthetic.case import check_size, render_case
from pneumoseg.synthetic.chest import sample_chest
from pneumoseg.synthetic.dicom_file import Encoding, Identity, write_dicom

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


def write_dataset(folder: Path, train: int = 240, test: int = 60, size: int = 1024, seed: int = 0) -> None:
    """Write synthetic chest radiographs and annotations in the layout of the competition's data.

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

    Raises:
        ValueError: If `train`, `test`, `size` or `seed` is too small.
        FileExistsError: If `folder` is not empty.

    Example:
        >>> write_dataset(Path("data"), train=40, test=12, size=128, seed=7)  # doctest: +SKIP
    """
    folder = Path(folder)
    check_size(size)
    if train < 1 or test < 0 or seed < 0:
        raise ValueError(f"train is {train}, test is {test} and seed is {seed}, expected at least 1, 0 and 0")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: delete it or name another folder")
    plans = _plan(np.random.default_rng(seed), train, test)
    # Threads, because numpy, scipy and pillow release the lock, and a fork may hang once TensorFlow is loaded.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda plan: _write_image(folder, plan, size, seed), plans))
    _write_annotations(folder, plans, rows, seed)


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


def _write_image(folder: Path, plan: _Plan, size: int, seed: int) -> list[str]:
    """Paint and write one image.

    Returns:
        Its annotation rows, as run-length codes.
    """
    chest_rng = np.random.default_rng([seed, plan.patient])
    # Counted from 1, because numpy ignores trailing zeros of a seed and would repeat the stream of the chest.
    image_rng = np.random.default_rng([seed, plan.patient, 1 + plan.follow_up])
    chest = sample_chest(chest_rng)
    case = render_case(chest, int(image_rng.integers(2**63)), size, plan.positive, plan.style)
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
    write_dicom(folder / _relative_path(plan, identity), case.image, identity, plan.encoding)
    return [_run_lengths(component) for component in case.components] or ["-1"]


def _relative_path(plan: _Plan, identity: Identity) -> Path:
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


def _run_lengths(mask: NDArray[np.bool_]) -> str:
    """Return the competition's code of a mask: column by column, the gap before each run and its length."""
    # Padded, so that a run through the last pixel has an end.
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    borders = np.flatnonzero(flat[1:] != flat[:-1])
    return " ".join(map(str, np.diff(borders, prepend=0).tolist()))


def _write_annotations(folder: Path, plans: Sequence[_Plan], rows: Sequence[list[str]], seed: int) -> None:
    ids = [_image_id(plan, seed) for plan in plans]
    both = list(zip(ids, plans, rows, strict=True))
    train = [(image, plan, runs) for image, plan, runs in both if plan.part == "train"]
    test = [(image, runs) for image, plan, runs in both if plan.part == "test"]
    stage_2 = ("ImageId", "EncodedPixels")
    _write_table(folder / "nih_id.csv", ("Kaggle_ID", "NIH_ID"), [(i, _nih_name(plan)) for i, plan, _ in train])
    _write_table(folder / "stage_2_sample_submission.csv", stage_2, [(image, "-1") for image, _ in test])
    _write_table(folder / "test-rle.csv", stage_2, [(image, run) for image, runs in test for run in runs])
    annotated = [(image, " " + run) for image, plan, runs in train if plan.annotated for run in runs]
    _write_table(folder / "train-rle.csv", ("ImageId", " EncodedPixels"), annotated)


def _nih_name(plan: _Plan) -> str:
    return f"{plan.patient:08d}_{plan.follow_up:03d}.png"


def _write_table(path: Path, header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
