"""The loop with a real PACS: an Orthanc that receives images, has them forwarded, and gets the results."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "-rnpf", "--mount-proc", "--kill-child"]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def can_run():
    """Return whether there are an Orthanc and namespaces, in which nobody else can reach it."""
    programs = all(shutil.which(name) for name in ("Orthanc", "unshare", "ip")) and Path("/usr/bin/storescu").exists()
    return programs and PLUGIN.exists() and subprocess.run([*UNSHARE, "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_run(), reason="there is no Orthanc with DICOMweb, or no namespaces to run it in")
def test_results_come_back_into_the_study(pipeline, tmp_path):
    inside = f'ip link set lo up && exec "{sys.executable}" -m tests.pacs.orthanc_loop "{tmp_path}" "{pipeline}"'
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    result = subprocess.run(
        [*UNSHARE, "sh", "-c", inside],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert result.returncode == 0, (result.stderr, logs)
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["exit status while nobody listens"] == 1
    assert facts["waiting while nobody listens"] == 1
    results = ["CR", "OT", "SEG", "SR"]
    # By C-STORE, by STOW-RS after a kill, and not for a lateral view or another part of the body.
    assert facts["modalities"] == {"1.2.1": results, "1.2.2": ["CR"], "1.2.3": ["CR"], "1.2.4": results}
    assert facts["instances"] == 10  # each result once, and no result of a result
    assert facts["queue"].endswith("2 done, 0 failed\n")
    ours = logs["listen--to.log"] + logs["listen--stow.log"] + logs["forward.log"] + result.stderr
    assert "2 images wait" not in ours
    assert "1 images wait: the listener does not answer (HTTP 500 from Orthanc)" in ours
    for secret in ("Secretperson", "secretid", "77123"):
        assert secret not in ours
