"""Which patient each image belongs to: the one place that decides what counts as known.

An id map is believed. A PatientID of a DICOM header is believed unless it is a placeholder, as de-identification leaves
them. Headers that give every image another PatientID, as the competition's do, tell nothing of who has several images.
"""

import re

import numpy as np
import pandas as pd

ID_MAP = "id map"
"""What a manifest's `patient_source` says where an id map named the patient."""

_PLACEHOLDERS = re.compile(
    r"anon|anonym|anonymous|anonymi[sz]ed|deid|deidentified|removed|redacted|masked|hidden|missing|unknown|unk|none|null|"
    r"nil|nan|na|noid|noname|nobody|notavailable|notapplicable|undefined|unspecified|phi|patient|pid|id|patientid|test|"
    r"dummy|default|sample|x+|0*|([1-9])\1{4,}"
)
_MOST_SHARED = 0.5
_FEWEST = 10  # images of an id, or of a set, from which on their number tells something


def patient_ids(manifest: pd.DataFrame) -> pd.Series:
    """Return the patient of each image, '' where it is not known.

    Args:
        manifest: One row per image, with `patient_id` and, where there are any, `patient_source` and `sex`.

    Returns:
        str, indexed as the manifest.
    """
    mapped = _is_mapped(manifest)
    ids = manifest["patient_id"]
    return ids.where(mapped | ~ids.isin(list(placeholders(manifest))), "")


def patient_groups(manifest: pd.DataFrame) -> np.ndarray:
    """Return what is kept together in a split and drawn together in a bootstrap: the patient, or else the image.

    Args:
        manifest: As for `patient_ids`, with `image_id`.

    Returns:
        str, (n,).
    """
    ids = patient_ids(manifest)
    return ids.where(ids != "", "image " + manifest["image_id"]).to_numpy(str)


def has_known_patients(manifest: pd.DataFrame) -> bool:
    """Tell whether the manifest says who has several images: by an id map, or by PatientIDs that occur again."""
    ids = patient_ids(manifest)[~_is_mapped(manifest)]
    return bool(_is_mapped(manifest).any() or ids[ids != ""].duplicated().any())


def describe_patients(manifest: pd.DataFrame) -> str:
    """Say in words how many patients there are, as far as they are known."""
    if not has_known_patients(manifest):
        return "patients not known"
    ids = patient_ids(manifest)
    known = ids[ids != ""]
    rest = "" if len(known) == len(ids) else f" of {len(known)} images, those of the others not known"
    return f"{known.nunique()} patients{rest}"


def doubts_about_patients(manifest: pd.DataFrame) -> list[str]:
    """Say what makes a split by patient or an interval over patients doubtful, one sentence each; empty if nothing."""
    mapped, found = int(_is_mapped(manifest).sum()), placeholders(manifest)
    texts = []
    if 0 < mapped < len(manifest):
        texts.append(
            f"the id map names the patient of {mapped} of {len(manifest)} images, and of the others only the DICOM "
            "header might: complete the id map"
        )
    if found:
        names = ", ".join(f"{name!r} ({count} images)" for name, count in list(found.items())[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        texts.append(f"PatientIDs that stand for no single patient are not believed: {names}{more}")
    return texts


def knows_all_patients(manifest: pd.DataFrame) -> bool:
    """Tell whether the patient of every image is known."""
    return has_known_patients(manifest) and bool((patient_ids(manifest) != "").all())


def placeholders(manifest: pd.DataFrame) -> dict[str, int]:
    """Find the PatientIDs of DICOM headers that cannot each be one patient.

    These are the words that stand for no one ("ANON", "Unknown", "0000"), an id that all images share or more than half
    of ten or more, and an id of ten images or more with several of either sex. Of fewer, or of one image of the other
    sex, a typing error is as likely, and to keep one patient's images together matters more.

    Args:
        manifest: As for `patient_ids`.

    Returns:
        The number of images with each of them.
    """
    header = manifest[~_is_mapped(manifest)]
    most = _MOST_SHARED * len(header) if len(header) >= _FEWEST else len(header) - 1
    header = header[header["patient_id"] != ""]
    counts = header["patient_id"].value_counts()
    suspect = {name for name, count in counts.items() if _stands_for_no_one(name) or count > max(most, 1)}
    if "sex" in header:
        women, men = (header.loc[header["sex"] == sex, "patient_id"].value_counts() for sex in "FM")
        suspect |= set(women.index[women > 1]) & set(men.index[men > 1]) & set(counts.index[counts >= _FEWEST])
    return {str(name): int(count) for name, count in counts.items() if name in suspect}


def _is_mapped(manifest: pd.DataFrame) -> pd.Series:
    if "patient_source" not in manifest:
        return pd.Series(False, manifest.index)
    return manifest["patient_source"] == ID_MAP


def _stands_for_no_one(patient_id: str) -> bool:
    """Tell whether an id is words for no one, one digit again and again, 12345 and so on, or no letter or digit."""
    parts = re.split(r"[\W_]+", patient_id.lower())
    whole = "".join(parts)
    in_order = len(whole) >= 5 and "1234567890".startswith(whole)
    return in_order or any(all(map(_PLACEHOLDERS.fullmatch, several)) for several in ([whole], parts))
