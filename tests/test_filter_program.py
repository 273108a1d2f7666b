"""The program that is started to filter stderr: never another one than Python, and none that does not answer."""

import os
import sys

import pytest

from pneumoseg.tensorflow_log import log_lines_kept


@pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")
@pytest.mark.parametrize(("name", "is_started"), [("Slicer", False), ("python3.99", True)])
def test_lines_appear_without_a_program_that_filters(name, is_started, tmp_path, monkeypatch, capfd):
    program, started = tmp_path / name, tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch '{started}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with log_lines_kept():
        os.write(2, b"I0000 00:00:1795699861.770440    7963 cudart_stub.cc:31] Could not find cuda drivers\n")
    assert capfd.readouterr().err.endswith("Could not find cuda drivers\n")
    assert started.exists() == is_started
