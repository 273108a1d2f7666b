"""Patients of images: the only module that decides whether patients are known, and which images are of one patient.

An id map is trusted. A PatientID of a DICOM header is trusted unless it is a placeholder left by de-identification. If
all PatientIDs differ, as in the competition's headers, they do not tell which images are of one patient.
"""

import re

import numpy as np
import pandas as pd

ID_MAP = "id map"
"""Value of `patient_source` in a manifest if an id map named the patient."""

_PLACEHOLDERS = re.compile(
    r"anon|anonym|anonymous|anonymi[sz]ed|deid|deidentified|removed|redacted|masked|hidden|missing|unknown|unk|none|null|"
    r"nil|nan|na|noid|noname|nobody|notavailable|notapplicable|undefined|unspecified|phi|patient|pid|id|patientid|test|"
    r"dummy|default|sample|x+|0*|([1-9])\1{4,}"
)
_MOST_SHARED = 0.5
_FEWEST = 10  # an id or a set with fewer images is too small to judge by its numbers


def patient_ids(manifest: pd.DataFrame) -> pd.Series:
    """Return the patient ID of each image.

    Args:
        manifest: One row per image, with `patient_id` and optionally `patient_source` and `sex`.

    Returns:
        str, with the index of the manifest; '' if the patient is not known.

    Example:
        >>> patient_ids(pd.DataFrame({"patient_id": ["p1", "p1", "p2", "ANON"]})).tolist()
        ['p1', 'p1', 'p2', '']
    """
    mapped = _is_mapped(manifest)
    ids = manifest["patient_id"]
    return ids.where(mapped | ~ids.isin(list(placeholders(manifest))), "")


def patient_groups(manifest: pd.DataFrame) -> np.ndarray:
    """Return the group of each image: the patient ID, or the image ID if the patient is not known.

    The images of a group stay together in a split and in a bootstrap resample.

    Args:
        manifest: One row per image, with `image_id`, `patient_id` and optionally `patient_source` and `sex`.

    Returns:
        str, (n,).

    Example:
        >>> manifest = pd.DataFrame({"image_id": ["a", "b", "c"], "patient_id": ["p1", "p1", ""]})
        >>> patient_groups(manifest).tolist()
        ['p1', 'p1', 'image c']
    """
    ids = patient_ids(manifest)
    return ids.where(ids != "", "image " + manifest["image_id"]).to_numpy(str)


def has_known_patients(manifest: pd.DataFrame) -> bool:
    """Tell whether the manifest shows which images are of one patient: by an id map, or by repeated PatientIDs.

    Args:
        manifest: One row per image, with `patient_id` and optionally `patient_source` and `sex`.

    Example:
        >>> has_known_patients(pd.DataFrame({"patient_id": ["p1", "p2", "p3"]}))
        False
    """
    ids = patient_ids(manifest)[~_is_mapped(manifest)]
    return bool(_is_mapped(manifest).any() or ids[ids != ""].duplicated().any())


def describe_patients(manifest: pd.DataFrame) -> str:
    """Describe in words how many patients are known.

    Args:
        manifest: One row per image, with `patient_id` and optionally `patient_source` and `sex`.

    Example:
        >>> describe_patients(pd.DataFrame({"patient_id": ["p1", "p1", "p2"]}))
        '2 patients'
    """
    if not has_known_patients(manifest):
        return "patients not known"
    ids = patient_ids(manifest)
    known = ids[ids != ""]
    rest = "" if len(known) == len(ids) else f" of {len(known)} images; the patients of the others are not known"
    return f"{known.nunique()} patients{rest}"


def doubts_about_patients(manifest: pd.DataFrame) -> list[str]:
    """Return the reasons to doubt a split by patient or an interval over patients, one sentence each.

    Args:
        manifest: One row per image, with `patient_id` and optionally `patient_source` and `sex`.
    """
    mapped, found = int(_is_mapped(manifest).sum()), placeholders(manifest)
    texts = []
    if 0 < mapped < len(manifest):
        texts.append(
            f"the id map names the patient of {mapped} of {len(manifest)} images, and the DICOM headers of the "
            "others may not be reliable: complete the id map"
        )
    if found:
        names = ", ".join(f"{name!r} ({count} images)" for name, count in list(found.items())[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        texts.append(f"PatientIDs that look like placeholders are ignored: {names}{more}")
    return texts


def knows_all_patients(manifest: pd.DataFrame) -> bool:
    """Tell whether the patient of every image is known.

    Args:
        manifest: One row per image, with `patient_id` and optionally `patient_source` and `sex`.

    Example:
        >>> knows_all_patients(pd.DataFrame({"patient_id": ["p1", "p1", ""]}))
        False
    """
    return has_known_patients(manifest) and bool((patient_ids(manifest) != "").all())


def count_patients(manifest: pd.DataFrame) -> int | None:
    """Return the number of patients, or None if the patient of an image is not known.

    Args:
        manifest: One row per image, with `patient_id` and optionally `patient_source` and `sex`.

    Example:
        >>> count_patients(pd.DataFrame({"patient_id": ["p1", "p1", "p2"]}))
        2
    """
    return int(patient_ids(manifest).nunique()) if knows_all_patients(manifest) else None


def placeholders(manifest: pd.DataFrame) -> dict[str, int]:
    """Find the PatientIDs of DICOM headers that are placeholders.

    These are:

    - words that do not name anyone, such as "ANON", "Unknown" and "0000";
    - an ID shared by all images, or by more than half of ten or more images;
    - an ID of ten or more images with at least two images of each sex. In smaller groups, or with one image of the
      other sex, a typing error is as likely, and keeping the images of one patient together matters more.

    Args:
        manifest: One row per image, with `patient_id` and optionally `patient_source` and `sex`.

    Returns:
        The number of images with each of them.

    Example:
        >>> placeholders(pd.DataFrame({"patient_id": ["p1", "p1", "p2", "ANON"]}))
        {'ANON': 1}
    """
    # Not the other columns: run-length codes and paths take much memory.
    header = manifest.loc[~_is_mapped(manifest), manifest.columns.intersection(["patient_id", "sex"])]
    most = _MOST_SHARED * len(header) if len(header) >= _FEWEST else len(header) - 1
    header = header[header["patient_id"] != ""]
    counts = header["patient_id"].value_counts()
    suspect = {name for name, count in counts.items() if _names_no_one(name) or count > max(most, 1)}
    if "sex" in header:
        women, men = (header.loc[header["sex"] == sex, "patient_id"].value_counts() for sex in "FM")
        suspect |= set(women.index[women > 1]) & set(men.index[men > 1]) & set(counts.index[counts >= _FEWEST])
    return {str(name): int(count) for name, count in counts.items() if name in suspect}


def _is_mapped(manifest: pd.DataFrame) -> pd.Series:
    if "patient_source" not in manifest:
        return pd.Series(False, manifest.index)
    return manifest["patient_source"] == ID_MAP


def _names_no_one(patient_id: str) -> bool:
    """Tell whether an ID consists of placeholder words, one repeated digit, 12345 and so on, or no letter or digit."""
    parts = re.split(r"[\W_]+", patient_id.lower())
    whole = "".join(parts)
    in_order = len(whole) >= 5 and "1234567890".startswith(whole)
    return in_order or any(all(map(_PLACEHOLDERS.fullmatch, several)) for several in ([whole], parts))
