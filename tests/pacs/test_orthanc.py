"""Both senders against a real Orthanc, in a network of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pneumoseg.dicom_objects import Finding, make_objects
from tests.pacs.network import data_set, image_file, large_file

REPOSITORY = Path(__file__).parents[2]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
UNSHARE = ["unshare", "-rnm"]


def can_run() -> bool:
    programs = all(shutil.which(name) for name in ("Orthanc", "unshare", "ip", "mount"))
    return programs and PLUGIN.exists() and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    if not can_run():
        pytest.skip("needs Orthanc with its DICOMweb plugin, and namespaces")
    folder = tmp_path_factory.mktemp("orthanc")
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}
    source = image_file(folder / "source", **uids)
    mask = np.zeros((37, 34), bool)
    mask[5:20, 5:20] = True
    finding = Finding(mask, 0.9, float("nan"), "", None, "0" * 64)
    for kind, dataset in make_objects(source, finding).items():
        dataset.save_as(folder / f"{kind}.dcm", enforce_file_format=True)
    broken = image_file(folder / "broken", instance="1.2.5", **uids)
    broken.write_bytes(broken.read_bytes()[: -len(data_set(broken)) + 20])
    large_file(folder / "large", 1, **uids)
    command = [*UNSHARE, sys.executable, "-m", "tests.pacs.orthanc_senders", folder]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ALL = ["sc.dcm", "seg.dcm", "sr.dcm"]


@pytest.mark.parametrize("way", ["store", "stow"])
def test_delivers_all_objects_byte_by_byte(outcomes, way):
    assert outcomes[way] == {"delivered": ALL, "refused": {}, "error": "", "same_bytes": True}


def test_keeps_results_while_orthanc_does_not_run(outcomes):
    assert outcomes["nobody"] == "the receiver cannot be connected to: Connection refused"


def test_keeps_results_if_the_title_or_the_path_is_wrong(outcomes):
    assert outcomes["typo"]["error"] == "the receiver rejected the association: Called AE title not recognised"
    error = "the service answered HTTP 404 and does not say what became of the files: check the URL"
    assert outcomes["wrong_path"]["error"] == error
    assert outcomes["typo"]["delivered"] == outcomes["wrong_path"]["delivered"] == []


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("store_full", "the receiver answered status 0xA700"),
        ("stow_full", "the service answered HTTP 200 and did not store it"),
    ],
)
def test_keeps_results_if_the_disk_of_orthanc_is_full(outcomes, way, error):
    assert outcomes[way] == {"delivered": [], "refused": {}, "error": error, "same_bytes": True}


def test_tells_a_broken_object_from_a_sound_one(outcomes):
    assert outcomes["stow_broken"]["delivered"] == ["sc.dcm"]
    assert list(outcomes["stow_broken"]["refused"]) == ["broken"]
