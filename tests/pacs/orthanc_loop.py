"""A loop with an Orthanc, for namespaces of its own, in which its processes end with it: prints facts as JSON.

Run with: unshare -rnpf --mount-proc sh -c 'ip link set lo up && exec python -m tests.pacs.orthanc_loop FOLDER PIPELINE'
"""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np

from tests.conftest import write_dicom

DEPLOY = Path(__file__).parents[2] / "deploy"
USER = "pneumoseg:change this password"
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
SECONDS = 60


def main(folder, pipeline):
    os.environ["NETRC"] = str(write_netrc(folder))
    facts = {}
    start("Orthanc", str(write_configuration(folder)), log=folder / "orthanc.log")
    wait_for(lambda: ask("/system"))
    store(image(folder, 1), image(folder, 2, ViewPosition="LL"), image(folder, 3, BodyPartExamined="ABDOMEN"))

    # Nobody listens yet: the image waits.
    forward = [sys.executable, str(DEPLOY / "orthanc_forward.py"), str(folder / "state.json"), "--seconds", "0.2"]
    facts["exit status while nobody listens"] = subprocess.run([*forward, "--once"], check=False).returncode
    facts["waiting while nobody listens"] = waiting(folder)
    start(*forward, log=folder / "forward.log")

    service = listen(folder, pipeline, "--to", "ORTHANC@127.0.0.1:4242")
    wait_for(lambda: len(modalities()["1.2.1"]) == 4)
    service.kill()
    service.wait()

    store(image(folder, 4))
    wait_for(lambda: waiting(folder) == 1)
    listen(folder, pipeline, "--stow", "http://127.0.0.1:8042/dicom-web")
    wait_for(lambda: len(modalities()["1.2.4"]) == 4)

    # The forwarder has looked at the results, too.
    wait_for(lambda: state(folder)["since"] == ask("/changes?last")["Last"])
    facts["modalities"] = modalities()
    facts["instances"] = len(ask("/instances"))
    queue = [sys.executable, "-m", "pneumoseg", "queue", str(folder / "spool")]
    facts["queue"] = subprocess.run(queue, capture_output=True, text=True, check=True).stdout
    print(json.dumps(facts))


def write_netrc(folder):
    file = folder / "netrc"
    user, password = USER.split(":")
    file.write_text(f'machine 127.0.0.1 login {user} password "{password}"\n')
    file.chmod(0o600)
    return file


def write_configuration(folder):
    """Write the configuration of the repository with another folder of data."""
    settings = json.loads((DEPLOY / "orthanc.json").read_text())
    settings["StorageDirectory"] = settings["IndexDirectory"] = str(folder / "orthanc")
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return folder / "orthanc.json"


def image(folder, number, **elements):
    values = {
        "SOPClassUID": COMPUTED_RADIOGRAPHY,
        "SOPInstanceUID": f"1.2.{number}.5.77123",
        "StudyInstanceUID": f"1.2.{number}",
        "SeriesInstanceUID": f"1.2.{number}.5",
        "PatientName": "Secretperson^Jane",
        "PatientID": "secretid",
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
    }
    pixels = np.random.default_rng(number).integers(0, 256, (64, 48), np.uint8)
    return write_dicom(folder / f"images/{number}.dcm", pixels, **(values | elements))


def store(*files):
    # Not the program of the same name that pynetdicom brings.
    command = ["/usr/bin/storescu", "-R", "-aet", "XRAY", "-aec", "ORTHANC", "127.0.0.1", "4242", *map(str, files)]
    subprocess.run(command, check=True)


def listen(folder, pipeline, *target):
    """Start the service, and return its process once it listens."""
    log = folder / f"listen{target[0]}.log"
    options = ["--pipeline", str(pipeline), "--spool", str(folder / "spool"), "--accept", "ORTHANC", *target]
    process = start(sys.executable, "-m", "pneumoseg", "listen", *options, log=log)
    wait_for(lambda: "listening as PNEUMOSEG" in log.read_text())
    return process


def start(*command, log):
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def ask(path):
    header = {"Authorization": "Basic " + base64.b64encode(USER.encode()).decode()}
    request = urllib.request.Request(f"http://127.0.0.1:8042{path}", headers=header)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def modalities():
    """Return the modalities of all series, by study."""
    studies = {study["ID"]: study["MainDicomTags"]["StudyInstanceUID"] for study in ask("/studies?expand")}
    found = {uid: [] for uid in studies.values()}
    for series in ask("/series?expand"):
        found[studies[series["ParentStudy"]]].append(series["MainDicomTags"]["Modality"])
    return {uid: sorted(found[uid]) for uid in found}


def state(folder):
    return json.loads((folder / "state.json").read_text())


def waiting(folder):
    return len(state(folder)["waiting"])


def wait_for(condition):
    """Wait until a condition holds; a server that does not answer yet counts as no.

    Raises:
        TimeoutError: If it does not hold within a minute.
    """
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"line {sys._getframe(1).f_lineno}: not true after {SECONDS} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
