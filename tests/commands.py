"""Commands in processes of their own, and what they import."""

import subprocess
import sys

_SCRIPT = """
import sys
from pneumoseg.cli import main
sys.argv = ["pneumoseg", *sys.argv[1:]]
try:
    main()
finally:
    print("imported", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def run_command(*arguments, cwd=None):
    """Run a command; return the finished process and the names of the packages that it imported."""
    command = [sys.executable, "-c", _SCRIPT, *map(str, arguments)]
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    return finished, set(finished.stderr.rpartition("imported ")[2].split())
