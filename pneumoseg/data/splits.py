"""Splits of a manifest into training and validation, stratified on the label."""

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from pneumoseg.data.patients import has_known_patients, patient_groups, patient_ids


def stratified_split(
    manifest: pd.DataFrame,
    validation_fraction: float = 0.2,
    *,
    seed: int = 0,
    group_by_patient: bool | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split into training and validation with the same fraction of positives (section 4.1.1: 80/20).

    The paper splits by image. In the competition's data that puts the patients of 94.7% of the validation positives
    into training, so scores come out too good. If the patients are known, grouping by patient gives honest scores.

    Args:
        manifest: Table with one row per image, see `index_dataset`.
        validation_fraction: Fraction of the images for validation; if grouped at most 0.5, and the nearest 1 / n.
        seed: Seed of the split; the same seed and images give the same split.
        group_by_patient: Whether all images of a patient go into the same split; an image without a patient id counts
            as a patient of its own. None groups if the patients are known, see `data.patients`.

    Returns:
        Training and validation rows, in the manifest's order.

    Raises:
        ValueError: If the fraction is not between 0 and 1, a class has fewer than two images (grouped: fewer patients
            than folds), or patients are to be grouped but only the headers name them, with another one for each image.

    Example:
        >>> manifest = pd.DataFrame({"image_id": list("abcdefgh"), "has_pneumothorax": [True, False] * 4})
        >>> training, validation = stratified_split(manifest, 0.5, group_by_patient=False)
        >>> len(training), int(validation["has_pneumothorax"].sum())
        (4, 2)
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction is a fraction between 0 and 1, got {validation_fraction}")
    labels = manifest["has_pneumothorax"]
    if labels.sum() < 2 or (~labels).sum() < 2:
        raise ValueError(
            "a stratified split needs two images of each class, "
            f"the manifest has {labels.sum()} positive of {len(labels)}"
        )
    if not _groups(manifest, group_by_patient):
        rows = np.arange(len(manifest))
        _, chosen = train_test_split(rows, test_size=validation_fraction, stratify=labels, random_state=seed)
        return _divided(manifest, chosen)
    if validation_fraction > 0.5:
        raise ValueError(
            f"cannot group by patient: validation_fraction is {validation_fraction}, at most 0.5 is possible"
        )
    folds = round(1 / validation_fraction)

    def distance(fold: np.ndarray) -> float:
        fraction_of_positives = labels.iloc[fold].sum() / labels.sum()
        return abs(len(fold) / len(manifest) - 1 / folds) + abs(fraction_of_positives - 1 / folds)

    return _divided(manifest, min(_grouped_folds(manifest, folds, seed), key=distance))


def stratified_folds(
    manifest: pd.DataFrame, folds: int, *, seed: int = 0, group_by_patient: bool | None = None
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Split several times, so that each image is in validation once, with about the same fraction of positives.

    Args:
        manifest: Table with one row per image, see `index_dataset`.
        folds: Number of folds, 2 or more.
        seed: Seed of the splits; the same seed and images give the same folds.
        group_by_patient: Whether all images of a patient go into the same split; an image without a patient id counts
            as a patient of its own. None groups if the patients are known, see `data.patients`.

    Returns:
        Training and validation rows of each fold, in the manifest's order.

    Raises:
        ValueError: If there are fewer positive or negative images (grouped: positive patients) than folds, fewer than
            two folds, or patients are to be grouped but only the headers name them, with another one for each image.

    Example:
        >>> manifest = pd.DataFrame({"image_id": list("abcdefgh"), "has_pneumothorax": [True, False] * 4})
        >>> folds = stratified_folds(manifest, 2, group_by_patient=False)
        >>> sorted(image for _, validation in folds for image in validation["image_id"])
        ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']
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
    return [_divided(manifest, fold) for fold in chosen]


def positives_and_sampled_negatives(
    manifest: pd.DataFrame, negatives_per_positive: float | None, *, seed: int = 0
) -> pd.DataFrame:
    """Choose the segmenter's images: all positives and randomly drawn negatives (section 3.2.1).

    Args:
        manifest: Rows of one split.
        negatives_per_positive: Number of negatives to draw per positive; all negatives if there are fewer. None takes
            all images.
        seed: Seed of the choice; the same seed and rows give the same choice.

    Returns:
        The chosen rows, in the manifest's order.
    """
    if negatives_per_positive is None:
        return manifest
    positive = manifest["has_pneumothorax"]
    count = min(round(negatives_per_positive * positive.sum()), int((~positive).sum()))
    drawn = manifest[[]][~positive].sample(count, random_state=seed).index  # without copies of all columns
    return manifest[positive | manifest.index.isin(drawn)]


def count_shared_patients(training: pd.DataFrame, validation: pd.DataFrame) -> int:
    """Count the patients with images in training and in validation; images of unknown patients do not count."""
    both = patient_ids(pd.concat([training, validation]))
    return len((set(both[: len(training)]) & set(both[len(training) :])) - {""})


def _groups(manifest: pd.DataFrame, group_by_patient: bool | None) -> bool:
    return has_known_patients(manifest) if group_by_patient is None else group_by_patient


def _divided(manifest: pd.DataFrame, validation: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    in_validation = np.isin(np.arange(len(manifest)), validation)
    return manifest[~in_validation], manifest[in_validation]


def _grouped_folds(manifest: pd.DataFrame, folds: int, seed: int) -> list[np.ndarray]:
    """Return the positions of each fold's validation images; no patient is in two folds."""
    if not has_known_patients(manifest):
        raise ValueError(
            "cannot group by patient: apart from placeholders, no two images have the same patient id; pictures hold "
            "none, and the competition's DICOM headers hold another one for every image; index with an id map, or set "
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
