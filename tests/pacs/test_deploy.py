"""The files with which the service is deployed: what they say fits the command line, and each other."""

import base64
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.test_docs import problems

ROOT = Path(__file__).parents[2]


def test_the_unit_starts_a_command_with_options_that_exist():
    unit = (ROOT / "deploy/pneumoseg.service").read_text(encoding="utf-8").replace("\\\n", " ")
    program, *words = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    assert Path(program).name == "pneumoseg"
    assert words[0] == "listen"
    assert problems(words) == []


@pytest.mark.parametrize("name", ["pneumoseg.service", "pneumoseg-forward.service"])
def test_the_units_need_no_new_systemd(name):
    """The specifier %d needs systemd 250; Ubuntu 22.04 has 249."""
    assert "%d" not in (ROOT / "deploy" / name).read_text(encoding="utf-8")


def test_the_forwarder_finds_its_password_and_its_script():
    unit = (ROOT / "deploy/pneumoseg-forward.service").read_text(encoding="utf-8").replace("\\\n", " ")
    words = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    assert words[:3] == ["/usr/bin/env", "NETRC=${CREDENTIALS_DIRECTORY}/netrc", "/usr/bin/python3"]
    assert (ROOT / "deploy" / Path(words[3]).name).exists()
    assert "LoadCredential=netrc:" in unit


def test_the_container_starts_a_command_with_options_that_exist():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (words,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert json.loads(words)[0] == "dicom"
    assert problems(json.loads(words)) == []


def test_the_container_holds_no_data():
    # All files but these are kept out of the build.
    listed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert listed[1] == "*"
    assert {line[1:] for line in listed if line.startswith("!")} == {
        "LICENSE", "README.md", "pneumoseg", "pyproject.toml", "requirements.txt", "setup.cfg",
    }  # fmt: skip


def test_the_viewer_has_the_password_of_the_orthanc():
    users = json.loads((ROOT / "deploy/orthanc.json").read_text(encoding="utf-8"))["RegisteredUsers"]
    site = (ROOT / "deploy/ohif.nginx").read_text(encoding="utf-8")
    user, _, password = base64.b64decode(re.search(r'"Basic (.+?)"', site)[1]).decode().partition(":")
    assert users == {user: password}
