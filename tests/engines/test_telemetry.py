"""Tests that no engine reports its use over the network."""

import subprocess
import sys

SCRIPT = """
import pneumoseg.engines
import nncf.telemetry.wrapper, openvino, openvino.tools.ovc.telemetry_utils, sys
sent = nncf.telemetry.wrapper.telemetry, openvino.tools.ovc.telemetry_utils.init_ovc_telemetry()
found = sorted(name for name in sys.modules if name.startswith("openvino_tele"))
print([type(each).__module__ for each in sent], found)
"""


def test_the_libraries_find_nothing_that_reports_their_use():
    printed = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    assert printed == "['unittest.mock', 'openvino.tools.ovc.telemetry_stub'] ['openvino_telemetry']\n"
