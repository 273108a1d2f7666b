"""Split a manifest into training and validation, stratified on the label."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from pneumoseg.data.patients import has_known_patients, patient_groups, patient_ids
from pneumoseg.identifiers import read_text_table

# In a run that started from another one's bundle: the images that this one was trained on.
START = "start_from.csv"


def stratified_split(
    manifest: pd.DataFrame,
    validation_fraction: float = 0.2,
    *,
    seed: int = 0,
    group_by_patient: bool | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split into training and validation with the same share of positives (section 4.1.1: 80/20).

    The paper splits by image. In the competition's data that puts the patients of 94.7% of the validation positives
    into training, so scores come out too good; where the patients are known, grouping them is honest.

    Args:
        manifest: One row an image, see `index_dataset`.
        validation_fraction: Share of the images for validation; when grouped at most .5, and the nearest 1 / n.
        seed: Same seed and same images, same split.
        group_by_patient: Whether all images of a patient go to one side; an image without a patient id is a patient
            of its own. None: where the patients are known, see `data.patients`.

    Returns:
        Training and validation rows, in the manifest's order.

    Raises:
        ValueError: If the fraction is not between 0 and 1, a class has fewer than two images (grouped: fewer patients
            than folds), or patients are to be grouped and the headers alone name them, another one for every image.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction is a share between 0 and 1, got {validation_fraction}")
    labels = manifest["has_pneumothorax"]
    if labels.sum() < 2 or (~labels).sum() < 2:
        raise ValueError(
            "a stratified split needs two images of each class, "
            f"the manifest has {labels.sum()} positive of {len(labels)}"
        )
    if not _groups(manifest, group_by_patient):
        rows = np.arange(len(manifest))
        _, chosen = train_test_split(rows, test_size=validation_fraction, stratify=labels, random_state=seed)
        return _sides(manifest, chosen)
    if validation_fraction > 0.5:
        raise ValueError(
            f"cannot group by patient: validation_fraction is {validation_fraction}, at most 0.5 is possible"
        )
    folds = round(1 / validation_fraction)

    def distance(fold: np.ndarray) -> float:
        share_of_positives = labels.iloc[fold].sum() / labels.sum()
        return abs(len(fold) / len(manifest) - 1 / folds) + abs(share_of_positives - 1 / folds)

    return _sides(manifest, min(_grouped_folds(manifest, folds, seed), key=distance))


def stratified_folds(
    manifest: pd.DataFrame, folds: int, *, seed: int = 0, group_by_patient: bool | None = None
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Split several times, so that each image is in validation once, with about the same share of positives each time.

    Args:
        manifest: One row an image, see `index_dataset`.
        folds: How many, 2 or more.
        seed: Same seed and same images, same folds.
        group_by_patient: As for `stratified_split`.

    Returns:
        Training and validation rows of each fold, in the manifest's order.

    Raises:
        ValueError: If there are fewer positive or negative images (grouped: positive patients) than folds, fewer than
            two folds, or patients are to be grouped and none is known, as for `stratified_split`.
    """
    labels = manifest["has_pneumothorax"]
    if folds < 2:
        raise ValueError(f"cross-validation needs two folds or more, got {folds}: take a smaller validation_fraction")
    if min(labels.sum(), (~labels).sum()) < folds:
        raise ValueError(f"{folds} folds need as many images of each class, got {labels.sum()} of {len(labels)}")
    if _groups(manifest, group_by_patient):
        chosen = _grouped_folds(manifest, folds, seed)
    else:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        chosen = [fold for _, fold in splitter.split(manifest, labels)]
    return [_sides(manifest, fold) for fold in chosen]


def positives_and_sampled_negatives(
    manifest: pd.DataFrame, negatives_per_positive: float | None, *, seed: int = 0
) -> pd.DataFrame:
    """Choose the segmenter's images: all positives and randomly drawn negatives (section 3.2.1).

    Args:
        manifest: One side of a split.
        negatives_per_positive: How many negatives to draw; all of them, if there are fewer, or if it is None.
        seed: Same seed, same choice.

    Returns:
        The chosen rows, in the manifest's order.
    """
    if negatives_per_positive is None:
        return manifest
    positive = manifest["has_pneumothorax"]
    count = min(round(negatives_per_positive * positive.sum()), int((~positive).sum()))
    drawn = manifest[~positive].sample(count, random_state=seed).index
    return manifest[positive | manifest.index.isin(drawn)]


def patients_on_both_sides(training: pd.DataFrame, validation: pd.DataFrame) -> int:
    """Count the patients with images in training and in validation; images of unknown patients do not count."""
    both = patient_ids(pd.concat([training, validation]))
    return len((set(both[: len(training)]) & set(both[len(training) :])) - {""})


def without_training_images(manifest: pd.DataFrame, runs: Iterable[str | Path]) -> pd.DataFrame:
    """Leave out the images that a run was trained on, so that no score is measured on them.

    Args:
        manifest: One row an image.
        runs: Folders of runs, each with its `split.csv`, or one in each fold's folder.

    Returns:
        The remaining rows.

    Raises:
        FileNotFoundError: If a run has none.
        ValueError: If no image remains.
    """
    trained_on: set[str] = set()
    for run in runs:
        trained_on |= images_of_run(run, "training")
    remaining = manifest[~manifest["image_id"].isin(trained_on)]
    if remaining.empty:
        raise ValueError(
            f"all {len(manifest)} images of the manifest were trained on: nothing is left to score or to tune on "
            "(make: TUNE=no keeps the rule as assembled; for folds see experiments/out_of_fold.py)"
        )
    return remaining


def images_of_run(run: str | Path, side: str) -> set[str]:
    """The images on one side of a run's split, "training" or "validation"; of any fold, if it was cross-validated.

    Among the training images are those of the bundle that the run started from, if it started from one.

    Raises:
        FileNotFoundError: If the run has no `split.csv`.
    """
    run = Path(run)
    paths = [path for path in (run / "split.csv", *run.glob("fold_*/split.csv")) if path.exists()]
    if not paths:
        raise FileNotFoundError(f"{run} holds no run: it has no split.csv")
    paths += [path.with_name(START) for path in paths if path.with_name(START).exists()]
    split = pd.concat([read_text_table(path) for path in paths])
    return set(split.loc[split["side"] == side, "image_id"])


def _groups(manifest: pd.DataFrame, group_by_patient: bool | None) -> bool:
    return has_known_patients(manifest) if group_by_patient is None else group_by_patient


def _sides(manifest: pd.DataFrame, validation: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    in_validation = np.isin(np.arange(len(manifest)), validation)
    return manifest[~in_validation], manifest[in_validation]


def _grouped_folds(manifest: pd.DataFrame, folds: int, seed: int) -> list[np.ndarray]:
    """The positions of each fold's validation images; no patient is in two folds."""
    if not has_known_patients(manifest):
        raise ValueError(
            "cannot group by patient: apart from placeholders, no two images have the same patient id, as in the "
            "competition's DICOM headers, which hold another one for every image; index with an id map, or set "
            "group_by_patient: false"
        )
    patients = patient_groups(manifest)
    labels = manifest["has_pneumothorax"]
    positive_patients = len(set(patients[labels]))
    if positive_patients < folds:
        raise ValueError(
            f"cannot group by patient: {folds} folds need as many positive patients, got {positive_patients}; "
            "take a larger validation_fraction, or group_by_patient: false"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [fold for _, fold in splitter.split(manifest, labels, patients)]
