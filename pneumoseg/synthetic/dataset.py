"""A whole data set: who is on which film, the folders, the annotation files."""

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

from pneumoseg.synthetic.case import check_size, compose_case
from pneumoseg.synthetic.chest import draw_chest
from pneumoseg.synthetic.dicom_file import Encoding, Identity, write_dicom

_POSITIVE_SHARE = 0.22

# The competition's 12,047 images show 6,171 patients; its 2,669 positive ones come from 802 of them.
_PATIENTS_PER_IMAGE = 6171 / 12047
_PATIENTS_PER_POSITIVE = 802 / 2669
_NIH_PATIENTS = 30805


@dataclass(frozen=True)
class _Plan:
    """All that decides one file before it is painted; `rows` is None where chance decides (see `draw_rows`)."""

    part: str
    number: int
    patient: int
    follow_up: int = 0
    positive: bool = False
    rows: str | None = None
    encoding: Encoding = "jpeg"
    annotated: bool = True


def write_dataset(folder: Path, train: int = 240, test: int = 60, size: int = 1024, seed: int = 0) -> None:
    """Write chest films and annotations as the competition's data look on disk.

    ::

        dicom-images-train/<study>/<series>/<image id>.dcm    train + 2 files
        dicom-images-test/ID_xxxxxxxxx.dcm                    test files
        train-rle.csv                    stage-1 header and spaces; one or more rows an image, ` -1` where empty
        test-rle.csv                     the truth of the test folder, stage-2 header
        stage_2_sample_submission.csv    every test image with `-1`
        nih_id.csv                       training image and NIH file name, whose first part is the patient

    `train` counts the training images that can be read and are annotated. Two negative files come on top: one
    without a row, and one with a row whose JPEG stops half-way. So `train-rle.csv` names `train + 1` images and
    `nih_id.csv` `train + 2`.

    In either part `round(0.22 * n)` images are positive; the first of them is annotated in overlapping rows, the
    second in separate ones, the others as often as in the competition. One image in 80, and at least one, is
    MONOCHROME1, and as many have 12 bits and a window. No patient is in both parts. The annotation files are
    written last: where they are, the films are complete.

    Args:
        folder: Where to write: created if missing, refused if not empty.
        train: Number of usable training images, 1 or more.
        test: Number of test images, 0 or more.
        size: Rows and columns of every film, 32 or more.
        seed: 0 or more. The same seed gives the same bytes, whatever the number of cores.

    Raises:
        ValueError: If `train`, `test`, `size` or `seed` is too small.
        FileExistsError: If `folder` is not empty.
    """
    folder = Path(folder)
    check_size(size)
    if train < 1 or test < 0 or seed < 0:
        raise ValueError(f"train is {train}, test {test} and seed {seed}: expected at least 1, 0 and 0")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: delete it or name another folder")
    plans = _plan(np.random.default_rng(seed), train, test)
    # Threads, because numpy, scipy and pillow release the lock, and a fork beside TensorFlow may hang.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda plan: _write_film(folder, plan, size, seed), plans))
    _write_annotations(folder, plans, rows, seed)


def _plan(rng: np.random.Generator, train: int, test: int) -> list[_Plan]:
    patients = rng.permutation(max(_NIH_PATIENTS, train + test + 1)) + 1
    # A patient of their own for the two files that no split should see.
    apart = int(patients[-1])
    return [
        *_plan_part(rng, "train", train, patients[:train]),
        _Plan("train", train, apart, 0, annotated=False),
        _Plan("train", train + 1, apart, 1, encoding="damaged"),
        *_plan_part(rng, "test", test, patients[train : train + test]),
    ]


def _plan_part(rng: np.random.Generator, part: str, count: int, patients: NDArray[np.int64]) -> list[_Plan]:
    order = rng.permutation(count).tolist()
    positives = set(order[: round(_POSITIVE_SHARE * count)])
    rows = dict(zip(sorted(positives), ("overlapping", "separate"), strict=False))
    few = max(1, count // 80)
    unusual = rng.permutation(count).tolist()
    encodings: dict[int, Encoding] = dict.fromkeys(unusual[few : 2 * few], "twelve_bit")
    encodings |= dict.fromkeys(unusual[:few], "monochrome1")
    follow_ups: Counter[int] = Counter()
    plans = []
    for number in range(count):
        patient = _draw_patient(rng, number in positives, len(positives), patients)
        follow_up, positive = follow_ups[patient], number in positives
        follow_ups[patient] += 1
        encoding = encodings.get(number, "jpeg")
        plans.append(_Plan(part, number, patient, follow_up, positive, rows.get(number), encoding))
    return plans


def _draw_patient(rng: np.random.Generator, positive: bool, positives: int, patients: NDArray[np.int64]) -> int:
    """Positive images come from few patients, who have negative ones as well."""
    ill = max(1, round(_PATIENTS_PER_POSITIVE * positives))
    everyone = max(ill + 1, round(_PATIENTS_PER_IMAGE * len(patients)))
    return int(patients[rng.integers(ill) if positive else rng.integers(everyone) % len(patients)])


def _write_film(folder: Path, plan: _Plan, size: int, seed: int) -> list[str]:
    """Paint and write one film; returns its annotation rows."""
    chest_rng = np.random.default_rng([seed, plan.patient])
    # Counted from one: a trailing zero would make it the chest's own stream.
    film_rng = np.random.default_rng([seed, plan.patient, 1 + plan.follow_up])
    chest = draw_chest(chest_rng)
    case = compose_case(chest, int(film_rng.integers(2**63)), size, plan.positive, plan.rows)
    identity = Identity(
        image=_image_id(plan, seed),
        sop_instance=_uid(plan, seed, "image"),
        study=_uid(plan, seed, "study"),
        series=_uid(plan, seed, "series"),
        patient=_digest(plan, seed, "patient")[:36],
        sex=chest.sex,
        age=int(chest_rng.integers(18, 80)) + plan.follow_up // 4,
        view=str(film_rng.choice(["PA", "AP"], p=[0.6, 0.4])),
        spacing=float(film_rng.choice([0.139, 0.143, 0.168, 0.171, 0.194])),
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
    """The competition's code: down the columns, each run as the gap since the last one and its length."""
    # Padded, so that a run that ends on the last pixel ends at all.
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
